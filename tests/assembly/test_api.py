"""The Python front end: one function, and the stylizer behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stylescore
from stylescore import InputError, Iteration, NonFiniteError, RunConfig, StyleChoice, Stylizer, read_photo, stylize
from stylescore.config.presets import load
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError, PictureError, StyleError
from stylescore.method.fit import fit

PARITY = Path(__file__).parents[1] / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
STYLE = str(PARITY / "style_lora_kohya.safetensors")
TINY = str(PARITY / "tiny_base")


def quick(photo: Any = PHOTO, iterations: int = 2, **more: Any) -> stylescore.Result:
    settings = {"iterations": iterations} | more.pop("settings", {})
    return stylize(photo, STYLE, **({"model": TINY, "size": 64, "settings": settings} | more))


def run_config(iterations: int, **more: Any) -> RunConfig:
    method = overlay(load("balanced"), {"iterations": iterations})
    return RunConfig(styles=(StyleChoice(name=STYLE),), model=TINY, size=64, method=method, **more)


class TestStylize:
    def test_a_file_and_a_picture_in_memory_give_the_same(self) -> None:
        from_file, in_memory = quick(str(PHOTO)), quick(Image.open(PHOTO))

        assert from_file.picture.size == (128, 128)
        assert from_file.model_picture.size == (64, 64)
        assert from_file.before_after.width > 2 * 128
        assert from_file.picture.tobytes() == in_memory.picture.tobytes()

    def test_transparency_in_memory_is_kept(self) -> None:
        source = Image.open(PHOTO).convert("RGB")
        source.putalpha(Image.linear_gradient("L").resize(source.size))

        result = quick(source, iterations=1)

        assert result.picture.mode == "RGBA"
        assert result.picture.getchannel("A").tobytes() == source.getchannel("A").tobytes()

    def test_every_iteration_is_reported(self) -> None:
        seen: list[Iteration] = []

        quick(iterations=3, on_iteration=seen.append)

        assert [iteration.index for iteration in seen] == [0, 1, 2]

    def test_the_method_is_chosen_by_name(self) -> None:
        seen: list[Iteration] = []

        quick(iterations=1, method="dds", on_iteration=seen.append)

        assert seen[0].fake is None

    @pytest.mark.parametrize(
        ("more", "kind", "words"),
        [
            ({"settings": {"iteratoins": 3}}, ConfigError, "unknown setting 'iteratoins'"),
            ({"contents": 0.4}, ConfigError, "unknown setting 'contents'"),
            ({"content": 2}, ConfigError, "content must be between 0 and 1, not 2.0"),
            ({"seed": 1.5}, ConfigError, "seed must be a whole number, not 1.5"),
            ({"photo": "none.png"}, PictureError, "there is no file 'none.png'"),
            ({"photo": Image.new("RGB", (400, 20))}, PictureError, "too elongated"),
        ],
    )
    def test_bad_input(self, more: dict[str, Any], kind: type[InputError], words: str) -> None:
        with pytest.raises(kind) as caught:
            quick(**more)

        assert str(caught.value).startswith(words) or words in str(caught.value)
        assert caught.value.hint
        assert caught.value.exit_code == 2

    def test_an_unknown_style(self) -> None:
        with pytest.raises(StyleError, match="there is no style 'nothing'"):
            stylize(PHOTO, "nothing", model=TINY)

    def test_not_a_number_stops_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forward = torch.nn.Linear.forward
        monkeypatch.setattr(torch.nn.Linear, "forward", lambda layer, x: forward(layer, x) * torch.inf)

        with pytest.raises(NonFiniteError) as caught:
            quick()

        assert caught.value.iteration == 0
        assert len(caught.value.timesteps) == 1
        assert caught.value.exit_code == 1


class TestContentKnob:
    """From 0, the strongest style, to 1, the strongest content: the latent stays nearer and nearer to the source."""

    def test_distance_to_the_source_falls(self) -> None:
        photo = read_photo(PHOTO)

        def distance(content: float) -> float:
            fitting = Stylizer(run_config(10, content=content)).start([photo])
            for _ in fit(fitting):
                pass
            return float((fitting.subject.render() - fitting.subject.z_source).abs().mean())

        distances = [distance(content) for content in (0.0, 0.5, 0.75, 1.0)]

        assert distances == sorted(distances, reverse=True)
        assert distances[-1] < distances[0] / 2


class TestStylizer:
    def test_one_stylizer_serves_many_batches(self) -> None:
        stylizer, photo = Stylizer(run_config(2)), read_photo(PHOTO)

        first, second = ([*stylizer([photo])][-1].picture for _ in range(2))

        assert np.array_equal(np.asarray(first), np.asarray(second))

    def test_iterations_come_before_results(self) -> None:
        photo = read_photo(PHOTO)

        events = list(Stylizer(run_config(2))([photo, photo]))

        assert [type(event).__name__ for event in events] == ["Iteration", "Iteration", "Result", "Result"]

    def test_sides_are_what_the_model_takes(self) -> None:
        stylizer, photo = Stylizer(run_config(1)), read_photo(PHOTO)

        assert stylizer.working_size(photo) == (64, 64)
        assert stylizer.device.type in ("cpu", "cuda", "mps")

    def test_the_bare_minimum_of_a_configuration(self) -> None:
        with pytest.raises(ConfigError, match="a run needs at least one style"):
            Stylizer(RunConfig(styles=()))
