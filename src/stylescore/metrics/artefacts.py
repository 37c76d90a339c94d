"""What the eye sees and features do not tell: channels driven to their ends, the latent grid, and grain.

Each is told for every picture alone. What is too much depends on the style: compare with pictures of that style.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from stylescore.errors import ConfigError

Pictures = UInt8[Tensor, "pictures height width 3"]
Luma = Float64[Tensor, "pictures height width"]
Figure = Float64[Tensor, " pictures"]
"""One number for every picture."""

LUMA = (0.299, 0.587, 0.114)
CLIPPED_WITHIN = 2
"""Levels from either end that still count as the end."""
LATENT_PERIOD = 8
"""Pixels a latent is wide in Stable Diffusion and the bundled model."""
ROUNDING = 1 / 12
"""Mean square of the error of rounding to whole grey levels; nothing fainter can be told from it."""


def luma(pictures: Pictures) -> Luma:
    """Return how bright each pixel is, in grey levels (ITU-R BT.601)."""
    return pictures.double() @ torch.tensor(LUMA, dtype=torch.float64, device=pictures.device)


def clipped_share(pictures: Pictures) -> Figure:
    """Return the share of channel values within 2 levels of 0 or 255: where colours overshoot, they pile up there."""
    ends = (pictures <= CLIPPED_WITHIN) | (pictures >= 255 - CLIPPED_WITHIN)
    return ends.double().mean(dim=(1, 2, 3))


def grain(pictures: Pictures) -> Figure:
    """Return the root mean square of luma less the mean of its four neighbours, in grey levels.

    Pixels at the border lack a neighbour and are left out. White noise of standard deviation s has sqrt(5/4) s.

    Raises:
        ConfigError: pictures without a pixel inside.
    """
    y = luma(pictures)
    if min(y.shape[1:]) < 3:
        raise ConfigError(f"grain needs pictures of at least 3 x 3 pixels, got {y.shape[1]} x {y.shape[2]}")
    around = (y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]) / 4
    return (y[:, 1:-1, 1:-1] - around).square().mean(dim=(1, 2)).sqrt()


def line_spectrum(lines: Luma) -> Float64[Tensor, "pictures width"]:
    """Return the energy of the lines at each frequency, averaged over a picture's lines; white noise's variance."""
    energy: Tensor = torch.fft.fft(lines, dim=2, norm="ortho").abs().square()
    return energy.mean(dim=1)


def grid_excess(spectrum: Float64[Tensor, "pictures width"], period: int) -> Figure:
    """Return the mean over k = 1..period-1 of the energy at frequency k / period relative to its surroundings.

    These reach a quarter of the way to the next multiple on either side. `ROUNDING` is added to both energies: what
    is fainter than rounding counts as no grid, and an empty spectrum has 1.
    """
    spacing = spectrum.shape[1] // period
    reach = range(1, max(1, spacing // 4) + 1)
    around = torch.stack([spectrum.roll(s * n, dims=1) for n in reach for s in (1, -1)]).mean(dim=0)
    excess: Tensor = (spectrum + ROUNDING) / (around + ROUNDING)
    return excess[:, spacing::spacing].mean(dim=1)


def grid_energy(pictures: Pictures, period: int = LATENT_PERIOD) -> Figure:
    """Return how much stronger luma is at the frequencies of a grid than beside them; 1 is no grid.

    Flat cells one period wide, as in pixel art, have nothing at these frequencies, and so far less than 1.

    The spectra are those of rows and of columns, so that a grid is found wherever its lines lie. Pictures are cropped
    at the right and the bottom to whole periods, for only then does the grid fall on frequencies of the transform.

    Raises:
        ConfigError: a period below 2 pixels, or pictures of less than two periods.
    """
    height, width = (size // max(period, 1) * period for size in pictures.shape[1:3])
    if period < 2 or min(height, width) < 2 * period:
        raise ConfigError(
            f"a grid needs a period of at least 2 pixels and pictures of at least two periods, "
            f"got period {period} and {pictures.shape[1]} x {pictures.shape[2]} pixels"
        )
    y = luma(pictures[:, :height, :width])
    return (grid_excess(line_spectrum(y), period) + grid_excess(line_spectrum(y.mT), period)) / 2
