"""Similarities of embeddings: CLIP score and direction, PickScore, and the style similarity of CSD.

Sources: CLIP score, "CLIPScore: A Reference-free Evaluation Metric for Image Captioning", EMNLP 2021, with the factor
100 that later work uses; direction, "StyleGAN-NADA", SIGGRAPH 2022, equation 2, as a similarity; PickScore,
"Pick-a-Pic", NeurIPS 2023, equation 1; CSD, "Measuring Style Similarity in Diffusion Models", 2024.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stylescore.method.types import PerSample

Embeddings = Float[Tensor, "batch numbers"]


def clip_score(pictures: Embeddings, texts: Embeddings) -> PerSample:
    """Return 100 max(cos(picture, text), 0) of every pair."""
    return 100 * functional.cosine_similarity(pictures, texts).clamp(min=0)


def scaled_similarity(pictures: Embeddings, texts: Embeddings, scale: float) -> PerSample:
    """Return scale times cos(picture, text) of every pair: PickScore, with embeddings and scale of its model."""
    return scale * functional.cosine_similarity(pictures, texts)


def clip_direction(source: Embeddings, stylized: Embeddings, before: Embeddings, after: Embeddings) -> PerSample:
    """Return the cosine between the change of the pictures and the change of their texts, from -1 to 1.

    Args:
        source: embeddings of the photos.
        stylized: of the stylized pictures.
        before: of the texts that describe the photos.
        after: of the texts that describe the stylized pictures.
    """
    unit = [functional.normalize(x, dim=1) for x in (source, stylized, before, after)]
    return functional.cosine_similarity(unit[1] - unit[0], unit[3] - unit[2])


def cosine_table(first: Float[Tensor, "n numbers"], second: Float[Tensor, "m numbers"]) -> Float[Tensor, "n m"]:
    """Return the cosine of every embedding with every other."""
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
