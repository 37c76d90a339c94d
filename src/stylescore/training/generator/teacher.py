"""Pairs by a generator that is already trained: another network learns to do the same, as knowledge distillation does.

A pair of a teacher costs a few forward passes instead of a run, and its picture follows from photo and noise more
simply than the end of a run does. The teacher may be applied several times, each time to its own last picture.
Sources: arXiv 1503.02531; for diffusion models in one step "Knowledge Distillation in Iterative Generative Models for
Improved Sampling Speed", arXiv 2101.02388; from two steps to one "Progressive Distillation for Fast Sampling of
Diffusion Models", arXiv 2202.00512.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from stylescore.assembly.one_step import apply_facts, load_one_step
from stylescore.generators.files import load_generator, read_facts
from stylescore.generators.layers import CELL
from stylescore.images import Photo
from stylescore.training.generator.pairs import Pair, pair_noise
from stylescore_apply.names import ENDING
from stylescore_apply.networks import Array, Facts, Network, OnnxNetwork
from stylescore_apply.stylizing import LARGEST_LIMIT, Settings, stylize


@dataclass(frozen=True)
class Teacher:
    """A trained generator.

    Attributes:
        network: of the generator.
        settings: how it is applied; the seed is not read, each pair has one of its own.
    """

    network: Network
    settings: Settings

    def paint(self, photos: Sequence[Photo], plans: Sequence[Pair]) -> list[Image.Image]:
        """Return the pictures of photos, each with the noise that its pair's seed tells."""
        return [self._paint(photo.picture, plan.seed) for photo, plan in zip(photos, plans, strict=True)]

    def _paint(self, photo: Image.Image, seed: int) -> Image.Image:
        channels, rows, columns = self.network.facts.noise_channels, photo.height // CELL, photo.width // CELL
        noise = pair_noise(seed, (channels, rows, columns))[None].numpy() if channels else None
        return Image.fromarray(stylize(self.network, np.array(photo), self.settings, noise))


@dataclass(frozen=True)
class _Module:
    """A generator with a network of its own, called as `stylescore_apply` calls its networks."""

    facts: Facts
    module: nn.Module
    device: torch.device

    @torch.inference_mode()
    def __call__(self, photo: Array, noise: Array | None) -> Array:
        pixels, drawn = (
            None if values is None else torch.from_numpy(values).to(self.device) for values in (photo, noise)
        )
        picture: Array = self.module(pixels, drawn).cpu().numpy()
        return picture


def load_teacher(file: Path, model: str, device: torch.device, *, passes: int = 1, strength: float = 1.0) -> Teacher:
    """Load a generator, and its base model if it is a LoRA; an exported one runs on the CPU.

    Args:
        file: of the generator.
        model: base of the training.
        device: where it computes.
        passes: how often it is applied, each time to its own last picture.
        strength: 0 to 1, weight of its picture where it is mixed with the photo.

    Raises:
        InputError: it cannot be used.
    """
    settings = Settings(passes=passes, strength=strength, memory_limit=LARGEST_LIMIT)
    if file.suffix.lower() == ENDING:
        return Teacher(OnnxNetwork(file), settings)
    if read_facts(file).is_lora:
        return Teacher(load_one_step(file, model, str(device)), settings)
    module, facts = load_generator(file)
    return Teacher(_Module(apply_facts(facts), module.to(device), device), settings)
