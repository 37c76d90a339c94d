"""Keeps the model libraries from talking over ours."""

from __future__ import annotations

import os
import warnings


def hush() -> None:
    """Silence the libraries' progress bars and warnings; errors still come through."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for package in ("diffusers", "transformers", "huggingface_hub", "torch"):
        warnings.filterwarnings("ignore", module=rf"{package}(\..*)?")
