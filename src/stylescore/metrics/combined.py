"""Content and style in one number.

Source: "ArtFID: Quantitative Evaluation of Neural Style Transfer", GCPR 2022, equation 5.
"""

from __future__ import annotations


def artfid(content: float, style: float) -> float:
    """Return (1 + content distance) (1 + Frechet distance): ArtFID, if these are LPIPS and the FID of artworks."""
    return (1 + content) * (1 + style)
