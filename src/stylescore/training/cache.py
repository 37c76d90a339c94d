"""Pictures and prompts, encoded once before the training and held in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor

from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.text import TextEncoder
from stylescore.images.sizes import fitted_size
from stylescore.images.tensors import to_tensor
from stylescore.training.buckets import Buckets, Size
from stylescore.training.config import Crop, StyleTrainingConfig
from stylescore.training.pictures import TrainingPicture, load_picture
from stylescore.training.prompts import remove_trigger

CPU = torch.device("cpu")
SCALES = (1.0, 1.5, 2.0)
"""Scales of a picture from which parts of one size are drawn; those that would enlarge it are left out."""


@dataclass(frozen=True)
class Posterior:
    """An encoded picture: mean and standard deviation, unscaled, [c, h, w] on the CPU."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Example:
    """One encoded picture with its texts.

    Attributes:
        views: the picture, and its mirror image where pictures are flipped.
        prompt: trigger words and caption.
        caption: the same without the trigger words.
        window: rows and columns of the part that is trained on, in cells.
    """

    views: tuple[Posterior, ...]
    prompt: str
    caption: str
    window: tuple[int, int]

    def choose_prompt(self, chance: float, config: StyleTrainingConfig) -> str:
        """Return the empty prompt, the caption or the whole prompt, by a number drawn from [0, 1)."""
        if chance < config.caption_dropout:
            return ""
        return self.caption if chance < config.caption_dropout + config.trigger_dropout else self.prompt


@dataclass(frozen=True)
class Cache:
    """All examples and encoded prompts.

    Attributes:
        examples: one a picture.
        contexts: encoded prompts by their texts, one row each on the CPU; the empty one is among them.
        codec: scales latents to the diffusion model's unit.
        side: of the latents of sample sheets, in cells.
        groups: numbers of the examples that a batch may combine; one that an epoch uses several times stands there as
            often.
        config: settings of the draws.
    """

    examples: Sequence[Example]
    contexts: dict[str, Conditioning]
    codec: Codec
    side: int
    groups: Sequence[Sequence[int]]
    config: StyleTrainingConfig

    def draw(self, index: int, rng: Generator) -> tuple[Tensor, Conditioning]:
        """Return a latent [1, c, h, w] and its context; the same numbers are drawn from `rng` every time."""
        example = self.examples[index]
        view, top, left, chance = torch.rand(4, generator=rng).tolist()
        posterior = example.views[int(view * len(example.views))]
        latent = self._sample(posterior, rng)
        height, width = example.window
        y, x = int(top * (latent.shape[-2] - height + 1)), int(left * (latent.shape[-1] - width + 1))
        context = self.contexts[example.choose_prompt(chance, self.config)]
        return latent[..., y : y + height, x : x + width], context

    def _sample(self, posterior: Posterior, rng: Generator) -> Tensor:
        """Return the posterior's mean, or a sample of it, as a batch of one."""
        z = posterior.mean
        if self.config.sample_posterior:
            z = z + posterior.std * torch.randn(z.shape, generator=rng)
        return self.codec.scale_latent(z[None])


def _parts(picture: Image.Image, size: Size, crop: Crop, multiple: int) -> Iterator[tuple[Image.Image, Size]]:
    """Yield the parts of a picture to encode, each with the size to encode it at.

    Args:
        picture: upright.
        size: of what is trained on, in pixels.
        crop: the middle; or all of it, from which random parts are drawn, at one or several scales.
        multiple: what sides must be divisible by.
    """
    if crop == "centre":
        yield ImageOps.fit(picture, size, Image.Resampling.LANCZOS), size
        return
    for scale in SCALES if crop == "scales" else SCALES[:1]:
        side = round(min(size) * scale / multiple) * multiple
        if scale == 1 or side <= min(picture.size):
            yield picture, fitted_size(*picture.size, side, multiple)


def _flip(picture: Image.Image, config: StyleTrainingConfig) -> Iterator[Image.Image]:
    """Yield the picture and, where pictures are flipped, its mirror image."""
    yield picture
    if config.flip:
        yield ImageOps.mirror(picture)


@torch.no_grad()
def _encode_picture(
    codec: Codec, path: TrainingPicture, config: StyleTrainingConfig, size: Size
) -> Iterator[Posterior]:
    """Yield the posterior of each view of a picture."""
    for view in _flip(load_picture(path.path), config):
        for part, part_size in _parts(view, size, config.crop, codec.factor):
            mean, std = codec.posterior(to_tensor(part, part_size).to(codec.vae.device))
            yield Posterior(mean[0].cpu(), std[0].cpu())


def _encode_prompts(text: TextEncoder, prompts: Iterable[str]) -> dict[str, Conditioning]:
    """Encode every different prompt once, and the empty one."""
    return {prompt: text([prompt]).to(CPU) for prompt in dict.fromkeys(["", *prompts])}


def make_cache(
    parts: Any,
    buckets: Buckets,
    pictures: Sequence[tuple[TrainingPicture, str]],
    config: StyleTrainingConfig,
    prompts: Iterable[str] = (),
) -> Iterator[int | Cache]:
    """Encode everything: yield the number of pictures done after each, then the cache.

    Args:
        parts: the base's `Components`.
        buckets: the size of each picture.
        pictures: each with its prompt.
        config: with the resolution filled in.
        prompts: further ones to encode.
    """
    codec = Codec(parts.vae)
    examples = []
    for (picture, prompt), (width, height) in zip(pictures, buckets.sizes, strict=True):
        views = tuple(_encode_picture(codec, picture, config, (width, height)))
        window = height // codec.factor, width // codec.factor
        examples.append(Example(views, prompt, remove_trigger(config.trigger, prompt), window))
        yield len(examples)
    captions = [example.caption for example in examples] if config.trigger_dropout else []
    contexts = _encode_prompts(parts.text, [*(example.prompt for example in examples), *captions, *prompts])
    yield Cache(examples, contexts, codec, config.resolution // codec.factor, buckets.groups, config)
