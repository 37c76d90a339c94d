"""Oil painting: curved strokes laid in three sizes, with bristles and raised paint."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from bundled_model.styles.common import Picture, blur, luminance, orientation, saturate, smooth_noise, stretch

LAYERS = ((28, 13, 6, 0.0), (16, 9, 5, 0.06), (9, 6, 4, 0.11))
"""Brush width, spacing, points per stroke and the error that calls for a stroke."""


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Paint the picture from broad strokes to finer ones."""
    wanted = saturate(0.12 + 0.88 * (0.5 * picture + 0.5 * stretch(picture, 1, 99)), 1.5)
    side = picture.shape[:2][::-1]
    canvas = Image.new("RGB", side, (150, 120, 90))
    height = Image.new("L", side, 128)
    angles = orientation(luminance(blur(picture, 2)), 5)
    angles = angles + 0.3 * smooth_noise(angles.shape, 14, rng)
    for width, spacing, points, tolerance in LAYERS:
        reference = blur(wanted, width / 6)
        places = starts(reference, np.asarray(canvas) / 255, spacing, tolerance, rng)
        paths = follow(places, angles, 0.55 * width, points, rng)
        paint(canvas, height, paths, reference, width, rng)
    return light(np.asarray(canvas) / 255, np.asarray(height) / 255)


def starts(reference: Picture, canvas: Picture, spacing: int, tolerance: float, rng: np.random.Generator) -> np.ndarray:
    """Jittered grid points where the canvas still differs, in random order, N 2."""
    rows, columns = (np.arange(0, size, spacing) for size in reference.shape[:2])
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    grid = grid + rng.integers(0, spacing, grid.shape)
    grid = np.minimum(grid, np.array(reference.shape[:2]) - 1)
    error = blur(np.abs(reference - canvas).mean(-1), spacing / 2)
    return rng.permutation(grid[error[grid[:, 0], grid[:, 1]] >= tolerance])


def follow(places: np.ndarray, angles: np.ndarray, step: float, points: int, rng: np.random.Generator) -> np.ndarray:
    """Walk along the edge direction from every place at once, N points 2."""
    path = [places.astype(float)]
    heading = np.where(rng.random(len(places)) < 0.5, 0.0, np.pi)
    heading = heading + angles[places[:, 0], places[:, 1]]
    limit = np.array(angles.shape) - 1
    for _ in range(points - 1):
        here = np.clip(path[-1], 0, limit).astype(int)
        turn = angles[here[:, 0], here[:, 1]] - heading
        heading = heading + 0.7 * (turn - np.pi * np.round(turn / np.pi))
        path.append(path[-1] + step * np.stack([np.sin(heading), np.cos(heading)], -1))
    return np.stack(path, 1)


def mix(paths: np.ndarray, reference: Picture, rng: np.random.Generator) -> np.ndarray:
    """A slightly varied colour for every stroke, taken where it starts, N 3 in 0..255."""
    first = paths[:, 0].astype(int)
    shade = 0.045 * rng.standard_normal((len(paths), 1)) + 0.015 * rng.standard_normal((len(paths), 3))
    return 255 * np.clip(reference[first[:, 0], first[:, 1]] + shade, 0, 1)


def sideways(paths: np.ndarray) -> np.ndarray:
    """Unit vectors across every stroke at every point."""
    along = np.diff(paths, axis=1, append=paths[:, -1:] * 2 - paths[:, -2:-1])
    across = along[..., ::-1] * np.array([1, -1])
    return across / (np.linalg.norm(across, axis=-1, keepdims=True) + 1e-6)


def paint(
    canvas: Image.Image,
    height: Image.Image,
    paths: np.ndarray,
    reference: Picture,
    width: int,
    rng: np.random.Generator,
) -> None:
    """Draw every stroke as a body and two bristle streaks, and its relief beside it."""
    brush, relief = ImageDraw.Draw(canvas), ImageDraw.Draw(height)
    colours, across = mix(paths, reference, rng), sideways(paths)
    streaks = ((0.0, 1.0, 1.0), (0.3, 0.28, 1.1), (-0.28, 0.28, 0.9))
    for number, colour in enumerate(colours):
        tone = int(rng.integers(70, 190))
        for offset, share, shade in streaks:
            line = paths[number] + offset * width * across[number]
            flat = [float(v) for v in line[:, ::-1].ravel()]
            thick = max(2, round(share * width))
            brush.line(flat, fill=tuple(int(min(255, v * shade)) for v in colour), width=thick, joint="curve")
            relief.line(flat, fill=min(255, int(tone * shade)), width=thick, joint="curve")


def light(colours: Picture, height: np.ndarray) -> Picture:
    """Light the relief from the upper left."""
    smooth = blur(height, 0.8)
    slope = np.roll(smooth, 2, (0, 1)) - np.roll(smooth, -2, (0, 1))
    return np.clip(blur(colours, 0.6) * (1 - 0.55 * slope[..., None]), 0, 1)
