"""From configuration to objects: the only place where names of methods, samplers and weights are matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import torch

from stylescore.config.method import (
    FakeWeightName,
    MethodConfig,
    RelevanceConfig,
    SpectrumConfig,
    TimestepConfig,
    WeightName,
)
from stylescore.diffusion.backbone import Backbone, Prompted
from stylescore.diffusion.batching import Ask, Joint, pays
from stylescore.diffusion.codec import Codec, Pictures
from stylescore.diffusion.text import TextEncoder
from stylescore.method import relevance, schedule, spectrum, timesteps
from stylescore.method.directions import Normalised
from stylescore.method.fake_score import FakeScore, as_it_is, shifted
from stylescore.method.fit import Fitting
from stylescore.method.objective import ConsistentNoise, Objective, dds, gaussian, pds, sds, sms, stream, vsd
from stylescore.method.optimisers import learning_rate, make_optimiser
from stylescore.method.schedule import NoiseSchedule, Weight
from stylescore.method.scores import ScoreName, Scores, contrast, guide
from stylescore.method.subjects import LatentSubject, Subject
from stylescore.method.timesteps import Grid, TimestepSampler
from stylescore.method.types import Latent, Rng


@dataclass(frozen=True, kw_only=True)
class Models:
    """The networks of a run.

    Attributes:
        base: under the real and the fake score.
        style: under the style score; the same object where both share a base.
        codec: pictures to latents and back.
        text: encoder of every prompt but the style score's.
        style_text: encoder of the style score's prompts, with the adapter's text part where there is one.
        together: whether scores that share a network are asked in one call; `None` has it so where that pays.
    """

    base: Backbone
    style: Backbone
    codec: Codec
    text: TextEncoder
    style_text: TextEncoder
    together: bool | None = None

    def tiled(self, cells: int | None, codec: int | None) -> Models:
        """Return the same networks, asked in windows of so many latent cells, and the autoencoder in its own."""
        base = replace(self.base, tile=cells)
        style = base if self.style is self.base else replace(self.style, tile=cells)
        return replace(self, base=base, style=style, codec=replace(self.codec, tile=codec))


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The words of a batch, one entry per picture."""

    target: Sequence[str]
    edit: Sequence[str]
    caption: Sequence[str]

    @classmethod
    def of(cls, method: MethodConfig, style: str, captions: Sequence[str]) -> Prompts:
        """Fill in the method's prompt templates; an empty caption leaves no dangling comma."""
        return cls(
            target=[filled(method.target_prompt, style, caption) for caption in captions],
            edit=[filled(method.relevance.edit_prompt, style, caption) for caption in captions],
            caption=list(captions),
        )


def filled(template: str, style: str, caption: str) -> str:
    """Fill in a prompt template."""
    return template.format(style=style, caption=caption).strip().strip(",").strip()


def make_weight(name: WeightName) -> Weight:
    """Return w_t by name."""
    match name:
        case "posterior":
            return schedule.posterior_weight
        case "noise":
            return schedule.noise_weight
        case "unit":
            return schedule.unit_weight
        case "clean" | "normalised":
            return schedule.clean_weight
        case _:
            assert_never(name)


def make_fake_weight(name: FakeWeightName) -> Weight:
    """Return the weight of the fake score's loss by name."""
    match name:
        case "alpha_bar_squared":
            return schedule.alpha_bar_squared_weight
        case "min_snr":
            return schedule.min_snr_weight
        case "unit":
            return schedule.unit_weight
        case _:
            assert_never(name)


def make_sampler(config: TimestepConfig, stride: int) -> TimestepSampler:
    """Return the timestep sampler."""
    grid = Grid(t_min=config.t_min, t_max=config.t_max, stride=stride)
    match config.sampler:
        case "narrowing":
            return timesteps.Narrowing(grid)
        case "uniform":
            return timesteps.Uniform(grid)
        case "annealed":
            return timesteps.Annealed(grid)
        case _:
            assert_never(config.sampler)


def make_relevance(config: RelevanceConfig) -> relevance.Relevance:
    """Return the relevance map; strength 0 asks no model."""
    if config.strength == 0:
        return relevance.everywhere
    by_name = {
        "mean_then_absolute": relevance.mean_then_absolute,
        "absolute_then_mean": relevance.absolute_then_mean,
    }
    return relevance.SemanticRelevance(
        reduce=by_name[config.reduction], upper=config.upper_quantile, strength=config.strength
    )


def make_spectrum(config: SpectrumConfig) -> spectrum.SpectrumLoss:
    """Return the regulariser; weight 0 computes nothing."""
    if config.weight == 0:
        return spectrum.no_spectrum
    distance = {"l1": spectrum.absolute, "l2": spectrum.squared}[config.distance]
    return spectrum.ProgressiveSpectrum(
        weight=config.weight, distance=distance, period=config.period, free_below=config.free_below
    )


def make_objective(method: MethodConfig, noise_schedule: NoiseSchedule) -> Objective:
    """Assemble the method."""
    objective = replace(bare_objective(method, noise_schedule), noise=ConsistentNoise(method.consistent_noise))
    if method.weight == "normalised" and method.method != "pds":
        objective = replace(objective, direction=Normalised(objective.direction, noise_schedule))
    return objective


def bare_objective(method: MethodConfig, noise_schedule: NoiseSchedule) -> Objective:
    """Return the method's own formula."""
    sampler = make_sampler(method.timesteps, noise_schedule.stride)
    weight, anchor = make_weight(method.weight), method.fake.anchor
    match method.method:
        case "sms":
            return sms(
                noise_schedule,
                sampler,
                relevance=make_relevance(method.relevance),
                spectrum=make_spectrum(method.spectrum),
                weight=weight,
                anchor=anchor,
            )
        case "vsd":
            return vsd(noise_schedule, sampler, weight=weight, anchor=anchor)
        case "sds":
            return sds(noise_schedule, sampler, weight=weight)
        case "dds":
            return dds(noise_schedule, sampler, weight=weight)
        case "pds":
            return pds(noise_schedule, sampler)
        case _:
            assert_never(method.method)


def guided(prompted: Prompted, guidance_scale: float) -> Ask:
    """Return the score under guidance; scale 1 asks no unconditional half."""
    return Ask(prompted, None if guidance_scale == 1 else partial(guide, s=guidance_scale))


def make_scores(models: Models, method: MethodConfig, prompts: Prompts) -> tuple[Scores, Prompted]:
    """Encode the prompts; return the four scores, and the fake one for its training."""
    count = len(prompts.target)
    nothing = [""] * count
    null, target, edit, caption = models.text.encode_groups([nothing, prompts.target, prompts.edit, prompts.caption])
    style_null, style_target = models.style_text.encode_groups([nothing, prompts.target])
    fake = Prompted(models.base, target, null, fake=True)
    style = Prompted(models.style, style_target, style_null, style=True)
    asks: dict[ScoreName, Ask] = {
        "style": guided(style, method.guidance_scale),
        "fake": guided(fake, method.fake.guidance_scale),
        "edit": Ask(Prompted(models.base, edit, null), contrast),
        "source": guided(Prompted(models.base, caption, null), method.guidance_scale),
    }
    joint = pays(count, models.base.network.device) if models.together is None else models.together
    scores = Scores(**asks, together=Joint(asks) if joint else None)
    return scores, fake


def make_fake(models: Models, method: MethodConfig, predictor: Prompted, rng: Rng) -> FakeScore:
    """Attach a fresh fake branch to the base and return its training."""
    config, backbone = method.fake, models.base
    owners = rng[:1] if config.scope == "batch" else rng
    parameters = backbone.adapters.add_fake(config.targets, config.rank, config.alpha, owners)
    return FakeScore(
        predictor=predictor.alone,
        parameters=parameters,
        optimiser=torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0),
        schedule=backbone.schedule,
        timesteps=make_fake_sampler(method, backbone.schedule.stride),
        weight=make_fake_weight(config.weight),
        augment=shifted if config.augment == "shifts" else as_it_is,
    )


def make_fake_sampler(method: MethodConfig, stride: int) -> TimestepSampler:
    """Return the sampler of the timesteps that the fake score is trained on."""
    if method.fake.sampler == "run":
        return make_sampler(method.timesteps, stride)
    return timesteps.Uniform(Grid(t_min=method.fake.t_min, t_max=method.fake.t_max, stride=stride))


def encode_sources(models: Models, method: MethodConfig, pictures: Pictures, rng: Rng) -> Latent:
    """Encode the photos as the method asks."""
    return models.codec.encode(pictures, rng if method.sample_posterior else None)


def fit_latents(
    models: Models, method: MethodConfig, prompts: Prompts, z_source: Latent, rng: Rng, *, refined: bool = False
) -> Fitting:
    """Assemble a run that fits one latent per picture.

    Args:
        models: the networks.
        method: constants, with the content knob applied.
        prompts: words, one entry per picture.
        z_source: latents of the photos, [batch, c, h, w].
        rng: one CPU generator per picture.
        refined: whether the run's iterations are followed by those of the refinement.
    """
    subject = LatentSubject.at(z_source)
    fitting = assemble(models, method, prompts, subject, rng, rate_scale(method, subject))
    if method.relevance.timesteps and fitting.objective.relevance is not relevance.everywhere:
        fitting.objective = with_kept_maps(fitting, method, subject.z_source)
    if refined:
        add_refinement(fitting, method, models.base.schedule.stride)
        fitting.learning_rate = learning_rate(method.optimiser, fitting.iterations, rate_scale(method, subject))
    return fitting


def rate_scale(method: MethodConfig, subject: LatentSubject) -> float:
    """Return what a learning rate is multiplied with: plain gradient descent undoes the mean of the loss."""
    return subject.z[0].numel() if method.optimiser.name == "sgd" else 1.0


def add_refinement(fitting: Fitting, method: MethodConfig, stride: int) -> None:
    """Add the refinement's iterations and timesteps to a run, in place."""
    total = method.iterations + method.refine.iterations
    small = make_sampler(replace(method.timesteps, t_max=method.refine.t_max), stride)
    share = method.iterations / total
    fitting.iterations = total
    fitting.objective = replace(
        fitting.objective, timesteps=timesteps.Staged(fitting.objective.timesteps, small, share)
    )
    if isinstance(fitting.fake, FakeScore) and method.fake.sampler == "run":
        fitting.fake = replace(fitting.fake, timesteps=fitting.objective.timesteps)


def enlarge(
    fitting: Fitting, models: Models, method: MethodConfig, prompts: Prompts, z: Latent, z_source: Latent
) -> None:
    """Let a run go on with larger latents; the fake adapter and the maps come along.

    Args:
        fitting: the run, changed in place.
        models: the networks for latents of the new size.
        method: its constants.
        prompts: its words.
        z: where the pictures stand.
        z_source: latents of the photos at the new size.
    """
    subject = LatentSubject(z_source.float(), torch.nn.Parameter(z.float()))
    fitting.scores, fake = make_scores(models, method, prompts)
    fitting.subject = subject
    fitting.optimiser = make_optimiser(method.optimiser, subject.parameters())
    fitting.learning_rate = learning_rate(method.optimiser, fitting.iterations, rate_scale(method, subject))
    if isinstance(fitting.fake, FakeScore):
        fitting.fake = replace(fitting.fake, predictor=fake.alone)
    maps = fitting.objective.relevance
    if isinstance(maps, relevance.KeptRelevance):
        fitting.objective = replace(fitting.objective, relevance=relevance.enlarged(maps, *z.shape[-2:]))


def with_kept_maps(fitting: Fitting, method: MethodConfig, z_source: Latent) -> Objective:
    """Return the run's objective with the maps made beforehand.

    Their noise comes from generators of their own, so that a run taken up again has the same maps and the run's draws
    do not depend on how many maps there are.
    """
    objective, count = fitting.objective, method.relevance.timesteps
    rng = stream(fitting.rng, 1)
    at = relevance.spread(method.timesteps.t_min, method.timesteps.t_max, count)
    eps = torch.stack([gaussian(z_source, rng) for _ in range(count)])
    maps = relevance.kept(objective.relevance, objective.schedule, fitting.scores, z_source, at, eps)
    asks = tuple(name for name in objective.asks if name != "edit")
    return replace(objective, relevance=maps, asks=asks)


def assemble(
    models: Models, method: MethodConfig, prompts: Prompts, subject: Subject, rng: Rng, lr_scale: float = 1.0
) -> Fitting:
    """Assemble a run for any subject."""
    scores, fake_prompted = make_scores(models, method, prompts)
    fake = make_fake(models, method, fake_prompted, rng) if method.asks_fake else None
    return Fitting(
        subject=subject,
        objective=make_objective(method, models.base.schedule),
        scores=scores,
        optimiser=make_optimiser(method.optimiser, subject.parameters()),
        learning_rate=learning_rate(method.optimiser, method.iterations, lr_scale),
        fake=fake,
        rng=rng,
        iterations=method.iterations,
        shared=method.fake.shared,
        counter=models.base.counter,
    )
