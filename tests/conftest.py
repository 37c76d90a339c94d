"""Shared fixtures: one thread, no internet, checked shapes, the recorded reference data and its tiny model."""

# The environment and the checker must be set before torch and stylescore are imported.
# ruff: noqa: E402

from __future__ import annotations

import os
import signal
import tempfile

# A shell's background job ignores interrupts, and so would the programs that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HUB_CACHE"] = os.path.join(tempfile.gettempdir(), "stylescore-tests-have-no-hub-cache")

import sys
from types import ModuleType
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception
from jaxtyping import install_import_hook

PUBLIC_CALLS = {
    *("stylize", "make_run", "make_styles", "settings_table", "read_photo", "open_picture", "RunConfig.__init__"),
    *("Stylizer.load", "Stylizer.stylize", "Stylizer.split", "Stylizer.__init__"),
}


def check_types(function: Any) -> Any:
    """Check a function's types and shapes when it is called, unless it takes a protocol that has no check.

    Calls that programs make are left out: they check their arguments themselves, and are tested with wrong ones.
    """
    if function.__qualname__ in PUBLIC_CALLS:
        return function
    try:
        return beartype(function, conf=BeartypeConf(is_pep484_tower=True))
    except BeartypeDecorHintPep3119Exception:
        return function


# The hook finds its checker by the name of a module, and this file has none.
sys.modules["type_checker"] = ModuleType("type_checker")
sys.modules["type_checker"].check_types = check_types  # type: ignore[attr-defined]
install_import_hook(["stylescore", "stylescore_apply"], "type_checker.check_types")

import json
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file
from torch import Tensor

from stylescore.method.schedule import NoiseSchedule

torch.set_num_threads(1)
settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")

PARITY = Path(__file__).parent / "data" / "parity"

Rngs = Callable[..., list[torch.Generator]]


def stable_diffusion_schedule() -> NoiseSchedule:
    """Return Stable Diffusion's schedule on the grid t = 2k + 1."""
    return NoiseSchedule(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2)


@pytest.fixture(scope="session")
def schedule() -> NoiseSchedule:
    return stable_diffusion_schedule()


@pytest.fixture(scope="session")
def rngs() -> Rngs:
    """Return one generator for each seed."""
    return lambda *seeds: [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="session")
def parity() -> Path:
    """Return the folder of the recorded reference run."""
    return PARITY


@pytest.fixture(scope="session")
def units(parity: Path) -> dict[str, Tensor]:
    """Return the reference's recorded pieces."""
    return load_file(parity / "golden" / "units.safetensors")


@pytest.fixture(scope="session")
def units_table(parity: Path) -> dict[str, Any]:
    return json.loads((parity / "golden" / "units.json").read_text(encoding="utf-8"))


@cache
def tiny_parts() -> tuple[Any, Any, Any, Any]:
    """Load U-Net, autoencoder, tokenizer and text model of the tiny Stable Diffusion, once."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = PARITY / "tiny_base"
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder")
    for model in (unet, vae, text):
        model.requires_grad_(False).eval()
    return unet, vae, tokenizer, text


@pytest.fixture(scope="session")
def style_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a picture for the methods that take their style from one."""
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("style") / "style.png"
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((96, 64)).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_unet() -> Callable[[], Any]:
    """Return a maker of untouched copies of the tiny U-Net."""
    return lambda: deepcopy(tiny_parts()[0])


@pytest.fixture(scope="session")
def tiny_style() -> Callable[[Any], Any]:
    """Return a maker of the recorded style LoRA's deltas, fitted to a U-Net."""
    from stylescore.diffusion.adapters import adaptable
    from stylescore.lora import bind, read_lora

    return lambda unet: bind(read_lora(PARITY / "style_lora_kohya.safetensors"), adaptable(unet))


@pytest.fixture(scope="session")
def tiny_models(tiny_unet: Callable[[], Any], tiny_style: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a maker of a run's networks: the tiny model, its style LoRA in one shared base."""
    from stylescore.assembly.networks import Networks
    from stylescore.diffusion.adapters import Adapters
    from stylescore.diffusion.backbone import Backbone
    from stylescore.diffusion.codec import Codec
    from stylescore.diffusion.families import sd
    from stylescore.diffusion.predictions import VariancePreserving
    from stylescore.diffusion.text import TextEncoder, TextModel

    def make(strength: float = 0.8) -> Networks:
        unet = tiny_unet()
        adapters = Adapters.of(unet)
        adapters.add_style(tiny_style(unet), strength)
        backbone = Backbone(unet, adapters, VariancePreserving(stable_diffusion_schedule()), sd.call)
        _, vae, tokenizer, text = tiny_parts()
        encoder = TextEncoder((TextModel("text_encoder", tokenizer, text, 77),), sd.SdEncode())
        return Networks(base=backbone, style=backbone, codec=Codec(vae), text=encoder, style_text=encoder)

    return make
