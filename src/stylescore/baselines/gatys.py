"""Style transfer of Gatys et al.: pixels are optimised until a classifier's features are the photo's and the style's.

Source: "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, equations 1 to 7: content is the
activation after the second convolution of the fourth block, style the Gram matrices after the first one of every block.
The weights of the two terms are those of the authors' later code, whose terms are means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylescore.baselines.pixels import Pictures
from stylescore.method.scores import Predictions, ScoreName
from stylescore.method.types import Draw, Latent, PerSample
from stylescore.metrics.gram import gram_matrix
from stylescore.metrics.self_similarity import positions_of
from stylescore.metrics.trunks import Trunk

Vectors = Float[Tensor, "_pictures _positions _channels"]
"""The features of pictures at one level, a row for each position."""
CONTENT_BLOCK = 3
"""The fourth block of a VGG, counted from 0; its second convolution holds the content."""
SMALLEST_MEAN = 1e-6
"""Keeps a level that is 0 all over a photo finite."""


@dataclass(frozen=True)
class TextureFeatures:
    """The levels of a VGG that content and style are read from.

    Attributes:
        trunk: the network, frozen.
        prepare: brings pictures in [-1, 1] to what the network was trained on.
    """

    trunk: Trunk
    prepare: Callable[[Pictures], Pictures]

    def __call__(self, pictures: Pictures) -> tuple[Vectors, list[Vectors]]:
        """Return the vectors of the content level, and those of every style level."""
        style, content = style_layers(self.trunk), content_layer(self.trunk)
        taps = sorted({*style, content})
        found = dict(zip(taps, map(positions_of, self.trunk(self.prepare(pictures), taps)), strict=True))
        return found[content], [found[tap] for tap in style]


def style_layers(trunk: Trunk) -> tuple[int, ...]:
    """Return the index of the first ReLU of every block: relu1_1 to relu5_1."""
    starts = [0, *(n for n, layer in enumerate(trunk.features) if isinstance(layer, nn.MaxPool2d))]
    firsts = [next((relu for relu in trunk.relus if relu > start), None) for start in starts]
    return tuple(relu for relu in firsts if relu is not None)


def content_layer(trunk: Trunk) -> int:
    """Return the index of relu4_2."""
    first = style_layers(trunk)[CONTENT_BLOCK]
    return next(relu for relu in trunk.relus if relu > first)


@dataclass(frozen=True, kw_only=True)
class GramMatching:
    """The gradient of alpha content + beta style with respect to the pixels.

    The authors scale their network so that activations are 1 on average, which weights from elsewhere are not: here
    each level is divided by its mean over the photo.

    Attributes:
        features: what the terms are computed from.
        content: the photos' vectors at the content level.
        grams: Gram matrices of the style picture at the style levels, [1, c, c].
        scales: means of the photos' activations, of the content level and then of the style levels, [batch, 1, 1].
        content_weight: alpha.
        style_weight: beta; a level with c channels has beta / c^2.
    """

    needs: ClassVar[tuple[ScoreName, ...]] = ()
    features: TextureFeatures
    content: Vectors
    grams: Sequence[Float[Tensor, "1 _c _c"]]
    scales: Sequence[Float[Tensor, "_pictures 1 1"]]
    content_weight: float
    style_weight: float

    @classmethod
    @torch.no_grad()
    def between(
        cls,
        features: TextureFeatures,
        photos: Pictures,
        style: Pictures,
        *,
        content_weight: float,
        style_weight: float,
    ) -> GramMatching:
        """Return the gradient for photos and one style picture, all in [-1, 1].

        Args:
            features: what the terms are computed from.
            photos: [batch, 3, h, w].
            style: [1, 3, h, w], which may have another size.
            content_weight: alpha.
            style_weight: beta.
        """
        content, levels = features(photos)
        means = [level.mean(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_MEAN) for level in (content, *levels)]
        return cls(
            features=features,
            content=content,
            grams=[gram_matrix(level) for level in features(style)[1]],
            scales=means,
            content_weight=content_weight,
            style_weight=style_weight,
        )

    def __call__(self, draw: Draw, eps: Predictions) -> Latent:
        """Return the gradient, times the number of entries, as the loop moves along a mean over them."""
        with torch.enable_grad():
            z = draw.z.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.loss(z).sum(), z)
        return gradient * gradient[0].numel()

    def loss(self, pictures: Pictures) -> PerSample:
        """Return alpha mean (F - P)^2 + beta sum over levels of mean (G - A)^2 / c^2 for each picture."""
        content, levels = self.features(pictures)
        unit, *units = self.scales
        total = self.content_weight * ((content - self.content) / unit).square().mean(dim=(1, 2))
        for level, gram, scale in zip(levels, self.grams, units, strict=True):
            difference = (gram_matrix(level) - gram) / scale.square()
            total = total + self.style_weight / gram.shape[-1] ** 2 * difference.square().mean(dim=(1, 2))
        return total
