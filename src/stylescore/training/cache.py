"""Pictures and prompts, encoded once and kept in memory."""

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
from stylescore.training.captions import without_trigger
from stylescore.training.config import StyleTrainingConfig
from stylescore.training.pictures import TrainingPicture, load

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Posterior:
    """An encoded picture: mean and standard deviation, unscaled, [c, h, w] on the CPU."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Example:
    """One picture as the training sees it.

    Attributes:
        views: the picture, and its mirror image where pictures are flipped.
        prompt: its words.
        caption: the same without the trigger words.
    """

    views: tuple[Posterior, ...]
    prompt: str
    caption: str

    def words(self, chance: float, config: StyleTrainingConfig) -> str:
        """Return nothing, the caption or the whole prompt, as a number drawn from [0, 1) has it."""
        if chance < config.caption_dropout:
            return ""
        return self.caption if chance < config.caption_dropout + config.trigger_dropout else self.prompt


@dataclass(frozen=True)
class Cache:
    """All examples and encoded prompts.

    Attributes:
        examples: one a picture.
        contexts: encoded prompts by their words, one row each on the CPU; the empty one is among them.
        codec: brings latents into the diffusion model's unit.
        side: of the latents that are trained on, in cells.
        config: how examples are drawn.
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
        latent = self.latent(posterior, rng)
        rows, columns = (size - self.side + 1 for size in latent.shape[-2:])
        y, x = int(top * rows), int(left * columns)
        context = self.contexts[example.words(chance, self.config)]
        return latent[..., y : y + self.side, x : x + self.side], context

    def latent(self, posterior: Posterior, rng: Generator) -> Tensor:
        """Return the posterior's mean, or a sample of it, as a batch of one."""
        z = posterior.mean
        if self.config.sample_posterior:
            z = z + posterior.std * torch.randn(z.shape, generator=rng)
        return self.codec.scale_latent(z[None])


def framed(picture: Image.Image, side: int, multiple: int, whole: bool) -> tuple[Image.Image, tuple[int, int]]:
    """Return what of a picture is encoded and the size to encode it at: the middle square, or all of it."""
    if whole:
        return picture, fitted_size(*picture.size, side, multiple)
    return ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS), (side, side)


def views_of(picture: Image.Image, config: StyleTrainingConfig) -> Iterator[Image.Image]:
    """Yield the picture and, where asked for, its mirror image."""
    yield picture
    if config.flip:
        yield ImageOps.mirror(picture)


@torch.no_grad()
def encode_picture(codec: Codec, path: TrainingPicture, config: StyleTrainingConfig, side: int) -> Iterator[Posterior]:
    """Yield the posterior of each view of a picture."""
    for view in views_of(load(path.path), config):
        framing, size = framed(view, side, codec.factor, config.crop == "random")
        mean, std = codec.posterior(to_tensor(framing, size).to(codec.vae.device))
        yield Posterior(mean[0].cpu(), std[0].cpu())


def encode_prompts(text: TextEncoder, prompts: Iterable[str]) -> dict[str, Conditioning]:
    """Encode every different prompt once, and the empty one."""
    return {words: text([words]).to(CPU) for words in dict.fromkeys(["", *prompts])}


def make_cache(
    parts: Any,
    pictures: Sequence[tuple[TrainingPicture, str]],
    config: StyleTrainingConfig,
    prompts: Iterable[str] = (),
) -> Iterator[int | Cache]:
    """Encode everything: yield how many pictures are done, then the cache.

    Args:
        parts: the base's `Components`.
        pictures: each with its prompt.
        config: with the resolution filled in.
        prompts: further ones to encode.
    """
    codec = Codec(parts.vae)
    examples = []
    for picture, words in pictures:
        views = tuple(encode_picture(codec, picture, config, config.resolution))
        examples.append(Example(views, words, without_trigger(config.trigger, words)))
        yield len(examples)
    captions = [example.caption for example in examples] if config.trigger_dropout else []
    contexts = encode_prompts(parts.text, [*(example.prompt for example in examples), *captions, *prompts])
    yield Cache(examples, contexts, codec, config.resolution // codec.factor, config)
