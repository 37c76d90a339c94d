"""Pairs by a generator that is already trained: another network learns to do the same, as knowledge distillation does.

A pair of a teacher costs one forward pass instead of a run, and its picture follows from photo and noise more simply
than the end of a run does. Source: arXiv 1503.02531; for diffusion models in one step "Knowledge Distillation in
Iterative Generative Models for Improved Sampling Speed", arXiv 2101.02388.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from stylescore.assembly.one_step import load_one_step
from stylescore.generators.files import load_generator, read_facts
from stylescore.generators.layers import CELL
from stylescore.images import Photo, to_picture
from stylescore.training.generator.batches import to_pixels
from stylescore.training.generator.pairs import Pair, pair_noise
from stylescore_apply.networks import Array


@dataclass(frozen=True)
class Teacher:
    """A trained generator.

    Attributes:
        network: returns pictures [n, 3, h, w] in [0, 1] for photos and noise.
        noise_channels: of its noise field, 0 for none.
    """

    network: Callable[[Array, Array | None], Array]
    noise_channels: int

    def paint(self, photos: Sequence[Photo], plans: Sequence[Pair]) -> list[Image.Image]:
        """Return the pictures of photos, each with the noise that its pair's seed tells."""
        return [self._paint(photo.picture, plan.seed) for photo, plan in zip(photos, plans, strict=True)]

    def _paint(self, photo: Image.Image, seed: int) -> Image.Image:
        rows, columns = photo.height // CELL, photo.width // CELL
        noise = pair_noise(seed, (self.noise_channels, rows, columns))[None].numpy() if self.noise_channels else None
        return to_picture(torch.from_numpy(self.network(to_pixels(photo)[None].numpy(), noise)) * 2 - 1)


def load_teacher(file: Path, model: str, device: torch.device) -> Teacher:
    """Load a generator, and its base model if it is a LoRA.

    Args:
        file: of the generator.
        model: base of the training.
        device: where it computes.

    Raises:
        InputError: it cannot be used.
    """
    facts = read_facts(file)
    if facts.is_lora:
        return Teacher(load_one_step(file, model, str(device)), facts.noise_channels)
    module = load_generator(file)[0].to(device)

    @torch.inference_mode()
    def network(photo: Array, noise: Array | None) -> Array:
        pixels = torch.from_numpy(photo).to(device)
        picture = module(pixels, None if noise is None else torch.from_numpy(noise).to(device))
        painted: Array = picture.cpu().numpy()
        return painted

    return Teacher(network, facts.noise_channels)
