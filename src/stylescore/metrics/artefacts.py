"""Measures artefacts that features do not show: clipped channels, the latent grid, and grain.

Each function returns one number for each picture. How much is too much depends on the style: compare the numbers with
those of pictures in that style.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics.preparation import BT601

Pictures = UInt8[Tensor, "pictures height width 3"]
Luma = Float64[Tensor, "pictures height width"]
Figure = Float64[Tensor, " pictures"]
"""One number for every picture."""

CLIPPED_WITHIN = 2
"""Distance in levels from 0 or 255 that still counts as clipped."""
LATENT_PERIOD = 8
"""Side of a latent cell in pixels, in Stable Diffusion and the bundled model."""
ROUNDING = 1 / 12
"""Mean squared error of rounding to whole grey levels: weaker signals cannot be distinguished from it."""


def luma(pictures: Pictures) -> Luma:
    """Return the luma of each pixel, in grey levels (ITU-R BT.601)."""
    # [pictures, height, width, 3] to [pictures, height, width]
    return pictures.double() @ torch.tensor(BT601, dtype=torch.float64, device=pictures.device)


def clipped_fraction(pictures: Pictures) -> Figure:
    """Return the fraction of channel values within 2 levels of 0 or 255, where overshooting colours accumulate."""
    ends = (pictures <= CLIPPED_WITHIN) | (pictures >= 255 - CLIPPED_WITHIN)
    return ends.double().mean(dim=(1, 2, 3))


def grain(pictures: Pictures) -> Figure:
    """Return the root mean square of luma minus the mean of its four neighbours, in grey levels.

    Pixels at the border are left out. White noise of standard deviation s has a grain of sqrt(5/4) s.

    Raises:
        ConfigError: a side is shorter than 3 pixels.
    """
    y = luma(pictures)
    if min(y.shape[1:]) < 3:
        raise ConfigError(f"grain needs pictures of at least 3 x 3 pixels, got {y.shape[1]} x {y.shape[2]}")
    neighbours = (y[:, :-2, 1:-1] + y[:, 2:, 1:-1] + y[:, 1:-1, :-2] + y[:, 1:-1, 2:]) / 4
    return (y[:, 1:-1, 1:-1] - neighbours).square().mean(dim=(1, 2)).sqrt()


def line_spectrum(lines: Luma) -> Float64[Tensor, "pictures width"]:
    """Return the energy at each frequency, averaged over a picture's lines; for white noise it is the variance."""
    energy: Tensor = torch.fft.fft(lines, dim=2, norm="ortho").abs().square()
    return energy.mean(dim=1)


def grid_excess(spectrum: Float64[Tensor, "pictures width"], period: int) -> Figure:
    """Return the energy at frequency k / period relative to its neighbours, averaged over k = 1..period-1.

    The neighbours are the frequencies up to a quarter of the distance to the next k, on both sides. `ROUNDING` is added
    to both energies, so that signals weaker than rounding count as no grid, and an empty spectrum has 1.
    """
    spacing = spectrum.shape[1] // period
    reach = range(1, max(1, spacing // 4) + 1)
    neighbours = torch.stack([spectrum.roll(s * n, dims=1) for n in reach for s in (1, -1)]).mean(dim=0)
    excess: Tensor = (spectrum + ROUNDING) / (neighbours + ROUNDING)
    return excess[:, spacing::spacing].mean(dim=1)


def grid_energy(pictures: Pictures, period: int = LATENT_PERIOD) -> Figure:
    """Return the ratio of luma's energy at the frequencies of a grid to that at neighbouring frequencies; 1 is no grid.

    Flat cells one period wide, as in pixel art, have no energy at these frequencies and give far less than 1.

    The spectra of rows and columns are averaged, so that the position of the grid's lines does not matter. Pictures are
    cropped at the right and the bottom to whole periods, so that the grid has exact frequencies of the transform.

    Raises:
        ConfigError: the period is below 2 pixels, or a side is shorter than two periods.
    """
    height, width = (size // max(period, 1) * period for size in pictures.shape[1:3])
    if period < 2 or min(height, width) < 2 * period:
        raise ConfigError(
            f"a grid needs a period of at least 2 pixels and pictures of at least two periods, "
            f"got period {period} and {pictures.shape[1]} x {pictures.shape[2]} pixels"
        )
    y = luma(pictures[:, :height, :width])
    return (grid_excess(line_spectrum(y), period) + grid_excess(line_spectrum(y.mT), period)) / 2
