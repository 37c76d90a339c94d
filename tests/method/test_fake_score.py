from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stylescore.method.fake_score import FakeScore, denoising_loss, random_shift
from stylescore.method.schedule import NoiseSchedule, alpha_bar_squared_weight, unit_weight
from stylescore.method.timesteps import Grid, Uniform

Rngs = Callable[..., list[torch.Generator]]


class Slope(nn.Module):
    """Predicts a z_t with one trainable number a."""

    def __init__(self, a: float = 0.5) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append((z_t, t))
        return self.a * z_t


def fake_of(model: Slope, schedule: NoiseSchedule, lr: float = 0.1, **changes: object) -> FakeScore:
    return FakeScore(
        predictor=model,
        parameters=tuple(model.parameters()),
        optimiser=torch.optim.SGD(model.parameters(), lr=lr),
        schedule=schedule,
        timesteps=Uniform(Grid(t_min=21, t_max=499)),
        **changes,
    )


def latents(count: int = 2) -> Tensor:
    return torch.randn(count, 4, 3, 3, generator=torch.Generator().manual_seed(3))


def test_the_loss_is_the_mean_square_of_the_weighted_error() -> None:
    eps_hat, eps = latents(), latents().flip(0)
    abar = torch.tensor([0.25, 0.5]).view(-1, 1, 1, 1)
    expected = (abar * eps_hat - abar * eps).square().mean(dim=(1, 2, 3))
    assert torch.allclose(denoising_loss(eps_hat, eps, abar.square()), expected)


def test_a_step_by_hand(schedule: NoiseSchedule, rngs: Rngs) -> None:
    model, z = Slope(), latents(1)
    step = fake_of(model, schedule)(z, progress=0.9, rng=rngs(4))
    (rng,) = rngs(4)
    t = torch.tensor([2 * int(torch.randint(10, 250, (), generator=rng)) + 1])
    eps = torch.randn(z.shape[1:], generator=rng)[None]
    z_t, weight = schedule.add_noise(z, eps, t), schedule.alpha_bar(t).square().item()
    gradient = weight * (2 * (0.5 * z_t - eps) * z_t).mean()
    assert torch.equal(step.t, t)
    assert step.loss.item() == pytest.approx(weight * (0.5 * z_t - eps).square().mean().item())
    assert model.a.item() == pytest.approx(0.5 - 0.1 * gradient.item())


def test_the_default_weight_is_that_of_the_released_code(schedule: NoiseSchedule) -> None:
    assert fake_of(Slope(), schedule).weight is alpha_bar_squared_weight


def test_the_weight_can_be_another(schedule: NoiseSchedule) -> None:
    z, t, eps = latents(1), torch.tensor([301]), latents(1).flip(2)
    weighted, plain = fake_of(Slope(), schedule), fake_of(Slope(), schedule, weight=unit_weight)
    first = weighted.learn(weighted.predict(z, t), eps, t)
    second = plain.learn(plain.predict(z, t), eps, t)
    assert torch.allclose(first.loss, second.loss * schedule.alphas_cumprod[301] ** 2)


def test_a_prediction_can_be_learned_from_wherever_it_is_made(schedule: NoiseSchedule) -> None:
    model, z_t = Slope(), latents().requires_grad_()
    with torch.no_grad():
        eps_hat = fake_of(model, schedule).predict(z_t, torch.tensor([21, 499]))
    assert eps_hat.requires_grad
    (reached,) = torch.autograd.grad(eps_hat.sum(), z_t, allow_unused=True)
    assert reached is None


def test_no_gradient_reaches_the_picture(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z = latents().requires_grad_()
    fake_of(Slope(), schedule)(z, progress=0.0, rng=rngs(1, 2))
    assert z.grad is None


def test_one_call_asks_the_predictor_once(schedule: NoiseSchedule, rngs: Rngs) -> None:
    model = Slope()
    fake_of(model, schedule)(latents(), progress=0.0, rng=rngs(1, 2))
    ((z_t, t),) = model.asked
    assert len(z_t) == len(t) == 2


def test_gradients_of_an_earlier_step_are_forgotten(schedule: NoiseSchedule, rngs: Rngs) -> None:
    fresh, used = Slope(), Slope()
    used.a.grad = torch.tensor(100.0)
    for model in (fresh, used):
        fake_of(model, schedule)(latents(), progress=0.0, rng=rngs(1, 2))
    assert fresh.a.item() == used.a.item()


def test_a_gradient_that_is_not_finite_moves_nothing(schedule: NoiseSchedule, rngs: Rngs) -> None:
    model = Slope()
    model.a.register_hook(lambda gradient: gradient * float("inf"))
    step = fake_of(model, schedule)(latents(), progress=0.0, rng=rngs(1, 2))
    assert bool(step.loss.isfinite().all())
    assert not step.finite
    assert model.a.item() == 0.5


def test_a_loss_that_is_not_finite_moves_nothing(schedule: NoiseSchedule, rngs: Rngs) -> None:
    model = Slope()
    z = latents()
    z[1, 0, 0, 0] = float("nan")
    step = fake_of(model, schedule)(z, progress=0.0, rng=rngs(1, 2))
    assert step.loss.isfinite().tolist() == [True, False]
    assert not step.finite
    assert model.a.item() == 0.5


def test_the_least_squares_slope_is_learned(schedule: NoiseSchedule) -> None:
    """For z = 0 the noise is z_t / sigma_t, so at one t the trained slope is 1 / sigma_t."""
    model, t = Slope(), torch.tensor([301])
    fake = FakeScore(
        predictor=model,
        parameters=tuple(model.parameters()),
        optimiser=torch.optim.SGD(model.parameters(), lr=0.5),
        schedule=schedule,
        timesteps=lambda progress, rng: t,
        weight=unit_weight,
    )
    rng = [torch.Generator().manual_seed(0)]
    for _ in range(100):
        fake(torch.zeros(1, 4, 3, 3), progress=0.0, rng=rng)
    assert model.a.item() == pytest.approx(1 / schedule.sigma(t).item(), rel=1e-4)


def test_shifted_views_hold_the_same_cells_and_belong_to_their_own_generator(rngs: Rngs) -> None:
    z = latents(2)
    views = random_shift(z, rngs(1, 2))
    for n, seed in enumerate((1, 2)):
        assert torch.equal(views[n], random_shift(z[n : n + 1], rngs(seed))[0])
        assert torch.equal(views[n].flatten(1).sort().values, z[n].flatten(1).sort().values)
    assert len({tuple(random_shift(z[:1], rngs(seed)).flatten().tolist()) for seed in range(40)}) > 10


def test_a_view_is_what_the_score_is_trained_on(schedule: NoiseSchedule, rngs: Rngs) -> None:
    views, model = [], Slope()

    def doubled(z: Tensor, rng: list[torch.Generator]) -> Tensor:
        views.append(2 * z)
        return views[-1]

    training = fake_of(model, schedule, augment=doubled, noise=lambda like, rng: torch.zeros_like(like))
    step = training(latents(1), progress=0.0, rng=rngs(1))
    assert torch.equal(model.asked[0][0], schedule.alpha(step.t) * views[0])
