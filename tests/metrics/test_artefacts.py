"""Clipping, grid and grain: by hand, on checkerboards, flat grey and white noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stylescore.errors import ConfigError
from stylescore.metrics import clipped_fraction, grain, grid_energy
from stylescore.metrics.artefacts import ROUNDING, grid_excess, line_spectrum, luma

MEASURES = (clipped_fraction, grain, grid_energy)
Measure = Callable[[Tensor], Tensor]


def grey(levels: Tensor) -> Tensor:
    """Return grey pictures [n, h, w, 3] of levels [n, h, w] or [h, w]."""
    return levels.round().clamp(0, 255).to(torch.uint8).reshape(-1, *levels.shape[-2:])[..., None].expand(-1, -1, -1, 3)


def flat(height: int = 32, width: int = 32, level: float = 128) -> Tensor:
    return torch.full((height, width), level)


def noise(deviation: float = 20, seed: int = 0, count: int = 1, height: int = 64, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 128 + deviation * torch.randn(count, height, width, generator=generator)


def checkerboard(period: int, side: int = 64, contrast: float = 50) -> Tensor:
    half = torch.arange(side) // (period // 2) % 2
    return 128 + contrast * (half[:, None] ^ half)


def test_luma_weighs_the_channels() -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=torch.uint8)
    assert luma(colours[None, None])[0, 0].tolist() == pytest.approx([76.245, 149.685, 29.07, 255])


def test_a_flat_grey_picture_has_no_clipping_no_grain_and_no_grid() -> None:
    picture = grey(flat())
    assert clipped_fraction(picture).item() == 0
    assert grain(picture).item() == pytest.approx(0, abs=1e-9)
    assert grid_energy(picture).item() == pytest.approx(1)


def test_shares_by_hand() -> None:
    """Of twelve values, 0, 2, 253 and 255 are ends, while 3 and 252 are not."""
    values = torch.tensor([0, 2, 3, 252, 253, 255, 9, 99, 128, 128, 128, 128], dtype=torch.uint8)
    assert clipped_fraction(values.reshape(1, 2, 2, 3)).item() == pytest.approx(4 / 12)


def test_grain_of_one_bright_pixel_by_hand() -> None:
    """Inside 5 x 4 pixels are 3 x 2: one differs by 80 from its neighbours' mean, two beside and one below by 20."""
    levels = flat(5, 4, 100)
    levels[2, 1] += 80
    assert grain(grey(levels)).item() == pytest.approx(((80**2 + 3 * 20**2) / 6) ** 0.5)


def test_grain_of_a_checkerboard_of_pixels_is_its_contrast() -> None:
    assert grain(grey(checkerboard(2))).item() == pytest.approx(50)


def test_grain_of_white_noise() -> None:
    assert grain(grey(noise(count=4))).mean().item() == pytest.approx(1.25**0.5 * 20, rel=0.02)


def test_a_ramp_has_no_grain_at_its_border_either() -> None:
    levels = 20 + 3 * torch.arange(24) + 2 * torch.arange(16)[:, None]
    assert grain(grey(levels.float())).item() == pytest.approx(0, abs=1e-9)


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    spectrum = line_spectrum(luma(grey(noise(count=40))) - 128)
    assert spectrum.mean(dim=0).tolist() == pytest.approx([400.0] * 64, rel=0.1)


def test_the_excess_by_hand() -> None:
    """Period 4 in 16: at 4, 8 and 12 stand 9, 4 and 9 times what the one frequency on either side has."""
    spectrum = torch.full((1, 16), 2 - ROUNDING, dtype=torch.float64)
    for place, times in ((4, 9), (8, 4), (12, 9)):
        spectrum[0, place] = 2 * times - ROUNDING
    spectrum[0, 0] = 1e6
    assert grid_excess(spectrum, 4).item() == pytest.approx(22 / 3)


def test_white_noise_has_no_grid() -> None:
    assert grid_energy(grey(noise(count=20))).mean().item() == pytest.approx(1, abs=0.05)


def test_a_smooth_picture_has_no_grid() -> None:
    y, x = torch.linspace(0, 1, 96)[:, None], torch.linspace(0, 1, 64)
    assert grid_energy(grey(40 + 90 * x + 80 * torch.sin(3 * y + x))).item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_a_checkerboard_is_a_grid_of_its_own_period(period: int) -> None:
    picture = grey(checkerboard(period))
    assert grid_energy(picture, period).item() > 1000


def test_a_grid_is_found_under_noise_and_only_at_its_period() -> None:
    picture = grey(noise(5) + checkerboard(8, contrast=10) - 128)
    assert grid_energy(picture).item() > 5
    assert grid_energy(picture, 6).item() == pytest.approx(1, abs=0.35)


def test_flat_cells_of_one_period_have_less_than_no_grid() -> None:
    cells = noise(height=8, width=8).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    assert grid_energy(grey(cells)).item() < 0.01


@pytest.mark.parametrize("turned", [False, True])
def test_stripes_of_either_direction_count_alike(turned: bool) -> None:
    stripes = flat(64, 64) + 20 * (torch.arange(64) % 8 == 0)
    picture = grey(stripes.T if turned else stripes)
    assert grid_energy(picture).item() == pytest.approx(grid_energy(grey(stripes)).item())
    assert grid_energy(picture).item() > 100


def test_what_goes_beyond_whole_periods_is_cropped() -> None:
    levels = noise(height=45, width=39)
    assert torch.equal(grid_energy(grey(levels)), grid_energy(grey(levels[:, :40, :32])))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_batch_equals_its_pictures_one_by_one(measure: Measure) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (3, 24, 40, 3), generator=generator, dtype=torch.uint8)
    assert measure(pictures).shape == (3,)
    assert measure(pictures).tolist() == pytest.approx([measure(picture[None]).item() for picture in pictures])


def test_errors_name_the_sizes() -> None:
    with pytest.raises(ConfigError, match="at least 3 x 3 pixels, got 2 x 9"):
        grain(grey(flat(2, 9)))
    with pytest.raises(ConfigError, match="got period 8 and 15 x 40 pixels"):
        grid_energy(grey(flat(15, 40)))
    for period in (0, 1):
        with pytest.raises(ConfigError, match=f"got period {period} and 32 x 32 pixels"):
            grid_energy(grey(flat()), period)
