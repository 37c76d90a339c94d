"""From networks and constants to a run that can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from stylescore.assembly.networks import Networks
from stylescore.assembly.objectives import (
    make_fake_sampler,
    make_fake_weight,
    make_learning_rate,
    make_objective,
    make_optimiser,
    make_sampler,
    with_unit_steps,
)
from stylescore.baselines.styleid import begin_at, invert, match_statistics, times_of
from stylescore.config.method import MethodConfig
from stylescore.diffusion.adapters import TrainedAdapter
from stylescore.diffusion.batching import BatchedScores, PromptedScore, batching_is_faster
from stylescore.diffusion.codec import Pictures
from stylescore.diffusion.conditioning import Conditioning, Control
from stylescore.diffusion.dual_stream import DualStreamScore, DualStreamScores, Modulation, decoder_blocks
from stylescore.diffusion.injection import InjectedProcessor, InjectedScore, InjectedScores, injected_layers
from stylescore.diffusion.prompts import Parse, parse_plain
from stylescore.errors import ConfigError
from stylescore.method import relevance, timesteps
from stylescore.method.fake_score import FakeScore, identity, random_shift
from stylescore.method.fit import Fitting
from stylescore.method.objective import Objective, gaussian, stream
from stylescore.method.scores import ScoreName, contrast, guide
from stylescore.method.subjects import LatentSubject, Subject
from stylescore.method.types import Latent, Map, Rng


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of a batch.

    Attributes:
        target: of style and fake score, one per picture.
        edit: of the relevance map, one per picture.
        caption: of the source score, one per picture.
        negative: what classifier-free guidance moves away from.
        parse: splits a prompt into weighted fragments.
    """

    target: Sequence[str]
    edit: Sequence[str]
    caption: Sequence[str]
    negative: str = ""
    parse: Parse = parse_plain

    @property
    def every(self) -> tuple[str, ...]:
        """All prompts, each once."""
        return tuple(dict.fromkeys((*self.target, *self.edit, *self.caption, self.negative)))

    @classmethod
    def of(
        cls,
        method: MethodConfig,
        style: str,
        captions: Sequence[str],
        negative: str = "",
        parse: Parse = parse_plain,
    ) -> Prompts:
        """Fill in the method's prompt templates; an empty caption leaves no dangling comma."""
        return cls(
            negative=negative,
            parse=parse,
            target=[fill_template(method.target_prompt, style, caption) for caption in captions],
            edit=[fill_template(method.relevance.edit_prompt, style, caption) for caption in captions],
            caption=list(captions),
        )


@dataclass(frozen=True, kw_only=True)
class Guides:
    """What methods that denoise step by step follow besides the photos' latents.

    Attributes:
        control: a ControlNet of the style score, with a picture for each.
        style: latents of the style picture, [1, c, h, w].
        content: latents of the photos with their edges enhanced, [batch, c, h, w].
    """

    control: Control | None = None
    style: Latent | None = None
    content: Latent | None = None


def fill_template(template: str, style: str, caption: str) -> str:
    """Fill in a prompt template; an empty field leaves no comma behind, wherever it stands."""
    filled = template.format(style=style, caption=caption).strip()
    if style.strip() and caption.strip():
        return filled.strip(",").strip()
    return ", ".join(part for part in map(str.strip, filled.split(",")) if part)


def _guided(score: PromptedScore, guidance_scale: float) -> PromptedScore:
    """Return a score under guidance; scale 1 leaves out the unconditional prediction."""
    return replace(score, combine=None if guidance_scale == 1 else partial(guide, s=guidance_scale))


def make_scores(
    networks: Networks,
    method: MethodConfig,
    prompts: Prompts,
    fake: TrainedAdapter | None,
    control: Control | None = None,
) -> BatchedScores:
    """Encode the prompts and return the scores.

    Guidance moves away from the negative prompt; the relevance map is no guidance, it compares with the empty prompt.

    Args:
        networks: the networks.
        method: guidance scales.
        prompts: one entry per picture.
        fake: the run's fake adapter; without one there is no fake score.
        control: a ControlNet of the style score, with a picture for each.
    """
    count = len(prompts.target)
    empty, negative = [""] * count, [prompts.negative] * count
    text, style_text = (encoder.reading(prompts.parse, prompts.every) for encoder in networks.text_encoders)
    null, less, target, edit, caption = text.encode_groups(
        [empty, negative, prompts.target, prompts.edit, prompts.caption]
    )
    style_less, style_target = style_text.encode_groups([negative, prompts.target])
    style_target, style_less = (with_control(each, control, networks) for each in (style_target, style_less))
    style = PromptedScore(networks.style, style_target, style_less, style=True)
    scores: dict[ScoreName, PromptedScore] = {
        "style": _guided(style, method.guidance_scale),
        "edit": PromptedScore(networks.base, edit, null, contrast),
        "source": _guided(PromptedScore(networks.base, caption, less), method.guidance_scale),
    }
    if fake is not None:
        scores["fake"] = _guided(PromptedScore(networks.base, target, less, fake=fake), method.fake.guidance_scale)
    faster = batching_is_faster(count, networks.base.network.device)
    return BatchedScores(scores, faster if networks.batched is None else networks.batched)


def with_control(conditioning: Conditioning, control: Control | None, networks: Networks) -> Conditioning:
    """Return encoded prompts with a ControlNet's pictures, if there is one.

    Raises:
        ConfigError: the network is called in tiles, of which a ControlNet would see the whole picture each time.
    """
    if control is not None and networks.style.tile is not None:
        raise ConfigError(
            f"control needs the picture whole, not in tiles of {networks.style.tile} cells",
            hint="give --tile 0, or a smaller --size",
        )
    return replace(conditioning, control=control)


def new_fake_adapter(networks: Networks, method: MethodConfig, rng: Rng) -> TrainedAdapter:
    """Return a fresh fake adapter for the base: one for each picture, or one for the batch."""
    config = method.fake
    owners = rng[:1] if config.scope == "batch" else rng
    return networks.base.adapters.new_fake(config.targets, config.rank, config.alpha, owners)


def make_fake_score(method: MethodConfig, adapter: TrainedAdapter, scores: BatchedScores) -> FakeScore:
    """Return the training of the fake adapter; its unconditional prediction is never trained."""
    config, score = method.fake, scores["fake"]
    return FakeScore(
        predictor=replace(score, combine=None),
        parameters=adapter.parameters,
        optimiser=torch.optim.AdamW(adapter.parameters, lr=config.lr, weight_decay=0.0),
        schedule=score.backbone.schedule,
        timesteps=make_fake_sampler(method, score.backbone.schedule.stride),
        weight=make_fake_weight(config.weight),
        augment=random_shift if config.augment == "shifts" else identity,
    )


def encode_sources(networks: Networks, method: MethodConfig, pictures: Pictures, rng: Rng) -> Latent:
    """Encode the photos as the method states."""
    return networks.codec.encode(pictures, rng if method.sample_posterior else None)


def fit_latents(
    networks: Networks,
    method: MethodConfig,
    prompts: Prompts,
    z_source: Latent,
    rng: Rng,
    *,
    refined: bool = False,
    mask: Map | None = None,
    guides: Guides | None = None,
) -> Fitting:
    """Assemble a run that fits one latent per picture.

    Args:
        networks: the networks.
        method: constants, with the content knob applied.
        prompts: one entry per picture.
        z_source: latents of the photos, [batch, c, h, w].
        rng: one CPU generator per picture.
        refined: whether the run's iterations are followed by those of the refinement.
        mask: what the maps are multiplied with, [batch, 1, h, w].
        guides: what the method follows besides the photos.
    """
    guides = guides or Guides()
    subject = LatentSubject.at(z_source)
    method = with_unit_steps(method, len(networks.base.schedule.betas))
    fitting = assemble(networks, method, prompts, subject, rng, _rate_scale(method, subject), guides.control)
    if method.relevance.timesteps and fitting.objective.relevance.needs:
        fitting.objective = _precompute_maps(fitting, method, subject.z_source)
    if mask is not None and not method.is_sampling:  # its picture is laid over the photo at the end alone
        maps = relevance.MaskedRelevance(fitting.objective.relevance, mask)
        fitting.objective = replace(fitting.objective, relevance=maps)
    if guides.style is not None:
        _add_style_picture(fitting, networks, method, guides.style)
    if guides.content is not None:
        _add_content_stream(fitting, method, guides.content)
    if refined:
        _add_refinement(fitting, method, networks.base.schedule.stride)
        scale = _rate_scale(method, subject)
        fitting.learning_rate = make_learning_rate(method.optimiser, fitting.iterations, scale)
    return fitting


def _add_style_picture(fitting: Fitting, networks: Networks, method: MethodConfig, z_style: Latent) -> None:
    """Invert the photos and the style picture, and let a run begin and go on from both, in place.

    Nothing is drawn, so that a resumed run finds the same.
    """
    count, backbone, objective = len(fitting.rng), networks.base, fitting.objective
    injected_layers(backbone.network)  # refuses a network without them before anything is computed
    (empty,) = networks.text.encode_groups([[""] * count])
    plain, schedule, times = PromptedScore(backbone, empty, empty), objective.schedule, times_of(objective)
    if len(times) < 2:
        return
    z_source = fitting.subject.draw(fitting.rng)[1]
    content = invert(plain, schedule, z_source, times)
    one = PromptedScore(backbone, empty[:1], empty[:1])
    style = {t: z.expand(count, -1, -1, -1) for t, z in invert(one, schedule, z_style.float(), times).items()}
    processor = InjectedProcessor(method.styleid.gamma, method.styleid.temperature)
    fitting.scores = InjectedScores(InjectedScore(backbone, empty, content, style, processor))
    fitting.objective = begin_at(objective, match_statistics(content[times[0]], style[times[0]]))


def _add_content_stream(fitting: Fitting, method: MethodConfig, content: Latent) -> None:
    """Let the photos without noise go through the network beside the picture, in place.

    The noise that the run begins with comes from generators of its own, so that a resumed run has the same.
    """
    score, objective, times = fitting.scores["style"], fitting.objective, times_of(fitting.objective)
    assert isinstance(score, PromptedScore)
    decoder_blocks(score.backbone.network)  # refuses a network without them before anything is computed
    at = torch.full((len(content),), times[0], device=content.device)
    noise = gaussian(content, stream(fitting.rng, 3))
    modulation = Modulation(method.freestyle.backbone, method.freestyle.skip)
    fitting.scores = DualStreamScores(DualStreamScore(score, content.float(), modulation))
    fitting.objective = begin_at(objective, objective.schedule.add_noise(content.float(), noise, at))


def _rate_scale(method: MethodConfig, subject: LatentSubject) -> float:
    """Return what a learning rate is multiplied with: plain gradient descent undoes the mean of the loss."""
    return subject.z[0].numel() if method.optimiser.name == "sgd" else 1.0


def _add_refinement(fitting: Fitting, method: MethodConfig, stride: int) -> None:
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
    fitting: Fitting,
    networks: Networks,
    method: MethodConfig,
    prompts: Prompts,
    z: Latent,
    z_source: Latent,
    mask: Map | None = None,
) -> None:
    """Let a run go on with larger latents; the fake adapter and the maps are carried over.

    Args:
        fitting: the run, changed in place.
        networks: the networks for latents of the new size.
        method: its constants.
        prompts: its prompts.
        z: the pictures as they are now, at the new size.
        z_source: latents of the photos at the new size.
        mask: of the new size, if the run has one.
    """
    assert isinstance(fitting.scores, BatchedScores)
    old = fitting.scores.scores.get("fake")
    subject = LatentSubject(z_source.float(), torch.nn.Parameter(z.float()))
    scores = make_scores(networks, method, prompts, None if old is None else old.fake)
    fitting.scores, fitting.subject = scores, subject
    fitting.optimiser = make_optimiser(method.optimiser, subject.parameters())
    scale = _rate_scale(method, subject)
    fitting.learning_rate = make_learning_rate(method.optimiser, fitting.iterations, scale)
    if isinstance(fitting.fake, FakeScore):
        fitting.fake = replace(fitting.fake, predictor=replace(scores["fake"], combine=None))
    maps = _enlarge_maps(fitting.objective.relevance, z, mask)
    fitting.objective = replace(fitting.objective, relevance=maps)


def _enlarge_maps(maps: relevance.Relevance, z: Latent, mask: Map | None) -> relevance.Relevance:
    """Return the maps for larger latents: those made beforehand resized, a mask replaced by that of the new size."""
    match maps:
        case relevance.MaskedRelevance() if mask is not None:
            return relevance.MaskedRelevance(_enlarge_maps(maps.inner, z, None), mask)
        case relevance.PrecomputedRelevance():
            return relevance.resize_maps(maps, *z.shape[-2:])
        case _:
            return maps


def _precompute_maps(fitting: Fitting, method: MethodConfig, z_source: Latent) -> Objective:
    """Return the run's objective with the maps made beforehand.

    Their noise comes from generators of their own, so that a resumed run has the same maps and the run's draws do not
    depend on how many maps there are.
    """
    objective, count = fitting.objective, method.relevance.timesteps
    rng = stream(fitting.rng, 1)
    at = relevance.evenly_spaced(method.timesteps.t_min, method.timesteps.t_max, count)
    eps = torch.stack([gaussian(z_source, rng) for _ in range(count)])
    maps = relevance.precompute(objective.relevance, objective.schedule, fitting.scores, z_source, at, eps)
    return replace(objective, relevance=maps)


def assemble(
    networks: Networks,
    method: MethodConfig,
    prompts: Prompts,
    subject: Subject,
    rng: Rng,
    lr_scale: float = 1.0,
    control: Control | None = None,
) -> Fitting:
    """Assemble a run for any subject."""
    adapter = new_fake_adapter(networks, method, rng) if method.has_fake_score else None
    scores = make_scores(networks, method, prompts, adapter, control)
    return Fitting(
        subject=subject,
        objective=make_objective(method, networks.base.schedule),
        scores=scores,
        optimiser=make_optimiser(method.optimiser, subject.parameters()),
        learning_rate=make_learning_rate(method.optimiser, method.iterations, lr_scale),
        fake=None if adapter is None else make_fake_score(method, adapter, scores),
        rng=rng,
        iterations=method.iterations,
        shared=method.fake.shared,
        counter=networks.base.counter,
    )
