import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import Tensor

from stylescore.method.spectrum import (
    ProgressiveSpectrum,
    absolute,
    cutoff,
    dct2,
    dct_matrix,
    low_pass_mask,
    no_spectrum,
    squared,
)

SIZES = [(16, 16), (20, 12), (12, 20), (13, 17), (1, 5)]
NAMES = ["square", "portrait", "landscape", "odd"]
sides = st.integers(1, 40)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def at(*t: int) -> Tensor:
    return torch.tensor(t)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_dct_equals_scipy(height: int, width: int) -> None:
    x = noise(2, 3, height, width)
    expected = torch.from_numpy(dctn(x.numpy(), norm="ortho", axes=(-2, -1)))
    assert torch.allclose(dct2(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 13, 64])
def test_dct_matrix_is_orthonormal(n: int) -> None:
    c = dct_matrix(n, dtype=torch.float64, device=torch.device("cpu"))
    assert torch.allclose(c @ c.mT, torch.eye(n, dtype=torch.float64), atol=1e-12)


def test_dct_matrix_is_exact_before_it_is_rounded() -> None:
    cpu = torch.device("cpu")
    single = dct_matrix(64, dtype=torch.float32, device=cpu)
    assert torch.equal(single, dct_matrix(64, dtype=torch.float64, device=cpu).float())


def test_dct_has_the_right_gradient() -> None:
    assert torch.autograd.gradcheck(dct2, noise(1, 2, 3, 4).requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_dct_equals_the_recording(units: dict[str, Tensor], name: str) -> None:
    recorded = units[f"dct/{name}/dct2"]
    assert torch.allclose(dct2(units[f"dct/{name}/x"]), recorded, atol=2e-4 * recorded.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_low_pass_equals_the_recording(units: dict[str, Tensor], name: str) -> None:
    recorded = {k: v for k, v in units.items() if k.startswith(f"dct/{name}/low_pass_")}
    assert len(recorded) == 5
    for key, kept in recorded.items():
        mask = low_pass_mask(at(int(key.rpartition("_")[2])), *kept.shape[-2:])
        assert torch.equal(units[f"dct/{name}/dct2"] * mask, kept)


@given(sides, sides, st.integers(0, 80))
def test_low_pass_keeps_exactly_the_coefficients_up_to_tau(height: int, width: int, tau: int) -> None:
    mask = low_pass_mask(at(tau), height, width)[0, 0]
    assert mask.tolist() == [[u + v <= tau for v in range(width)] for u in range(height)]


@given(sides, sides, st.integers(0, 999), st.integers(0, 999))
def test_what_is_kept_grows_with_t(height: int, width: int, a: int, b: int) -> None:
    small, large = low_pass_mask(cutoff(at(*sorted((a, b))), height, width), height, width)
    assert bool((large | ~small).all())


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 999), st.integers(1, 1000))
def test_cutoff_is_the_floor_in_whole_numbers(height: int, width: int, t: int, period: int) -> None:
    assert cutoff(at(t), height, width, period).tolist() == [t * (height + width - 2) // period]


@given(sides, sides, st.integers(500, 999))
def test_everything_is_kept_from_the_period_on(height: int, width: int, t: int) -> None:
    assert bool(low_pass_mask(cutoff(at(t), height, width), height, width).all())


@given(st.integers(2, 40), st.integers(2, 40))
def test_the_highest_frequency_is_dropped_just_before_the_period(height: int, width: int) -> None:
    mask = low_pass_mask(cutoff(at(499), height, width), height, width)
    assert not mask[0, 0, -1, -1]


def test_cutoff_equals_the_recorded_table(units_table: dict[str, dict[str, dict[str, int]]]) -> None:
    for name, table in units_table["psr_threshold"].items():
        side = int(name.rpartition("_")[2])
        ours = {t: int(cutoff(at(int(t)), side, side)) for t in table}
        assert ours == table


@pytest.mark.parametrize(("tau", "t"), [(0, 1), (5, 84), (22, 367), (30, 500)])
def test_loss_and_gradient_equal_the_recording(units: dict[str, Tensor], tau: int, t: int) -> None:
    z = units["psr/tgt"].clone().requires_grad_()
    assert int(cutoff(at(t), 16, 16)) == tau
    loss = ProgressiveSpectrum(weight=5e-4)(z, units["psr/src"], at(t))
    loss.sum().backward()
    assert torch.allclose(loss, units[f"psr/loss_{tau}"], rtol=1e-5)
    recorded = units[f"psr/grad_{tau}"]
    assert torch.allclose(z.grad, recorded, atol=1e-4 * recorded.abs().max().item())


def closed_form(difference: Tensor, tau: int, distance: str) -> tuple[float, Tensor]:
    """Return mean |c| or mean c^2 over all entries, and its gradient through SciPy's inverse."""
    height, width = difference.shape[-2:]
    kept = torch.tensor([[float(u + v <= tau) for v in range(width)] for u in range(height)])
    c = torch.from_numpy(dctn(difference.numpy(), norm="ortho", axes=(-2, -1))) * kept
    value, slope = (c.abs(), c.sign()) if distance == "l1" else (c.square(), 2 * c)
    gradient = idctn((slope * kept).numpy(), norm="ortho", axes=(-2, -1)) / c.numel()
    return value.mean().item(), torch.from_numpy(gradient)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_loss_and_gradient_equal_their_closed_form(height: int, width: int, distance: str) -> None:
    z, source = noise(1, 4, height, width, seed=1).requires_grad_(), noise(1, 4, height, width, seed=2)
    regulariser = ProgressiveSpectrum(weight=0.25, distance={"l1": absolute, "l2": squared}[distance])
    loss = regulariser(z, source, at(251))
    loss.sum().backward()
    value, gradient = closed_form((z - source).detach(), 251 * (height + width - 2) // 500, distance)
    assert loss.item() == pytest.approx(0.25 * value)
    assert torch.allclose(z.grad, 0.25 * gradient, atol=1e-12)


def test_an_untouched_latent_costs_nothing_and_has_no_gradient() -> None:
    z = noise(1, 4, 6, 6).requires_grad_()
    loss = ProgressiveSpectrum(weight=1.0)(z, z.detach().clone(), at(499))
    loss.sum().backward()
    assert loss.item() == 0
    assert not z.grad.any()


def test_a_batch_with_several_timesteps_equals_one_by_one() -> None:
    z, source, t = noise(3, 4, 6, 9, seed=1), noise(3, 4, 6, 9, seed=2), at(21, 251, 999)
    regulariser = ProgressiveSpectrum(weight=0.5)
    alone = [regulariser(z[n : n + 1], source[n : n + 1], t[n : n + 1]) for n in range(3)]
    together = regulariser(z, source, t)
    assert torch.allclose(together, torch.cat(alone), rtol=1e-12)
    assert len(set(together.tolist())) == 3


def test_the_period_moves_the_timestep_at_which_all_is_held() -> None:
    z = dct2(torch.zeros(1, 1, 4, 4, dtype=torch.float64))
    z[..., -1, -1] = 1.0
    highest = torch.from_numpy(idctn(z.numpy(), norm="ortho", axes=(-2, -1)))
    source = torch.zeros_like(highest)
    assert ProgressiveSpectrum(weight=16.0, period=100)(highest, source, at(100)).item() == pytest.approx(1)
    assert ProgressiveSpectrum(weight=16.0)(highest, source, at(100)).item() == pytest.approx(0, abs=1e-12)


def test_no_spectrum_is_zero_for_every_sample() -> None:
    z = noise(3, 1, 2, 2)
    assert no_spectrum(z, z + 1, at(1, 2, 3)).tolist() == [0, 0, 0]


def test_the_lowest_frequencies_can_be_left_free() -> None:
    z, z_source, t = torch.ones(1, 2, 6, 5), torch.zeros(1, 2, 6, 5), torch.tensor([499])
    assert ProgressiveSpectrum(weight=1.0)(z, z_source, t).item() > 0
    assert ProgressiveSpectrum(weight=1.0, free_below=1)(z, z_source, t).item() == pytest.approx(0, abs=1e-6)
    mask = low_pass_mask(torch.tensor([3]), 6, 5, free_below=2)
    kept = {(u, v) for u in range(6) for v in range(5) if mask[0, 0, u, v]}
    assert kept == {(u, v) for u in range(6) for v in range(5) if 2 <= u + v <= 3}
