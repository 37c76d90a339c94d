"""Classical renderers, one module a style: photo in, picture in the style out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bundled_model.styles import (
    flat_illustration,
    ink_drawing,
    oil_painting,
    pencil_sketch,
    pixel_art,
    stained_glass,
    van_gogh,
    watercolor,
)

Renderer = Callable[[np.ndarray, np.random.Generator], np.ndarray]

RENDERERS: dict[str, Renderer] = {
    "oil-painting": oil_painting.render,
    "pencil-sketch": pencil_sketch.render,
    "watercolor": watercolor.render,
    "ink-drawing": ink_drawing.render,
    "pixel-art": pixel_art.render,
    "stained-glass": stained_glass.render,
    "flat-illustration": flat_illustration.render,
    "van-gogh": van_gogh.render,
}


def style_words(style: str) -> str:
    """The words a prompt says for a style's name."""
    return style.replace("-", " ")
