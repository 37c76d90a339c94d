"""What this machine has to offer."""

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
from stylescore.diagnostics.estimates import matrix_speed, needs
from stylescore.errors import ModelError

PACKAGES = ("torch", "diffusers", "transformers", "safetensors", "pillow", "numpy")
OPTIONAL = {"pillow-heif": "HEIC photos (pip install 'stylescore[heic]')"}
GIB = 2**30


def examine() -> dict[str, Any]:
    """Return facts about program, packages, devices, memory and models, by name."""
    return {
        "stylescore": __version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "packages": [f"{name} {installed(name)}" for name in PACKAGES],
        "missing": [f"{name}, for {use}" for name, use in OPTIONAL.items() if installed(name) == "missing"],
        "cores": os.cpu_count(),
        "memory": memory(),
        "devices": devices(),
        "default_device": default_device(),
        "models": [f"{name} ({state_of(name)})" for name in BUNDLED_MODELS],
        "working_sizes": [f"{name}: {working_sizes(name)}" for name in BUNDLED_MODELS],
        "styles": [entry.name for entry in list_styles()],
        "style_folder": str(user_styles_dir()),
        "download_cache": str(hub_cache()),
        **one_picture(),
        "would_download": "nothing for bundled models and styles; a hub id is fetched on first use",
    }


def installed(package: str) -> str:
    """Return a package's version, or "missing"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def memory() -> str:
    """Return the machine's memory, or an empty text where the system does not tell."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return ""
    return f"{pages * size / GIB:.1f} GiB"


def devices() -> list[str]:
    """Return the devices torch can use, with their memory."""
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} ({card.name}, {card.total_memory / GIB:.0f} GiB)")
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def default_device() -> str:
    """Return the device and precision that "auto" stands for."""
    from stylescore.diffusion.execution.devices import best_device, pick_device, pick_dtype

    device = pick_device(best_device())
    return f"{device}, {str(pick_dtype('auto', device)).removeprefix('torch.')}"


def one_picture() -> dict[str, Any]:
    """Return how fast the default device multiplies matrices, and what runs of one picture need on it."""
    from stylescore.diffusion.execution.devices import pick_device, pick_dtype

    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    speed = matrix_speed(device, dtype)
    return {
        "matrix_products": f"{speed / 1e9:.0f} GFLOP/s",
        "needs": [asdict(need) for need in needs(device, dtype.itemsize, speed)],
    }


def state_of(model: str) -> str:
    """Return where a bundled model lies, or that it does not."""
    try:
        return str(resolve_model(model).location)
    except ModelError:
        return "missing"


def working_sizes(model: str) -> str:
    """Return the short sides at which a bundled model works on photos, in pixels."""
    try:
        folder, refine = Path(resolve_model(model).location), preset_for(model, None, None).refine
    except ModelError:
        return "missing"
    parts = [json.loads((folder / part / "config.json").read_text(encoding="utf-8")) for part in ("unet", "vae")]
    native = parts[0]["sample_size"] * 2 ** (len(parts[1]["block_out_channels"]) - 1)
    if refine.factor <= 1:
        return f"{native} pixels"
    return f"{native} pixels, then the photo's own up to {round(native * refine.factor)}; --size has the last word"


def hub_cache() -> Path:
    """Return the folder that downloads go to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)
