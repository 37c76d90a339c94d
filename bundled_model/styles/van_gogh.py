"""After Van Gogh: long thin strokes that swirl round the things, in ultramarine, emerald and chrome yellow."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv

from bundled_model.styles.common import Picture, blur, edges, luminance, orientation, smooth_noise, stretch
from bundled_model.styles.oil_painting import follow, light, starts

LAYERS = ((9, 6, 9, 0.0), (6, 5, 8, 0.045), (5, 4, 6, 0.09))
"""Stroke width, spacing, points per stroke and the error that calls for a stroke."""
SHADOW, MIDDLE, SUN = np.array([0.05, 0.12, 0.38]), np.array([0.16, 0.50, 0.52]), np.array([0.99, 0.86, 0.36])


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Paint the picture along a swirling field, then draw the contours in dark blue."""
    wanted = palette(picture)
    side = picture.shape[:2][::-1]
    canvas = Image.fromarray((255 * blur(wanted, 6)).astype(np.uint8))
    height = Image.new("L", side, 128)
    angles = field(picture, rng)
    for width, spacing, points, tolerance in LAYERS:
        reference = blur(wanted, width / 4)
        places = starts(reference, np.asarray(canvas) / 255, spacing, tolerance, rng)
        paths = follow(places, angles, 0.7 * width, points, rng)
        stroke(canvas, height, paths, reference, width, rng)
    contour = blur(1 - edges(blur(luminance(stretch(picture)), 1.0), 1.8, 0.97, 30), 0.7)[..., None]
    painted = light(np.asarray(canvas) / 255, np.asarray(height) / 255)
    return np.clip(painted * (1 - 0.8 * contour) + 0.8 * contour * SHADOW * 0.6, 0, 1)


def palette(picture: Picture) -> Picture:
    """Pull every tone towards the painter's: blue shadows, green middles, yellow lights; keep strong hues."""
    stretched = stretch(0.5 * picture + 0.5 * stretch(picture, 1, 99), 1, 99)
    tone = luminance(stretched)[..., None]
    toned = np.where(tone < 0.5, SHADOW + (MIDDLE - SHADOW) * (2 * tone), MIDDLE + (SUN - MIDDLE) * (2 * tone - 1))
    hsv = rgb2hsv(np.clip(stretched, 0, 1))
    kept = (0.25 + 0.5 * hsv[..., 1:2]).clip(0, 0.75)
    hsv[..., 1] = np.clip(1.5 * hsv[..., 1] + 0.1, 0, 1)
    return np.clip(kept * hsv2rgb(hsv) + (1 - kept) * toned, 0, 1)


def field(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Angles along the edges where there are any, round slow whirls where there are none, H W."""
    gray = luminance(blur(picture, 2))
    strength = blur(ndimage.gaussian_gradient_magnitude(gray, 2), 5)
    trust = (strength / (strength + 0.02))[..., None]
    along = 2 * orientation(gray, 5)
    hills = smooth_noise(gray.shape, 22, rng)
    whirl = 2 * (np.arctan2(*np.gradient(hills)) + np.pi / 2)
    both = [np.stack([np.cos(angle), np.sin(angle)], -1) for angle in (along, whirl)]
    mixed = blur(trust * both[0] + (1 - trust) * both[1], 3)
    return 0.5 * np.arctan2(mixed[..., 1], mixed[..., 0])


def stroke(
    canvas: Image.Image,
    height: Image.Image,
    paths: np.ndarray,
    reference: Picture,
    width: int,
    rng: np.random.Generator,
) -> None:
    """Draw every stroke in one tone of its own, lighter or darker than its neighbours."""
    brush, relief = ImageDraw.Draw(canvas), ImageDraw.Draw(height)
    first = paths[:, 0].astype(int)
    shade = 1 + 0.22 * rng.standard_normal((len(paths), 1)) + 0.05 * rng.standard_normal((len(paths), 3))
    colours = 255 * np.clip(reference[first[:, 0], first[:, 1]] * shade, 0, 1)
    for path, colour in zip(paths, colours, strict=True):
        line = [float(v) for v in path[:, ::-1].ravel()]
        brush.line(line, fill=tuple(int(v) for v in colour), width=width, joint="curve")
        relief.line(line, fill=int(rng.integers(70, 190)), width=max(2, width - 2), joint="curve")
