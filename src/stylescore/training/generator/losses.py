"""What a generator is trained on: the regression to pairs, and a score-distillation step on its own pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stylescore.assembly.fitting import Prompts, make_scores
from stylescore.assembly.networks import Networks
from stylescore.config.method import MethodConfig
from stylescore.diffusion.adapters import TrainedAdapter
from stylescore.diffusion.batching import BatchedScores
from stylescore.diffusion.features import FeatureDistance, feature_distance
from stylescore.method.fake_score import denoising_loss, identity, random_shift
from stylescore.method.objective import Objective, gaussian
from stylescore.method.schedule import Weight
from stylescore.method.timesteps import TimestepSampler
from stylescore.method.types import Latent, PerSample, Rng, Step, Timesteps
from stylescore.metrics.gram import gram_matrix, paired_gram_distance
from stylescore.metrics.self_similarity import positions_of
from stylescore.training.generator.batches import Batch
from stylescore.training.generator.config import RegressionConfig
from stylescore.training.generator.critic import Critic, adversarial_loss, critic_loss, to_levels
from stylescore.training.generator.networks import Painting, PixelPainting, encode

LEAST_SPREAD = 0.1
"""Of a channel against the mean of all of its layer, so that one that hardly varies is not scaled up without limit."""


@dataclass(frozen=True)
class Regression:
    """The distance of the generator's pictures from those of the pairs.

    Attributes:
        networks: the diffusion model's.
        features: distance in its features.
        config: weights.
        critic: tells both apart, if the loss has such a part.
    """

    networks: Networks
    features: FeatureDistance
    config: RegressionConfig
    critic: Critic | None = None

    @property
    def without_critic(self) -> Regression:
        """The same without the part that a critic judges, which is no distance: for measures."""
        return replace(self, critic=None)

    def __call__(self, painting: Painting, batch: Batch, rng: Rng) -> dict[str, PerSample]:
        """Return the parts of the loss by the names of their weights, one value a sample.

        Pixel distance and perceptual distance are not computed without weight, and 0; the other parts are then left
        out. Without a weight of pixels, textures are compared on latents alone too, so that nothing is decoded.

        Args:
            painting: the generator's pictures.
            batch: with the pairs' pictures.
            rng: one generator for each sample, of the noise under which features are compared.
        """
        nothing = torch.zeros(len(batch.target), device=batch.target.device)
        parts = {"pixel": nothing, "perceptual": nothing}
        if self.config.pixel:
            parts["pixel"] = (painting.pictures - batch.target).abs().flatten(1).mean(dim=1)
        if self.config.perceptual or self.config.texture or self.critic is not None:
            z, target = painting.latent, PixelPainting(batch.target, self.networks)
            with torch.no_grad():
                wanted = target.latent
            ours, theirs = self._see(z, wanted, rng)
            if self.config.perceptual:
                parts["perceptual"] = feature_distance(ours, theirs)
            if self.config.texture:
                fine, fine_wanted = (painting.levels, target.levels) if self.config.pixel else ((), ())
                parts["texture"] = texture_distance([*fine, z, *ours], [*fine_wanted, wanted, *theirs])
            if self.critic is not None:
                parts["adversarial"] = adversarial_loss(self.critic, to_levels(z, ours), to_levels(wanted, theirs))
        return parts

    def loss(self, parts: Mapping[str, PerSample]) -> PerSample:
        """Return the weighted sum."""
        weighted: list[PerSample] = [getattr(self.config, name) * part for name, part in parts.items()]
        return torch.stack(weighted).sum(dim=0)

    def critic_loss(self, z: Latent, batch: Batch, rng: Rng) -> PerSample:
        """Return the loss of the critic on the latents of the generator's pictures, differentiable in its weights."""
        assert self.critic is not None
        with torch.no_grad():
            wanted = encode(self.networks, batch.target)
            ours, theirs = self._see(z, wanted, rng)
        return critic_loss(self.critic, to_levels(z, ours), to_levels(wanted, theirs))

    def distance(self, first: Latent, second: Latent, rng: Rng) -> PerSample:
        """Return the perceptual distance of latents."""
        return self.features(first, second, gaussian(first, rng), self._t(first))

    def _see(self, z: Latent, wanted: Latent, rng: Rng) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of the generator's latents and of the pairs' under the same noise."""
        return self.features.both(z, wanted, gaussian(z, rng), self._t(z))

    def _t(self, z: Latent) -> Timesteps:
        return torch.full((len(z),), self.config.perceptual_t, device=z.device)


def texture_distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> PerSample:
    """Return how much the textures of pictures differ from those of their partners, from 0 to 1: no place counts.

    Every channel is centred and scaled as its values in the partner tell. Else the means of a few strong channels would
    be all that a Gram matrix of hidden features shows.

    Args:
        first: features of pictures, each [batch, c, h, w] or [batch, tokens, c].
        second: features of their partners.
    """
    both = [_standardise(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
    return paired_gram_distance([gram_matrix(ours) for ours, _ in both], [gram_matrix(theirs) for _, theirs in both])


def _standardise(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Return features as float32 rows of positions, centred and scaled by the second ones."""
    first, second = ((positions_of(part) if part.ndim == 4 else part).float() for part in (ours, theirs))
    spread, mean = torch.std_mean(second, dim=1, correction=0, keepdim=True)
    scale = (spread + LEAST_SPREAD * spread.mean(dim=2, keepdim=True)).clamp_min(1e-6)  # of one even colour
    return (first - mean) / scale, (second - mean) / scale


@dataclass(frozen=True)
class Matching:
    """A method's step on the generator's pictures, and the training of the fake score that all of them share.

    Attributes:
        networks: the diffusion model's.
        method: the method's constants.
        objective: the method.
        style_prompt: prompt of the style.
        fake: the fake score's adapter, or `None` for methods without one.
        fake_timesteps: what the fake score is trained on.
        fake_weight: factor of its squared error.
    """

    networks: Networks
    method: MethodConfig
    objective: Objective
    style_prompt: str
    fake: TrainedAdapter | None
    fake_timesteps: TimestepSampler
    fake_weight: Weight

    def scores(self, captions: Sequence[str]) -> BatchedScores:
        """Return the scores under the prompts of a batch."""
        return make_scores(self.networks, self.method, Prompts.of(self.method, self.style_prompt, captions), self.fake)

    def step(self, painting: Painting, batch: Batch, progress: float, rng: Rng) -> tuple[Step, Latent]:
        """Return the method's step at the generator's pictures, differentiable in them, and their latents."""
        with torch.no_grad():
            z_source = encode(self.networks, batch.photo)
        z = painting.latent
        return self.objective(z, z_source, self.scores(batch.captions), progress=progress, rng=rng), z.detach()

    def fake_loss(self, z: Latent, captions: Sequence[str], progress: float, rng: Rng) -> tuple[PerSample, Timesteps]:
        """Return the denoising loss of the fake score on pictures, with noise and timesteps of its own."""
        schedule = self.objective.schedule
        t = self.fake_timesteps(progress, rng).to(z.device)
        view = (random_shift if self.method.fake.augment == "shifts" else identity)(z, rng)
        eps = gaussian(view, rng)
        predictor = replace(self.scores(captions)["fake"], combine=None)
        eps_hat = predictor(schedule.add_noise(view, eps, t), t)
        return denoising_loss(eps_hat, eps, self.fake_weight(schedule, t)), t

    @torch.no_grad()
    def style_margin(self, z: Latent, captions: Sequence[str], timesteps: Sequence[int], rng: Rng) -> PerSample:
        """Return how much better the style model denoises pictures than the plain base, under the same prompt.

        The mean over timesteps of log(|eps_base - eps|^2 / |eps_style - eps|^2): 0 for pictures without the style. A
        diffusion model as a classifier (arXiv 2303.16203), with the base as the other class, so that blur, which
        both denoise well, gains nothing.
        """
        scores = self.scores(captions)
        style = replace(scores["style"], combine=None)
        target = self.networks.text(Prompts.of(self.method, self.style_prompt, captions).target)
        base = replace(scores["source"], conditional=target, combine=None)
        schedule, margins = self.objective.schedule, []
        for timestep in timesteps:
            t, eps = torch.full((len(z),), timestep, device=z.device), gaussian(z, rng)
            z_t = schedule.add_noise(z, eps, t)
            errors = [(score(z_t, t) - eps).square().flatten(1).mean(dim=1) for score in (base, style)]
            margins.append((errors[0] / errors[1]).log())
        return torch.stack(margins).mean(dim=0)
