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
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.pictures import TrainingPicture, load_picture
from stylescore.training.prompts import remove_trigger

CPU = torch.device("cpu")


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
    """

    views: tuple[Posterior, ...]
    prompt: str
    caption: str

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
        side: of the latents that are trained on, in cells.
        config: settings of the draws.
    """

    examples: Sequence[Example]
    contexts: dict[str, Conditioning]
    codec: Codec
    side: int
    config: StyleTrainingConfig

    def draw(self, index: int, rng: Generator) -> tuple[Tensor, Conditioning]:
        """Return a latent [1, c, side, side] and its context; the same numbers are drawn from `rng` every time."""
        example = self.examples[index]
        view, top, left, chance = torch.rand(4, generator=rng).tolist()
        posterior = example.views[int(view * len(example.views))]
        latent = self._sample(posterior, rng)
        rows, columns = (size - self.side + 1 for size in latent.shape[-2:])
        y, x = int(top * rows), int(left * columns)
        context = self.contexts[example.choose_prompt(chance, self.config)]
        return latent[..., y : y + self.side, x : x + self.side], context

    def _sample(self, posterior: Posterior, rng: Generator) -> Tensor:
        """Return the posterior's mean, or a sample of it, as a batch of one."""
        z = posterior.mean
        if self.config.sample_posterior:
            z = z + posterior.std * torch.randn(z.shape, generator=rng)
        return self.codec.scale_latent(z[None])


def _crop(picture: Image.Image, side: int, multiple: int, whole: bool) -> tuple[Image.Image, tuple[int, int]]:
    """Return the part of a picture to encode, the middle square or all of it, and the size to encode it at."""
    if whole:
        return picture, fitted_size(*picture.size, side, multiple)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS), (side, side)


def _views(picture: Image.Image, config: StyleTrainingConfig) -> Iterator[Image.Image]:
    """Yield the picture and, where pictures are flipped, its mirror image."""
    yield picture
    if config.flip:
        yield ImageOps.mirror(picture)


@torch.no_grad()
def _encode_picture(codec: Codec, path: TrainingPicture, config: StyleTrainingConfig, side: int) -> Iterator[Posterior]:
    """Yield the posterior of each view of a picture."""
    for view in _views(load_picture(path.path), config):
        part, size = _crop(view, side, codec.factor, config.crop == "random")
        mean, std = codec.posterior(to_tensor(part, size).to(codec.vae.device))
        yield Posterior(mean[0].cpu(), std[0].cpu())


def _encode_prompts(text: TextEncoder, prompts: Iterable[str]) -> dict[str, Conditioning]:
    """Encode every different prompt once, and the empty one."""
    return {prompt: text([prompt]).to(CPU) for prompt in dict.fromkeys(["", *prompts])}


def make_cache(
    parts: Any,
    pictures: Sequence[tuple[TrainingPicture, str]],
    config: StyleTrainingConfig,
    prompts: Iterable[str] = (),
) -> Iterator[int | Cache]:
    """Encode everything: yield the number of pictures done after each, then the cache.

    Args:
        parts: the base's `Components`.
        pictures: each with its prompt.
        config: with the resolution filled in.
        prompts: further ones to encode.
    """
    codec = Codec(parts.vae)
    examples = []
    for picture, prompt in pictures:
        views = tuple(_encode_picture(codec, picture, config, config.resolution))
        examples.append(Example(views, prompt, remove_trigger(config.trigger, prompt)))
        yield len(examples)
    captions = [example.caption for example in examples] if config.trigger_dropout else []
    contexts = _encode_prompts(parts.text, [*(example.prompt for example in examples), *captions, *prompts])
    yield Cache(examples, contexts, codec, config.resolution // codec.factor, config)
