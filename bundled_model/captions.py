"""Captions: what a photo shows, its colour, and phrasings of both."""

from __future__ import annotations

import re

import numpy as np
from skimage.color import rgb2hsv

COLOURED = {"flowers", "clothing"}
"""Folders whose captions contain a measured colour."""

HUES = (
    (0.04, "red"),
    (0.11, "orange"),
    (0.19, "yellow"),
    (0.45, "green"),
    (0.7, "blue"),
    (0.82, "purple"),
    (0.95, "pink"),
    (1.0, "red"),
)

EMPTY_SHARE = 0.12
EDIT_SHARE = 0.25


def thing_of(caption: str) -> str:
    """Strip ``a photo of`` and keep the thing itself, with its article."""
    return re.sub(r"^a photo of ", "", caption).strip()


def name_hue(hue: float) -> str:
    """The everyday name of a hue in 0..1."""
    return next(name for limit, name in HUES if hue <= limit)


def measure_colour(pixels: np.ndarray, folder: str) -> str:
    """Name the colour of what stands in the middle, or return an empty string."""
    if folder not in COLOURED:
        return ""
    side = pixels.shape[0]
    middle = pixels[side // 4 : -side // 4, side // 4 : -side // 4][::2, ::2] / 255.0
    hsv = rgb2hsv(middle).reshape(-1, 3)
    return clothing_colour(hsv) if folder == "clothing" else flower_colour(hsv)


def clothing_colour(hsv: np.ndarray) -> str:
    """Return the colour of clothes, from the medians of the middle of the picture."""
    saturation, value = np.median(hsv[:, 1]), np.median(hsv[:, 2])
    if value < 0.25:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.7 else "grey"
    return name_hue(float(np.median(hsv[:, 0])))


def flower_colour(hsv: np.ndarray) -> str:
    """Return the colour of flowers, from pixels that are neither green nor dark."""
    hue, saturation, value = hsv.T
    petals = (value > 0.35) & ((hue < 0.17) | (hue > 0.6) | (saturation < 0.15))
    if petals.mean() < 0.1:
        return ""
    strong = petals & (saturation > 0.35)
    if strong.sum() < 0.4 * petals.sum():
        return "white" if value[petals].mean() > 0.65 else ""
    bins = np.bincount((hue[strong] * 40).astype(int), weights=saturation[strong], minlength=41)
    return name_hue((int(bins.argmax()) + 0.5) / 40)


def coloured(thing: str, colour: str) -> str:
    """Put the colour between the article and the noun."""
    if not colour:
        return thing
    match = re.match(r"^(an?|the) (.*)$", thing)
    if not match:
        return f"{colour} {thing}"
    article = "an" if colour[0] in "aeiou" else "a"
    return f"{article if match[1] != 'the' else 'the'} {colour} {match[2]}"


def photo_prompt(thing: str, colour: str, rng: np.random.Generator) -> str:
    """One of several phrasings for a photo, sometimes none at all."""
    if rng.random() < EMPTY_SHARE:
        return ""
    said = coloured(thing, colour if rng.random() < 0.5 else "")
    forms = ("a photo of {}", "{}", "photograph of {}", "a picture of {}", "a photograph of {}", "photo, {}")
    return forms[rng.integers(len(forms))].format(said)


def style_prompt(style: str, thing: str, colour: str, rng: np.random.Generator) -> str:
    """One of several phrasings for a picture in a style, edit wording included."""
    chance = rng.random()
    if chance < EMPTY_SHARE:
        return ""
    if chance < EMPTY_SHARE + EDIT_SHARE:
        return f"{('Turn into', 'Turn it into')[rng.integers(2)]} {style}"
    said = coloured(thing, colour if rng.random() < 0.5 else "")
    caption = (f"a photo of {said}", said)[rng.integers(2)]
    forms = (f"{style}, {caption}", f"{style}, {caption}", f"{style} of {said}", f"a picture of {said}, {style}", style)
    return forms[rng.integers(len(forms))]
