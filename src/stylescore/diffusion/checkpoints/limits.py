"""Checks the numbers in a model's settings, and the names of its weights, before these are loaded.

The libraries that build networks check little: a number too large fills the memory, a zero makes a picture of nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stylescore.diffusion.families import Family
from stylescore.errors import ModelError, quote
from stylescore.storage.safetensors_header import SafetensorsHeader

DOWNLOAD_AGAIN = "download the whole model again"
_LARGEST_NUMBER = 10_000_000
_MOST_LAYERS = 512
_LONGEST_LIST = 1024
_LARGEST_SIDE = 8192
_LARGEST_FACTOR = 1000
_DEEPEST_VAE = 8
_MOST_TIMESTEPS = 10_000
_COUNTS = frozenset(
    {
        *("in_channels", "out_channels", "latent_channels", "block_out_channels", "norm_num_groups", "patch_size"),
        *("layers_per_block", "attention_head_dim", "num_attention_heads", "cross_attention_dim", "num_layers"),
        *("joint_attention_dim", "pooled_projection_dim", "caption_projection_dim", "pos_embed_max_size"),
        *("hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings", "vocab_size"),
        *("projection_dim", "d_model", "d_ff", "d_kv", "num_heads"),
    }
)
"""Settings that count or measure something: each is at least 1, or left out."""
_PACKED = (".absmax", ".quant_map", ".SCB")
"""Endings of tensors that stand beside weights packed into fewer bits."""
_LEVELS = [1] * 4
"""Stands for the resolutions of an autoencoder that is not here yet: every released one has four."""
_STATISTICS = ("latents_mean", "latents_std")
_HARMLESS = frozenset({"dtype", "torch_dtype", "architectures", "model_type", "transformers_version"})
"""Settings that change nothing of what an autoencoder computes."""

_SCALED = (".scale_weight", ".weight_scale", ".scale_input", ".input_scale", "scaled_fp8")
"""Endings of tensors by which the weights of an fp8 checkpoint have to be multiplied."""


def refuse_scaled(file: Path, header: SafetensorsHeader) -> None:
    """Raise `ModelError` if the names of a file's tensors show that its weights are stored divided by factors."""
    scale = next((name for name in header.tensors if name.endswith(_SCALED)), None)
    if scale is not None:
        reason = f"its weights are scaled, as {quote(scale)} shows, which is not supported"
        raise ModelError(f"{str(file)!r} cannot be used: {reason}", hint="get the model in float16 or bfloat16")


def refuse_packed(file: Path, names: Iterable[str]) -> None:
    """Raise `ModelError` if a single file's tensors are quantised by bitsandbytes, which only folders can state."""
    packed = next((name for name in names if name.endswith(_PACKED)), None)
    if packed is not None:
        reason = f"its weights are quantised, as {quote(packed)} shows, in a way that a single file does not describe"
        raise ModelError(f"{str(file)!r} cannot be used: {reason}", hint="get it as GGUF, or in float16 or bfloat16")


def check_settings(name: str, family: Family, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `ModelError` for settings that no working model has.

    Args:
        name: the model's name.
        family: the family it belongs to.
        configs: the settings of its networks and its scheduler, by the name of their subfolder.
    """
    for spec in family.networks:
        for key, value in configs.get(spec.name, {}).items():
            _check_number(f"the {spec.name} of {name!r}", key, value)
    levels = _LEVELS
    if "vae" in configs:
        check_vae(name, configs["vae"])
        levels = configs["vae"].get("block_out_channels", [64])
    cells = configs[family.network.name].get("sample_size")
    if cells is not None:
        check_sample_size(name, family.network.name, cells, 2 ** (len(levels) - 1))
    if not family.is_flow:
        check_schedule(name, configs["scheduler"])


def _check_number(part: str, name: str, value: Any) -> None:
    """Check one setting of a network, at any depth."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_number(part, f"{name}.{key}", entry)
        return
    if isinstance(value, list):
        _require_at_most(part, f"the length of {name}", len(value), _LONGEST_LIST)
    elif isinstance(value, int | float):
        _require_at_most(part, name, value, _MOST_LAYERS if "layers" in name else _LARGEST_NUMBER)
    if name in _COUNTS and value is not None:
        _require_counts(part, name, value)
    for entry in value if isinstance(value, list) else ():
        _check_number(part, name, entry)


def _require_at_most(part: str, name: str, value: float, largest: int) -> None:
    if not abs(value) <= largest:
        raise ModelError(f"{part} has {quote(value)} for {name}, at most {largest:,} is possible", hint=DOWNLOAD_AGAIN)


def _require_counts(part: str, name: str, value: Any) -> None:
    entries = value if isinstance(value, list) else [value]
    wrong = next((entry for entry in entries if type(entry) is not int or entry < 1), None)
    if wrong is not None or not entries:
        reason = f"{name} must be a whole number above 0, not {quote(wrong if entries else value)}"
        raise ModelError(f"{part} cannot be used: {reason}", hint=DOWNLOAD_AGAIN)


def check_vae(name: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` for settings of an autoencoder that would make latents infinite, nothing, or wrong."""
    part = f"the vae of {name!r} cannot be used"
    factor, shift = config.get("scaling_factor", 1.0), config.get("shift_factor") or 0.0
    if not _is_number(factor) or not 0 < factor <= _LARGEST_FACTOR:
        reason = f"scaling_factor must be a number above 0 and at most {_LARGEST_FACTOR:,}, not {quote(factor)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    if not _is_number(shift) or not abs(shift) <= _LARGEST_FACTOR:
        reason = f"shift_factor must be a number of at most {_LARGEST_FACTOR:,}, not {quote(shift)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    levels = config.get("block_out_channels", [64])
    if not isinstance(levels, Sequence) or not 1 <= len(levels) <= _DEEPEST_VAE:
        reason = f"block_out_channels must be a list of 1 to {_DEEPEST_VAE} numbers, not {quote(levels)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    _check_statistics(part, config)
    _refuse_unknown(part, config)


def _check_statistics(part: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` unless mean and deviation of the latents are given for every channel, or not at all."""
    mean, deviation = (config.get(key) for key in _STATISTICS)
    if mean is None and deviation is None:
        return
    for key, value in zip(_STATISTICS, (mean, deviation), strict=True):
        channels = config.get("latent_channels", 4)
        if not isinstance(value, list) or len(value) != channels or not all(_is_small(number) for number in value):
            reason = f"{key} must be a list of {channels} numbers of at most {_LARGEST_FACTOR:,}, not {quote(value)}"
            raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    if min(deviation or [1]) <= 0:
        raise ModelError(f"{part}: latents_std must be above 0, not {quote(deviation)}", hint=DOWNLOAD_AGAIN)
    if config.get("shift_factor"):
        raise ModelError(
            f"{part}: it has both latents_mean and shift_factor, which no known model has",
            hint="choose another autoencoder with --vae",
        )


def _is_small(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _LARGEST_FACTOR


def _refuse_unknown(part: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` for a setting that diffusers' autoencoder does not have, so that it would be dropped."""
    from diffusers import AutoencoderKL

    known = {*inspect.signature(AutoencoderKL).parameters, *_HARMLESS}
    unknown = next((key for key, value in config.items() if not _is_known(key, value, known)), None)
    if unknown is not None:
        raise ModelError(
            f"{part}: its setting {quote(unknown)} is not known here, and may change the pictures",
            hint="choose another autoencoder with --vae",
        )


def _is_known(key: str, value: Any, known: Collection[str]) -> bool:
    return key in known or key.startswith("_") or value is None


def check_sample_size(name: str, part: str, cells: Any, scale: int) -> int:
    """Return the side of the training pictures in pixels, the smaller one of two.

    Args:
        name: the model's name.
        part: the name of its denoising network.
        cells: the network's `sample_size`, in latent cells.
        scale: pixels per latent cell.

    Raises:
        ModelError: no picture has this size.
    """
    sides = list(cells) if isinstance(cells, list | tuple) else [cells]
    if len(sides) in (1, 2) and all(type(side) is int for side in sides) and 8 <= min(sides) * scale <= _LARGEST_SIDE:
        return int(min(sides)) * scale
    raise ModelError(
        f"the {part} of {name!r} cannot be used: sample_size must be a whole number of latent cells that makes between "
        f"8 and {_LARGEST_SIDE:,} pixels, at {scale} a cell, not {quote(cells)}",
        hint=DOWNLOAD_AGAIN,
    )


def check_schedule(name: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` for settings of a noise schedule that describe none."""
    part, steps = f"the scheduler of {name!r} cannot be used", config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= _MOST_TIMESTEPS:
        reason = f"num_train_timesteps must be a whole number between 1 and {_MOST_TIMESTEPS:,}, not {quote(steps)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    listed = config.get("trained_betas")
    if listed is not None and (not isinstance(listed, list) or not 1 <= len(listed) <= _MOST_TIMESTEPS):
        reason = f"trained_betas must be a list of 1 to {_MOST_TIMESTEPS:,} numbers, not {quote(listed)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)
    betas = [config[key] for key in ("beta_start", "beta_end") if key in config] + (listed or [])
    wrong = next((beta for beta in betas if not _is_number(beta) or not 0 < beta <= 1), None)
    if wrong is not None or None in betas:
        reason = f"a beta must be a number above 0 and at most 1, not {quote(wrong)}"
        raise ModelError(f"{part}: {reason}", hint=DOWNLOAD_AGAIN)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
