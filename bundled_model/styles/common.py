"""Small tools that the style renderers share. Pictures are float H W 3 arrays in 0..1."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.color import hsv2rgb, rgb2hsv

Picture = np.ndarray


def luminance(picture: Picture) -> np.ndarray:
    """Perceived brightness, H W."""
    return picture @ np.array([0.299, 0.587, 0.114])


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur over the two picture axes."""
    sigmas = (sigma, sigma, 0)[: picture.ndim]
    return ndimage.gaussian_filter(picture, sigmas, mode="reflect")


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blurred white noise of unit standard deviation."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return noise / (noise.std() + 1e-9)


def saturate(picture: Picture, factor: float) -> Picture:
    """Scale the saturation, keeping hue and value."""
    hsv = rgb2hsv(np.clip(picture, 0, 1))
    hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
    return hsv2rgb(hsv)


def stretch(values: np.ndarray, low: float = 2, high: float = 98) -> np.ndarray:
    """Stretch the contrast so that the given percentiles become 0 and 1."""
    bottom, top = np.percentile(values, (low, high))
    return np.clip((values - bottom) / max(top - bottom, 0.15), 0, 1)


def warp(picture: Picture, rows: np.ndarray, columns: np.ndarray) -> Picture:
    """Move every pixel by the given offsets, bilinear."""
    grid = np.indices(picture.shape[:2]).astype(float)
    places = [grid[0] + rows, grid[1] + columns]
    channels = [ndimage.map_coordinates(picture[..., c], places, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, -1)


def orientation(gray: np.ndarray, sigma: float) -> np.ndarray:
    """Angle along the edges (perpendicular to the smoothed gradient), radians, H W."""
    down, right = ndimage.sobel(gray, 0), ndimage.sobel(gray, 1)
    xx, yy, xy = (ndimage.gaussian_filter(v, sigma) for v in (right * right, down * down, right * down))
    return 0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2


def kuwahara(picture: Picture, radius: int) -> Picture:
    """Each pixel takes the mean of the quietest of the eight windows around it."""
    padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    gray = luminance(padded)
    mean, gray_mean = blur(padded, radius / 3), blur(gray, radius / 3)
    variance = blur(gray * gray, radius / 3) - gray_mean**2
    half, diagonal = radius // 2, round(radius / 2.83)
    shifts = [(half, 0), (-half, 0), (0, half), (0, -half)]
    shifts += [(a, b) for a in (-diagonal, diagonal) for b in (-diagonal, diagonal)]
    rolled = np.stack([np.roll(variance, shift, (0, 1)) for shift in shifts])
    best = rolled.argmin(0)
    means = np.stack([np.roll(mean, shift, (0, 1)) for shift in shifts])
    return np.take_along_axis(means, best[None, ..., None], 0)[0, radius:-radius, radius:-radius]


def edges(gray: np.ndarray, sigma: float, gain: float = 0.98, sharpness: float = 60.0) -> np.ndarray:
    """Soft-thresholded difference of Gaussians: 1 on paper, near 0 on a line."""
    difference = blur(gray, sigma) - gain * blur(gray, 1.6 * sigma)
    return np.where(difference > 0, 1.0, 1.0 + np.tanh(sharpness * difference))
