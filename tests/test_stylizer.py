"""A stylizer's models under several configurations, and a batch whose photos have captions of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.config import MethodConfig
from stylescore.errors import ConfigError
from stylescore.fit import fit
from stylescore.presets import load
from stylescore.tables import overlay
from stylescore.types import Latent

PARITY = Path(__file__).parent / "data" / "parity"
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


def test_the_size_may_differ(stylizer: Stylizer) -> None:
    assert stylizer.with_run(replace(run_config(), size=96)).short_side == 96
    assert stylizer.short_side == 64


@pytest.mark.parametrize(
    "other",
    [
        run_config({"style_strength": 0.5}),
        run_config({"text_encoder_lora": False}),
        run_config(style_prompt="other words"),
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
    with pytest.raises(ConfigError, match="got 1 for 2"):
        latents(stylizer, ["a cat"], count=2)
