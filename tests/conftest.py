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

import inspect
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial, wraps
from types import CodeType, ModuleType
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception
from jaxtyping import AbstractArray, install_import_hook, jaxtyped

PUBLIC_CALLS = {
    *("stylize", "make_run", "make_styles", "settings_table", "read_photo", "open_picture", "RunConfig.__init__"),
    *("Stylizer.load", "Stylizer.stylize", "Stylizer.split", "Stylizer.__init__"),
}

WITHOUT_CHECK: set[CodeType] = set()
"""Of functions inside functions."""


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


def check_shapes_where_stated(target: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Check a function or dataclass as jaxtyping does, and without its costly wrapper where no shape is stated.

    Functions inside functions are made anew at each call, and a check would be compiled anew: without shapes they have
    none.
    """
    if target is None:
        return partial(check_shapes_where_stated, typechecker=typechecker)
    if getattr(target, "__code__", None) in WITHOUT_CHECK or (inspect.isclass(target) and not is_dataclass(target)):
        return target
    function = target.__init__ if inspect.isclass(target) else target
    hints = {name: resolved(hint, function) for name, hint in function.__annotations__.items()}
    if any(map(states_shape, hints.values())):
        return jaxtyped(target, typechecker=typechecker)
    if function is target and "<locals>" in function.__qualname__:
        WITHOUT_CHECK.add(function.__code__)
        return function
    stated, function.__annotations__ = function.__annotations__, hints
    checked = typechecker(function)
    function.__annotations__ = stated

    @wraps(function)
    def check_if_asked(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    if function is target:
        return check_if_asked
    target.__init__ = check_if_asked
    return target


def resolved(hint: Any, function: Any) -> Any:
    """Return what a text means in the module of a function; `Any` for names that only type checkers import."""
    holder = type("", (), {"__annotations__": {"hint": hint}})
    try:
        return get_type_hints(holder, vars(sys.modules[function.__module__]), include_extras=True)["hint"]
    except Exception:  # a hint is evaluated, so anything may be raised
        return Any


def states_shape(hint: Any) -> bool:
    """Tell whether a type, or one inside it, is an array of a shape."""
    is_array = inspect.isclass(hint) and issubclass(hint, AbstractArray)
    return is_array or any(map(states_shape, hint if isinstance(hint, list) else get_args(hint)))


# The hook finds its checker by the name of a module, and this file has none.
sys.modules["type_checker"] = ModuleType("type_checker")
sys.modules["type_checker"].check_types = check_types  # type: ignore[attr-defined]
jaxtyping.jaxtyped = check_shapes_where_stated
install_import_hook(["stylescore", "stylescore_apply"], "type_checker.check_types")

import json
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
