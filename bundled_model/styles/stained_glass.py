"""Stained glass: glowing panes of one colour between dark lead."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from bundled_model.styles.common import Picture, blur, luminance, saturate, smooth_noise, stretch

PANES = 170


def render(picture: Picture, rng: np.random.Generator) -> Picture:
    """Cut the picture into panes that gather where there is detail."""
    panes = cut(picture, rng)
    area = np.maximum(np.bincount(panes.ravel()), 1)
    colours = np.stack([np.bincount(panes.ravel(), picture[..., c].ravel()) / area for c in range(3)], -1)
    colours = saturate(stretch(colours, 1, 99)[None], 1.9)[0] * 0.85 + 0.1
    glass = colours[panes] * (1 + 0.10 * smooth_noise(panes.shape, 5, rng))[..., None]
    lead = ndimage.morphological_gradient(panes, 3) > 0
    lead = blur(ndimage.binary_dilation(lead).astype(float), 0.7)
    return np.clip(glass * (1 - lead[..., None]) + 0.05 * lead[..., None], 0, 1)


def cut(picture: Picture, rng: np.random.Generator) -> np.ndarray:
    """Voronoi cells in space and colour around seeds drawn towards detail, H W."""
    smooth = blur(picture, 2)
    detail = blur(ndimage.gaussian_gradient_magnitude(luminance(picture), 1.5), 3)
    chance = (detail + 0.6 * detail.mean()).ravel()
    seeds = rng.choice(detail.size, PANES, replace=False, p=chance / chance.sum())
    rows, columns = np.indices(detail.shape)
    features = np.concatenate([np.stack([rows, columns], -1) / 16.0, 3.0 * smooth], -1).reshape(-1, 5)
    cells = cKDTree(features[seeds]).query(features)[1].reshape(detail.shape)
    return ndimage.median_filter(cells, 5)
