"""A stylizer's models under several configurations, and a batch whose photos have captions of their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.config.method import MethodConfig
from stylescore.config.presets import load
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError
from stylescore.images import with_mask
from stylescore.method.fit import Fitting, fit
from stylescore.method.state import capture
from stylescore.method.types import Latent

PARITY = Path(__file__).parents[1] / "data" / "parity"
STYLE = str(PARITY / "style_lora_kohya.safetensors")


def run_config(method: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    constants = overlay(load("balanced"), {"iterations": 2, **(method or {})})
    return RunConfig(
        styles=(StyleChoice(name=STYLE),), model=str(PARITY / "tiny_base"), size=64, method=constants, **more
    )


def latents(stylizer: Stylizer, captions: list[str] | None = None, count: int = 1) -> Latent:
    fitting = stylizer.start([read_photo(PARITY / "input_128x128.png")] * count, captions=captions)
    for _ in fit(fitting):
        pass
    return fitting.subject.render()


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    return Stylizer(run_config())


@pytest.mark.parametrize(
    "other",
    [
        run_config({"method": "vsd", "guidance_scale": 2.0}),
        run_config({"fake": {"rank": 2}, "spectrum": {"weight": 0.0}}, content=0.9, seed=4),
        run_config({"iterations": 1}, caption="a cat"),
        run_config(style_prompt="other words"),
        run_config({"fake": {"targets": ["to_k", "conv1"]}}),
    ],
)
def test_another_run_on_loaded_models_is_that_run(stylizer: Stylizer, other: RunConfig) -> None:
    latents(stylizer)
    assert torch.equal(latents(stylizer.with_run(other)), latents(Stylizer(other)))


def test_the_first_run_is_not_changed_by_another(stylizer: Stylizer) -> None:
    before = latents(stylizer)
    latents(stylizer.with_run(run_config({"method": "vsd"}, seed=3)))
    assert stylizer.run == run_config()
    assert torch.equal(latents(stylizer), before)


def test_runs_on_the_same_networks_may_alternate(stylizer: Stylizer) -> None:
    """The fake adapter of a run, whatever its targets and batch, is unknown to another run on the same networks."""
    other = stylizer.with_run(run_config({"fake": {"targets": ["to_k"], "rank": 2}}))
    photo = read_photo(PARITY / "input_128x128.png")
    expected = [latents(stylizer), latents(other)]
    pair = stylizer.start([photo, photo])
    runs = [stylizer.start([photo]), other.start([photo])]
    for _ in zip(*(fit(fitting) for fitting in (*runs, pair)), strict=True):
        pass
    assert all(torch.equal(run.subject.render(), wanted) for run, wanted in zip(runs, expected, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_caller_may_have_switched_gradients_off(stylizer: Stylizer, mode: Any) -> None:
    expected = latents(stylizer)
    with mode():
        found = latents(Stylizer(run_config()))
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("method", "name"),
    [({"timesteps": {"t_max": 998}}, "timesteps.t_max"), ({"fake": {"t_max": 998}}, "fake.t_max")],
)
def test_a_timestep_that_the_model_does_not_have_is_refused(tmp_path: Path, method: dict[str, Any], name: str) -> None:
    folder = shutil.copytree(PARITY / "tiny_base", tmp_path / "short")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_train_timesteps": 600}))
    with pytest.raises(ConfigError, match=rf"^{name} must be below the model's number of timesteps, 600, not 998"):
        Stylizer(replace(run_config(method), model=str(folder)))


def test_the_size_may_differ(stylizer: Stylizer) -> None:
    photo = read_photo(PARITY / "input_128x128.png")
    assert stylizer.with_run(replace(run_config(), size=96)).working_size(photo) == (96, 96)
    assert stylizer.working_size(photo) == (64, 64)


@pytest.mark.parametrize(
    "other",
    [
        run_config({"style_strength": 0.5}),
        run_config({"text_encoder_lora": False}),
        replace(run_config(), styles=(StyleChoice(name=STYLE, weight=0.5),)),
        replace(run_config(), model="mini"),
    ],
)
def test_what_would_have_to_be_loaded_is_refused(stylizer: Stylizer, other: RunConfig) -> None:
    with pytest.raises(ConfigError, match="fixed once loaded"):
        stylizer.with_run(other)


def test_numbers_are_checked_again(stylizer: Stylizer) -> None:
    with pytest.raises(ConfigError, match="content"):
        stylizer.with_run(run_config(content=2.0))
    with pytest.raises(ConfigError, match=r"fake\.targets"):
        stylizer.with_run(replace(run_config(), method=overlay(MethodConfig(), {"fake": {"targets": ["nothing"]}})))


def test_captions_of_a_batch_are_each_for_its_photo(stylizer: Stylizer) -> None:
    both = latents(stylizer, ["a cat", "a red car"], count=2)
    alone = [latents(stylizer, [caption]) for caption in ("a cat", "a red car")]
    assert torch.allclose(both, torch.cat(alone), atol=1e-4)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)
    with pytest.raises(ConfigError, match="not 1 for 2"):
        latents(stylizer, ["a cat"], count=2)


REFINED = {"refine": {"factor": 2.0, "iterations": 2, "t_max": 101}, "optimiser": {"lr": 0.05}, "fake": {"rank": 2}}
PHOTO = PARITY / "input_128x128.png"


def refining(size: int | None = None, **method: Any) -> RunConfig:
    """Return a run that begins at the tiny model's 64 pixels and refines at the photo's 128."""
    return replace(run_config(overlay_of(REFINED, method)), size=size)


def overlay_of(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    return {key: {**below.get(key, {}), **above[key]} if key in above else below[key] for key in below | above}


def native(run: RunConfig, side: int = 64) -> Stylizer:
    """Return a stylizer that takes `side` pixels for the tiny model's native resolution."""
    stylizer = Stylizer(run)
    stylizer._networks = replace(stylizer._networks, native_size=side)
    return stylizer


@pytest.mark.parametrize(
    ("factor", "size", "worked", "begun"),
    [
        (1.0, None, 64, 64),
        (1.0, 128, 128, 128),
        (2.0, None, 128, 64),
        (1.5, None, 96, 64),
        (8.0, None, 128, 64),
        (1.2, None, 64, 64),
        (2.0, 64, 64, 64),
        (2.0, 96, 96, 64),
    ],
)
def test_a_size_is_the_users_else_the_photos_as_far_as_the_preset_goes(
    factor: float, size: int | None, worked: int, begun: int
) -> None:
    stylizer = native(refining(size, refine={"factor": factor}))
    assert stylizer.working_size(read_photo(PHOTO)) == (worked, worked)
    assert stylizer.coarse_size((worked, worked)) == (begun, begun)


@pytest.mark.parametrize("maps", [0, 3])
def test_a_refined_run_grows_once_and_stays_at_small_timesteps(maps: int) -> None:
    stylizer = native(refining(relevance={"timesteps": maps}, fake={"rank": 2, "sampler": "run"}))
    fitting = stylizer.start([read_photo(PHOTO)])
    seen = [(tuple(fitting.subject.render().shape[-2:]), step.step.t.item(), step.fake) for step in fit(fitting)]
    assert [shape for shape, _, _ in seen] == [(8, 8)] * 2 + [(16, 16)] * 2
    assert all(t <= 101 and fake is not None and fake.t.item() <= 101 for _, t, fake in seen[2:])
    assert fitting.growth is None
    assert stylizer.picture(fitting, 0).size == (128, 128)


def test_the_adapter_of_the_fake_score_comes_along() -> None:
    stylizer = native(refining())
    fitting = stylizer.start([read_photo(PHOTO)])
    run = fit(fitting)
    next(run), next(run)
    before = [p.detach().clone() for p in fitting.fake.parameters]  # type: ignore[union-attr]
    moments = len(fitting.fake.optimiser.state)  # type: ignore[union-attr]
    assert fitting.growth is not None
    fitting.growth.apply(fitting)
    assert all(torch.equal(a, b) for a, b in zip(before, fitting.fake.parameters, strict=True))  # type: ignore
    assert len(fitting.fake.optimiser.state) == moments > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_refined_run_that_is_taken_up_ends_in_the_same_bits(done: int) -> None:
    photo = read_photo(PHOTO)

    def ended(fitting: Fitting) -> Latent:
        for _ in fit(fitting):
            pass
        return fitting.subject.render()

    straight = ended(native(refining()).start([photo]))
    left = native(refining()).start([photo])
    for _ in fit(left):
        if left.iteration == done:
            break
    state = capture(left, 0)
    assert torch.equal(straight, ended(native(refining()).start([photo], [state])))


def test_the_learning_rate_falls_over_the_whole_of_a_refined_run() -> None:
    rates = {"name": "adamw", "lr": 0.05, "warmup": 0, "warmup_fraction": 0.0, "cosine_length": 1.0}
    stylizer = native(refining(optimiser=rates))
    seen = [step.learning_rate for step in fit(stylizer.start([read_photo(PHOTO)]))]
    assert len(seen) == 4
    assert seen == sorted(seen, reverse=True)
    assert seen[2] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("method", "sides"),
    [
        ({"refine": {"factor": 1.0}}, [16] * 2),
        ({"refine": {"factor": 1.0}, "method": "vsd"}, [16] * 2),
        ({"refine": {"factor": 1.0}, "relevance": {"timesteps": 3}}, [16] * 2),
        ({}, [8, 8, 16, 16]),
        ({"relevance": {"timesteps": 3}}, [8, 8, 16, 16]),
    ],
)
def test_no_step_moves_the_latent_where_the_mask_is_black(method: dict[str, Any], sides: list[int]) -> None:
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (64, 0, 128, 128))
    photo = with_mask(read_photo(PHOTO), mask, feather=0)
    parts = {key: value for key, value in method.items() if key != "method"}
    name = method.get("method", "sms")
    run = run_config({**overlay_of(REFINED, parts), "spectrum": {"weight": 0.0}, "method": name})
    steps = [iteration.step for iteration in fit(native(replace(run, size=128)).start([photo]))]
    assert [step.gradient.shape[-1] for step in steps] == sides
    for step in steps:
        half = step.gradient.shape[-1] // 2
        assert not step.relevance[..., :half].any()
        assert not step.gradient[..., :half].any()
        assert step.gradient[..., half:].any()
