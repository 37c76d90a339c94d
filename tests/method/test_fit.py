import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from stylescore.assembly.fitting import Prompts, fit_latents
from stylescore.assembly.networks import Networks
from stylescore.assembly.objectives import make_learning_rate, make_optimiser
from stylescore.config import presets
from stylescore.config.content_knob import with_content
from stylescore.config.method import Method, MethodConfig, OptimiserConfig
from stylescore.errors import NonFiniteError
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting, Iteration, fit
from stylescore.method.objective import sds, vsd
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import PassCounter, Scores, SeparateScores
from stylescore.method.subjects import LatentSubject
from stylescore.method.timesteps import Grid, Narrowing, Uniform

GRID = Grid(t_min=21, t_max=499)


class Trainable(nn.Module):
    """A fake score with one number; counts its passes and answers with NaN in one of its training calls."""

    def __init__(self, counter: PassCounter, fails_at: int | None) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))
        self.counter, self.fails_at, self.trained = counter, fails_at, 0

    def forward(self, z_t: Tensor, t: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.counter.trained += len(z_t)
            self.trained += 1
            factor = math.nan if self.trained - 1 == self.fails_at else 1.0
            return factor * self.a * z_t
        self.counter.forward += len(z_t)
        return self.a * z_t


@dataclass
class Style:
    """Pulls towards -z; answers with NaN in one of its calls."""

    counter: PassCounter
    fails_at: int | None = None
    calls: int = 0

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        self.counter.forward += len(z_t)
        self.calls += 1
        return z_t.clone().fill_(math.nan) if self.calls - 1 == self.fails_at else -z_t


def never(z_t: Tensor, t: Tensor) -> Tensor:
    raise AssertionError("this score must not be asked")


def fitting_of(
    schedule: NoiseSchedule,
    *,
    seed: int = 0,
    iterations: int = 6,
    style_fails_at: int | None = None,
    fake_fails_at: int | None = None,
    lr: float = 0.1,
) -> Fitting:
    counter = PassCounter()
    model = Trainable(counter, fake_fails_at)
    z_source = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(8))
    subject = LatentSubject.at(z_source)
    fake = FakeScore(
        predictor=model,
        parameters=tuple(model.parameters()),
        optimiser=torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0),
        schedule=schedule,
        timesteps=Uniform(GRID),
    )
    return Fitting(
        subject=subject,
        objective=vsd(schedule, Narrowing(GRID)),
        scores=SeparateScores({"style": Style(counter, style_fails_at), "fake": model}),
        optimiser=torch.optim.AdamW(subject.parameters(), lr=lr),
        learning_rate=lambda i: lr * (i + 1),
        fake=fake,
        rng=[torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 100)],
        iterations=iterations,
        counter=counter,
    )


def moved(fitting: Fitting) -> tuple[Tensor, Tensor]:
    """Return copies of the latents and of the fake score's number."""
    assert fitting.fake is not None
    return fitting.subject.render().clone(), fitting.fake.parameters[0].detach().clone()


def test_every_iteration_is_yielded_once_and_in_order(schedule: NoiseSchedule) -> None:
    run = list(fit(fitting_of(schedule)))
    assert [iteration.index for iteration in run] == list(range(6))
    assert all(isinstance(iteration, Iteration) for iteration in run)


def test_nothing_happens_before_the_first_iteration_is_asked_for(schedule: NoiseSchedule) -> None:
    fitting = fitting_of(schedule)
    fit(fitting)
    assert fitting.counter.snapshot() == (0, 0)


def test_a_run_can_be_left_and_gone_on_with(schedule: NoiseSchedule) -> None:
    straight, broken = fitting_of(schedule), fitting_of(schedule)
    list(fit(straight))
    first = fit(broken)
    next(first), next(first)
    assert broken.iteration == 2
    assert [iteration.index for iteration in fit(broken)] == [2, 3, 4, 5]
    assert all(torch.equal(a, b) for a, b in zip(moved(straight), moved(broken), strict=True))


def test_the_same_seed_gives_the_same_bits(schedule: NoiseSchedule) -> None:
    runs = [fitting_of(schedule, seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        list(fit(run))
    first, again, other = (moved(run) for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_subject_moves_against_its_gradient_with_the_rate_of_the_iteration(
    schedule: NoiseSchedule,
) -> None:
    fitting = fitting_of(schedule, iterations=2)
    fitting.optimiser = torch.optim.SGD(fitting.subject.parameters(), lr=99.0)
    before = fitting.subject.z_source
    for iteration in fit(fitting):
        expected = before - iteration.learning_rate * iteration.step.gradient / 36
        assert iteration.learning_rate == pytest.approx(0.1 * (iteration.index + 1))
        assert torch.allclose(fitting.subject.render(), expected, atol=1e-7)
        before = fitting.subject.render().clone()


def test_the_fake_score_is_trained_on_the_picture_after_its_step(schedule: NoiseSchedule) -> None:
    fitting, seen = fitting_of(schedule, iterations=1), []
    training = fitting.fake

    def watch(z: Tensor, *, progress: float, rng: list[torch.Generator]) -> object:
        seen.append(z.detach().clone())
        return training(z, progress=progress, rng=rng)

    fitting.fake = watch
    next(fit(fitting))
    assert torch.equal(seen[0], fitting.subject.render())
    assert not torch.equal(seen[0], fitting.subject.z_source)


def test_progress_is_the_share_of_the_run_that_is_over(schedule: NoiseSchedule) -> None:
    fitting, seen = fitting_of(schedule, iterations=4), []
    objective = fitting.objective

    def watch(z: Tensor, z_source: Tensor, scores: Scores, *, progress: float, rng: object) -> object:
        seen.append(progress)
        return objective(z, z_source, scores, progress=progress, rng=rng)

    fitting.objective = watch
    list(fit(fitting))
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_passes_are_counted_in_every_iteration(schedule: NoiseSchedule) -> None:
    counts = {(i.forward_passes, i.trained_passes) for i in fit(fitting_of(schedule))}
    assert counts == {(4, 2)}


def test_a_method_without_a_fake_score_trains_nothing(schedule: NoiseSchedule) -> None:
    fitting = fitting_of(schedule)
    fitting.objective, fitting.fake = sds(schedule, Uniform(GRID)), None
    run = list(fit(fitting))
    assert {i.fake for i in run} == {None}
    assert {(i.forward_passes, i.trained_passes) for i in run} == {(2, 0)}


def assembled(models: Networks, method: MethodConfig) -> Fitting:
    """Assemble two iterations of a method on the tiny model, for two pictures."""
    prompts = Prompts.of(method, "ink", ["a house", "a lake"])
    z_source = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    return fit_latents(models, replace(method, iterations=2), prompts, z_source, rng)


@pytest.mark.parametrize(
    ("name", "style_guidance", "fake_guidance", "passes"),
    [
        ("sms", 4.5, 4.5, (6, 1)),
        ("sms", 4.5, 1.0, (5, 1)),
        ("sms", 1.0, 1.0, (4, 1)),
        ("vsd", 4.5, 4.5, (4, 1)),
        ("vsd", 7.5, 1.0, (3, 1)),
        ("sds", 7.5, 4.5, (2, 0)),
        ("dds", 7.5, 4.5, (4, 0)),
        ("pds", 7.5, 4.5, (4, 0)),
        ("pds", 1.0, 4.5, (2, 0)),
    ],
)
def test_passes_of_every_method(
    tiny_models: Callable[..., Networks],
    name: Method,
    style_guidance: float,
    fake_guidance: float,
    passes: tuple[int, int],
) -> None:
    method = presets.load("reference", name)
    fake = replace(method.fake, guidance_scale=fake_guidance)
    fitting = assembled(tiny_models(), replace(method, guidance_scale=style_guidance, fake=fake))
    counts = {(i.forward_passes / 2, i.trained_passes / 2) for i in fit(fitting)}
    assert counts == {passes}


def test_a_map_and_a_score_that_are_switched_off_cost_nothing(tiny_models: Callable[..., Networks]) -> None:
    method = with_content(presets.load("reference"), 0.0)
    counts = {(i.forward_passes / 2, i.trained_passes / 2) for i in fit(assembled(tiny_models(), method))}
    assert counts == {(4, 1)}


def test_an_unguided_fake_score_is_the_conditional_prediction(tiny_models: Callable[..., Networks]) -> None:
    method = presets.load("reference")
    unguided = replace(method, fake=replace(method.fake, guidance_scale=1.0))
    guided, plain = (assembled(tiny_models(), m).scores for m in (method, unguided))
    z_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([21, 499])
    with torch.no_grad():
        fake = guided["fake"]
        eps_c, eps_u = (replace(fake, combine=lambda c, u, n=n: (c, u)[n])(z_t, t) for n in (0, 1))
        assert torch.allclose(plain["fake"](z_t, t), eps_c, atol=1e-5)
        assert torch.allclose(fake(z_t, t), eps_u + 4.5 * (eps_c - eps_u), atol=1e-4)
    assert not torch.allclose(eps_c, eps_u, atol=1e-3)


@pytest.mark.parametrize("name", ["dds", "pds"])
@pytest.mark.parametrize(
    ("template", "strength", "equal"),
    [("{caption}", 0.0, True), ("{caption}", 0.8, False), ("{style}, {caption}", 0.0, False)],
)
def test_the_source_half_has_the_caption_and_no_adapter(
    tiny_models: Callable[..., Networks], name: Method, template: str, strength: float, equal: bool
) -> None:
    """A style of strength zero under the caption as its prompt is the source score itself."""
    method = replace(presets.load("reference", name), target_prompt=template)
    scores = assembled(tiny_models(strength), method).scores
    z_t, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([21, 499])
    with torch.no_grad():
        assert torch.allclose(scores["style"](z_t, t), scores["source"](z_t, t), atol=1e-4) == equal


@pytest.mark.parametrize("k", [0, 3])
def test_a_style_score_that_is_not_finite_stops_the_run_and_moves_nothing(schedule: NoiseSchedule, k: int) -> None:
    fitting = fitting_of(schedule, style_fails_at=k)
    run, before = fit(fitting), moved(fitting)
    for _ in range(k):
        next(run)
        before = moved(fitting)
    with pytest.raises(NonFiniteError, match=rf"gradient .* at step {k} \(t = \d+, \d+\)") as caught:
        next(run)
    assert caught.value.iteration == k == fitting.iteration
    assert all(21 <= t <= 499 for t in caught.value.timesteps)
    assert all(torch.equal(a, b) for a, b in zip(before, moved(fitting), strict=True))


def test_a_fake_score_that_is_not_finite_stops_the_run_and_is_not_moved(schedule: NoiseSchedule) -> None:
    fitting = fitting_of(schedule, fake_fails_at=2)
    run = fit(fitting)
    next(run), next(run)
    before = moved(fitting)[1]
    with pytest.raises(NonFiniteError, match=r"the fake score .* at step 2") as caught:
        next(run)
    assert len(caught.value.timesteps) == 2
    assert torch.equal(moved(fitting)[1], before)


@pytest.mark.parametrize("iterations", [30, 100, 300, 500, 1000])
def test_learning_rates_equal_the_recording(units: dict[str, Tensor], iterations: int) -> None:
    at = make_learning_rate(OptimiserConfig(), iterations)
    ours = torch.tensor([at(i) for i in range(iterations)])
    assert torch.allclose(ours, units[f"lr/{iterations}"], rtol=1e-6, atol=1e-9)


def test_a_warm_up_fraction_is_a_part_of_the_run() -> None:
    share = make_learning_rate(OptimiserConfig(warmup=0, warmup_fraction=0.1), 200)
    count = make_learning_rate(OptimiserConfig(warmup=20), 200)
    assert [share(i) for i in range(200)] == pytest.approx([count(i) for i in range(200)])
    assert share(0) == 0
    assert share(20) == pytest.approx(0.1)


def test_a_cosine_of_length_zero_keeps_the_rate() -> None:
    at = make_learning_rate(OptimiserConfig(lr=0.5, warmup=2, cosine_length=0.0), 10, scale=3.0)
    assert [at(i) for i in (0, 1, 2, 9)] == [0, 0.75, 1.5, 1.5]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_optimisers_by_name(name: str, kind: type[torch.optim.Optimizer]) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    config = OptimiserConfig(name=name, lr=0.25, weight_decay=0.5, beta1=0.8, beta2=0.7)
    optimiser = make_optimiser(config, [parameter])
    (group,) = optimiser.param_groups
    assert type(optimiser) is kind
    assert group["lr"] == 0.25
    assert group["weight_decay"] == (0.5 if name == "adamw" else 0)
    assert group.get("betas", (0.8, 0.7)) == (0.8, 0.7)


def test_a_shared_iteration_is_the_separate_one_at_a_single_draw(schedule: NoiseSchedule) -> None:
    fitting, twin = replace(fitting_of(schedule), shared=True), fitting_of(schedule)
    assert twin.fake is not None
    z, z_source = twin.subject.draw(twin.rng)
    draw = twin.objective.draw(z, z_source, progress=0.0, rng=twin.rng)
    step = twin.objective.at(draw, z, twin.scores)
    learned = twin.fake.learn(twin.fake.predict(draw.z_t, draw.t), draw.eps, draw.t)

    done = next(fit(fitting))

    assert torch.equal(done.step.gradient, step.gradient)
    assert done.fake is not None
    assert torch.equal(done.fake.loss, learned.loss)
    assert torch.equal(done.fake.t, done.step.t)
    assert torch.equal(moved(fitting)[1], moved(twin)[1])
    assert not torch.equal(moved(fitting)[0], z_source)


def test_sharing_saves_the_pass_of_the_fake_score(schedule: NoiseSchedule) -> None:
    apart = next(fit(fitting_of(schedule)))
    shared = next(fit(replace(fitting_of(schedule), shared=True)))
    assert (apart.forward_passes, apart.trained_passes) == (4, 2)
    assert (shared.forward_passes, shared.trained_passes) == (2, 2)


@pytest.mark.parametrize(("style", "fake", "words"), [(2, None, "the gradient"), (None, 2, "the gradient")])
def test_a_shared_iteration_stops_where_something_is_not_finite(
    schedule: NoiseSchedule, style: int | None, fake: int | None, words: str
) -> None:
    fitting = replace(fitting_of(schedule, style_fails_at=style, fake_fails_at=fake), shared=True)
    run = fit(fitting)
    next(run), next(run)
    before = moved(fitting)
    with pytest.raises(NonFiniteError, match=words):
        next(run)
    assert all(torch.equal(a, b) for a, b in zip(before, moved(fitting), strict=True))
    assert fitting.iteration == 2
