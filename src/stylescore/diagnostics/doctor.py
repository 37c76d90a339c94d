"""Collects the facts that `stylescore doctor` prints about this machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stylescore._version import __version__
from stylescore.catalog.registry import BUNDLED_MODELS, list_styles, resolve_model, user_styles_dir
from stylescore.config.presets import preset_for
from stylescore.diagnostics.estimates import estimate_needs, measure_matrix_speed
from stylescore.diagnostics.verdicts import judge_families, judge_mini
from stylescore.errors import ModelError, count_of

_PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "pillow", "numpy")
_OPTIONAL_PACKAGES = {"pillow-heif": "HEIC photos (pip install 'stylescore[heic]')"}
_GIB = 2**30


def examine() -> dict[str, Any]:
    """Collect what works here, and facts about the program, packages, devices, memory and models, by name."""
    return {
        **_judge_models(),
        "stylescore": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": [f"{name} {_package_version(name)}" for name in _PACKAGES],
        "missing": [
            f"{name}, for {use}" for name, use in _OPTIONAL_PACKAGES.items() if _package_version(name) == "missing"
        ],
        "cores": os.cpu_count(),
        "memory": _total_memory(),
        "devices": _list_devices(),
        "default_device": _default_device(),
        "models": [f"{name} ({_model_location(name)})" for name in BUNDLED_MODELS],
        "working_sizes": [f"{name}: {_working_sizes(name)}" for name in BUNDLED_MODELS],
        "styles": [entry.name for entry in list_styles()],
        "style_folder": str(user_styles_dir()),
        "download_cache": str(_hub_cache()),
        "would_download": "nothing for bundled models and styles; a hub id is downloaded on first use",
    }


def versions() -> dict[str, Any]:
    """Return what a result depends on besides its settings: versions and the device, by name."""
    return {
        "stylescore": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        **{name: _package_version(name) for name in _PACKAGES},
        "device": _default_device(),
    }


def _package_version(package: str) -> str:
    """Return a package's version, or "missing"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _total_memory() -> str:
    """Return the machine's memory, or an empty text if the system does not state it."""
    total = _memory_bytes()
    return "" if total is None else f"{total / _GIB:.1f} GiB"


def _memory_bytes() -> int | None:
    """Return the machine's memory in bytes, or `None` if the system does not state it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _list_devices() -> list[str]:
    """Return the devices torch can use, with their memory."""
    import torch

    found = [f"cpu ({count_of(torch.get_num_threads(), 'thread')})"]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} ({gpu.name}, {gpu.total_memory / _GIB:.0f} GiB)")
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def _default_device() -> str:
    """Return the device and precision that `auto` stands for."""
    from stylescore.diffusion.execution.devices import best_device, pick_device, pick_dtype

    device = pick_device(best_device())
    return f"{device}, {str(pick_dtype('auto', device)).removeprefix('torch.')}"


def _judge_models() -> dict[str, Any]:
    """Measure the default device's speed in matrix products, and judge which models can make a picture on it."""
    import torch

    from stylescore.diffusion.execution.devices import pick_device, pick_dtype

    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    speed = measure_matrix_speed(device, dtype)
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else _memory_bytes()
    available = None if total is None else round(total / 1e9, 1)
    needs = estimate_needs(device, dtype.itemsize, speed)
    mini = judge_mini(_model_location("mini") != "missing", available, speed)
    return {
        "works": [asdict(verdict) for verdict in (mini, *judge_families(needs, available))],
        "matrix_products": f"{speed / 1e9:.0f} GFLOP/s",
        "needs": [asdict(need) for need in needs],
    }


def _model_location(model: str) -> str:
    """Return the folder of a bundled model, or "missing"."""
    try:
        return str(resolve_model(model).location)
    except ModelError:
        return "missing"


def _working_sizes(model: str) -> str:
    """Describe the short sides at which a bundled model works by default, in pixels."""
    try:
        folder, refine = Path(resolve_model(model).location), preset_for(model, None, None).refine
    except ModelError:
        return "missing"
    parts = [json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae")]
    native = parts[0]["sample_size"] * 2 ** (len(parts[1]["block_out_channels"]) - 1)
    if refine.factor <= 1:
        return f"{native} pixels"
    return f"{native} pixels, then the photo's size up to {round(native * refine.factor)}; --size sets another"


def _hub_cache() -> Path:
    """Return the folder of downloaded models."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
