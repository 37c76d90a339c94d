import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stylescore.method.objective import ConsistentNoise, Objective, dds, gaussian, pds, sds, sms, surrogate, vsd
from stylescore.method.relevance import SemanticRelevance, UniformRelevance
from stylescore.method.schedule import NoiseSchedule, posterior_weight
from stylescore.method.scores import ScoreName, Scores, SeparateScores
from stylescore.method.spectrum import ProgressiveSpectrum, no_spectrum
from stylescore.method.timesteps import Grid, Uniform
from stylescore.method.types import Step

Rngs = Callable[..., list[torch.Generator]]
UNIFORM = Uniform(Grid(t_min=21, t_max=499))


class Witness:
    """Scores that count their calls; predictions depend on the latent alone."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def score(self, name: str, slope: float) -> Callable[[Tensor, Tensor], Tensor]:
        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            self.asked.add(name)
            assert not torch.is_grad_enabled()
            return (slope * z_t).sin()

        return predict

    @property
    def scores(self) -> Scores:
        slopes: dict[ScoreName, float] = {"style": 1.0, "fake": 2.0, "edit": 3.0, "source": 4.0}
        return SeparateScores({name: self.score(name, slope) for name, slope in slopes.items()})


def full_sms(schedule: NoiseSchedule) -> Objective:
    spectrum = ProgressiveSpectrum(weight=0.5)
    return sms(schedule, UNIFORM, relevance=SemanticRelevance(), spectrum=spectrum)


METHODS = {
    "sms": (full_sms, {"style", "fake", "edit"}),
    "vsd": (lambda schedule: vsd(schedule, UNIFORM), {"style", "fake"}),
    "sds": (lambda schedule: sds(schedule, UNIFORM), {"style"}),
    "dds": (lambda schedule: dds(schedule, UNIFORM), {"style", "source"}),
    "pds": (lambda schedule: pds(schedule, UNIFORM), {"style", "source"}),
}


def latents(count: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(5)
    return torch.randn(count, 4, 6, 5, generator=rng), torch.randn(count, 4, 6, 5, generator=rng)


def step_of(objective: Objective, rng: list[torch.Generator], z: Tensor, z_source: Tensor) -> Step:
    return objective(z, z_source, Witness().scores, progress=0.0, rng=rng)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_evaluates_only_the_scores_it_needs(schedule: NoiseSchedule, rngs: Rngs, name: str) -> None:
    make, needed = METHODS[name]
    witness, (z, z_source) = Witness(), latents()
    make(schedule)(z, z_source, witness.scores, progress=0.0, rng=rngs(1, 2))
    assert witness.asked == needed


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_equals_its_pictures_one_by_one(schedule: NoiseSchedule, rngs: Rngs, name: str) -> None:
    objective, (z, z_source) = METHODS[name][0](schedule), latents(3)
    together = step_of(objective, rngs(1, 2, 3), z, z_source)
    alone = [step_of(objective, rngs(n + 1), z[n : n + 1], z_source[n : n + 1]) for n in range(3)]
    for field in dataclasses.fields(Step):
        separate = torch.cat([getattr(step, field.name) for step in alone])
        assert torch.allclose(getattr(together, field.name), separate, rtol=1e-5, atol=1e-7), field.name


def test_the_surrogate_has_half_the_mean_square_and_the_gradient_divided_by_numel() -> None:
    z, g = (x.double() for x in latents())
    z.requires_grad_()
    loss = surrogate(z, g)
    loss.sum().backward()
    assert torch.allclose(loss, 0.5 * g.square().mean(dim=(1, 2, 3)))
    assert torch.allclose(z.grad, g / 120)


def test_a_step_moves_by_direction_times_map_plus_the_spectrum(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, z_source = latents()
    z.requires_grad_()
    step = step_of(full_sms(schedule), rngs(1, 2), z, z_source)
    step.loss.sum().backward()
    free = z.detach().clone().requires_grad_()
    ProgressiveSpectrum(weight=0.5)(free, z_source, step.t).sum().backward()
    assert torch.allclose(z.grad, step.gradient / 120 + free.grad, atol=1e-7)
    assert torch.allclose(step.loss.detach(), step.score_loss + step.spectrum_loss)


def test_a_step_by_hand(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, z_source = latents(1)
    step = step_of(full_sms(schedule), rngs(7), z, z_source)
    (rng,) = rngs(7)
    t = UNIFORM(0.0, [rng])
    eps = torch.randn(z.shape[1:], generator=rng)[None]
    z_t, z_source_t = schedule.add_noise(z, eps, t), schedule.add_noise(z_source, eps, t)
    raw = (3 * z_source_t).sin().mean(dim=1, keepdim=True).abs()
    relevance = (raw - raw.min()) / (raw.max() - raw.min())
    gradient = schedule.posterior_variance(t) * (z_t.sin() - (2 * z_t).sin()) * relevance
    assert torch.equal(step.t, t)
    assert torch.allclose(step.relevance, relevance, atol=1e-6)
    assert torch.allclose(step.gradient, gradient, atol=1e-7)


def test_vsd_is_sms_without_map_and_spectrum(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, z_source = latents()
    bare = sms(schedule, UNIFORM, relevance=UniformRelevance(), spectrum=no_spectrum)
    ours = step_of(vsd(schedule, UNIFORM, weight=posterior_weight), rngs(1, 2), z, z_source)
    theirs = step_of(bare, rngs(1, 2), z, z_source)
    assert torch.equal(ours.gradient, theirs.gradient)
    assert not ours.spectrum_loss.any()


@pytest.mark.parametrize(
    ("name", "weight"), [("sms", "posterior"), ("vsd", "noise"), ("sds", "noise"), ("dds", "unit")]
)
def test_default_weights(schedule: NoiseSchedule, name: str, weight: str) -> None:
    assert METHODS[name][0](schedule).direction.weight.__name__ == f"{weight}_weight"


def test_noise_of_a_sample_does_not_depend_on_its_batch(rngs: Rngs) -> None:
    like = torch.zeros(3, 4, 2, 2)
    together = gaussian(like, rngs(1, 2, 3))
    alone = torch.cat([gaussian(like[:1], rngs(seed)) for seed in (1, 2, 3)])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])


def test_noise_has_the_type_of_the_latent(rngs: Rngs) -> None:
    assert gaussian(torch.zeros(1, 1, 2, 2, dtype=torch.float64), rngs(1)).dtype == torch.float64


def test_a_step_does_not_change_the_latent(schedule: NoiseSchedule, rngs: Rngs) -> None:
    z, z_source = latents()
    before = z.clone()
    step_of(full_sms(schedule), rngs(1, 2), z, z_source)
    assert torch.equal(z, before)


def test_consistent_noise_has_unit_variance_and_the_share_it_says(rngs: Rngs) -> None:
    like = torch.zeros(1, 4, 64, 64)
    rng = rngs(3)
    first, second = (ConsistentNoise(0.3)(like, rng) for _ in range(2))
    assert first.std().item() == pytest.approx(1.0, abs=0.03)
    assert (first * second).mean().item() == pytest.approx(0.3, abs=0.03)


def test_consistent_noise_of_a_share_of_0_is_fresh_and_of_1_is_always_the_same(rngs: Rngs) -> None:
    like = torch.zeros(2, 4, 3, 3)
    assert torch.equal(ConsistentNoise(0.0)(like, rngs(1, 2)), gaussian(like, rngs(1, 2)))
    rng = rngs(1, 2)
    assert torch.equal(ConsistentNoise(1.0)(like, rng), ConsistentNoise(1.0)(like, rng))


def test_consistent_noise_of_a_batch_is_that_of_its_pictures(rngs: Rngs) -> None:
    both = ConsistentNoise(0.5)(torch.zeros(2, 4, 3, 3), rngs(1, 2))
    for n, seed in enumerate((1, 2)):
        assert torch.equal(both[n], ConsistentNoise(0.5)(torch.zeros(1, 4, 3, 3), rngs(seed))[0])


def test_consistent_noise_goes_on_where_a_generators_state_is_put_back(rngs: Rngs) -> None:
    like, noise, rng = torch.zeros(1, 4, 3, 3), ConsistentNoise(0.5), rngs(7)
    noise(like, rng)
    state = rng[0].get_state()
    expected = noise(like, rng)
    (other,) = rngs(7)
    other.set_state(state)
    assert torch.equal(noise(like, [other]), expected)
