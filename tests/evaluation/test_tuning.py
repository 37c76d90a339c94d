"""The search for a content knob: on functions with a known answer, and on the tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.method import MethodConfig, RefineConfig
from stylescore.errors import ConfigError
from stylescore.evaluation.tuning import Trial, best_trial, make_measure, search_content, shorten
from stylescore.images import as_photo
from stylescore.metrics.perceptual import PerceptualDistance
from stylescore.metrics.states import read_state


def falling(content: float) -> float:
    """Fall from 0.8 to 0.2, steeply at first."""
    return 0.2 + 0.6 * (1 - content) ** 3


def search(wanted: float, trials: int = 20, tolerance: float = 0.001) -> list[Trial]:
    return list(search_content(falling, wanted, trials=trials, tolerance=tolerance))


@pytest.mark.parametrize("content", [0.1, 0.37, 0.5, 0.9])
def test_the_knob_of_a_falling_distance_is_found(content: float) -> None:
    found = best_trial(search(falling(content)), falling(content))
    assert found.distance == pytest.approx(falling(content), abs=0.001)
    assert found.distance == falling(found.content)


def test_every_trial_halves_what_is_left() -> None:
    contents = [trial.content for trial in search(falling(0.3), tolerance=1e-6, trials=7)]
    assert contents == [0, 1, 0.5, 0.25, 0.375, 0.3125, 0.28125]


@pytest.mark.parametrize(("wanted", "contents"), [(0.9, [0]), (0.8, [0]), (0.1, [0, 1]), (0.2, [0, 1])])
def test_what_lies_beyond_the_ends_ends_the_search(wanted: float, contents: list[float]) -> None:
    trials = search(wanted)
    assert [trial.content for trial in trials] == contents
    assert best_trial(trials, wanted).content == contents[-1]


def test_it_stops_at_the_tolerance_or_after_the_trials() -> None:
    assert len(search(falling(0.5), tolerance=0.05)) == 3
    assert len(search(falling(0.3), trials=5, tolerance=1e-9)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wanted": 0.0}, "--distance must be above 0"),
        ({"wanted": 10.0}, "--distance must be above 0 and below 10, not 10"),
        ({"wanted": float("nan")}, "--distance must be"),
        ({"trials": 2}, "--trials must be from 3 to 20, not 2"),
        ({"trials": 21}, "--trials must be"),
        ({"tolerance": 0.0}, "--tolerance must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    given = {"wanted": 0.3, "trials": 5, "tolerance": 0.01} | change
    with pytest.raises(ConfigError, match=message):
        next(search_content(falling, given["wanted"], trials=int(given["trials"]), tolerance=given["tolerance"]))


@pytest.mark.parametrize(("whole", "short"), [(500, 166), (200, 66), (60, 30), (30, 30), (4, 4)])
def test_a_short_run_has_a_third_but_no_fewer_than_thirty_iterations(whole: int, short: int) -> None:
    found = shorten(replace(MethodConfig(), iterations=whole, refine=RefineConfig(factor=2.0)))
    assert (found.iterations, found.refine.factor) == (short, 1)


def test_a_measurement_is_the_distance_of_a_run_with_this_knob(parity: Path, st_lpips_file: str) -> None:
    style = parity / "style_lora_kohya.safetensors"
    constants = {"warmup_fraction": 0.0, "warmup": 0}
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    photo = as_photo(Image.fromarray(pixels))
    network = PerceptualDistance.from_state(read_state(Path(st_lpips_file)))
    with Stylizer.load(
        str(style), model=str(parity / "tiny_base"), iterations=3, settings={"optimiser": constants}, device="cpu"
    ) as stylizer:
        measure = make_measure(stylizer, photo, network)
        loose, tight = measure(0.0), measure(1.0)
        again = measure(0.0)
        run = stylizer.with_run(replace(stylizer.run, content=1.0))
        result = run.stylize(photo, progress=False)
    from stylescore.images import to_tensor

    size = result.model_picture.size
    with torch.no_grad():
        expected = network(to_tensor(photo.picture, size), to_tensor(result.model_picture, size))
    assert tight == pytest.approx(float(expected), rel=1e-4)
    assert again == loose
    assert loose != tight
