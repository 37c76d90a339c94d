"""The families of models that can be used, one module each: how prompts are encoded and how the network is called."""

from __future__ import annotations

from stylescore.diffusion.families.base import Checkpoint, ComponentSpec, Family
from stylescore.diffusion.families.flux import FLUX
from stylescore.diffusion.families.sd import SD
from stylescore.diffusion.families.sd3 import SD3
from stylescore.diffusion.families.sdxl import SDXL

FAMILIES = (SD, SDXL, SD3, FLUX)

__all__ = ["FAMILIES", "FLUX", "SD", "SD3", "SDXL", "Checkpoint", "ComponentSpec", "Family"]
