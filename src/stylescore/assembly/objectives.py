"""From names and numbers to objects: the only place where the names of methods, samplers and weights are matched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

import torch
from torch import nn

from stylescore.baselines.sdedit import sampling_objective, sampling_steps
from stylescore.config.method import (
    SAMPLING,
    FakeWeightName,
    MethodConfig,
    OptimiserConfig,
    RelevanceConfig,
    SpectrumConfig,
    TimestepConfig,
    WeightName,
)
from stylescore.config.run import PromptWeights
from stylescore.diffusion import prompts
from stylescore.diffusion.prompts import Parse
from stylescore.errors import ConfigError
from stylescore.method import relevance, schedule, spectrum, timesteps
from stylescore.method.directions import Normalised
from stylescore.method.objective import ConsistentNoise, Objective, dds, pds, sds, sms, vsd
from stylescore.method.optimisers import learning_rate
from stylescore.method.schedule import NoiseSchedule, Weight
from stylescore.method.timesteps import Grid, TimestepSampler


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


def make_fake_sampler(method: MethodConfig, stride: int) -> TimestepSampler:
    """Return the sampler of the timesteps that the fake score is trained on."""
    match method.fake.sampler:
        case "run":
            return make_sampler(method.timesteps, stride)
        case "uniform":
            return timesteps.Uniform(Grid(t_min=method.fake.t_min, t_max=method.fake.t_max, stride=stride))
        case _:
            assert_never(method.fake.sampler)


def make_relevance(config: RelevanceConfig) -> relevance.Relevance:
    """Return the relevance map; strength 0 needs no prediction."""
    if config.strength == 0:
        return relevance.UniformRelevance()
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
    """Assemble a method.

    Raises:
        ConfigError: a timestep that the model does not have.
    """
    check_timesteps(method, len(noise_schedule.betas))
    objective = replace(_plain_objective(method, noise_schedule), noise=ConsistentNoise(method.consistent_noise))
    if method.weight == "normalised" and method.method not in ("pds", *SAMPLING):
        objective = replace(objective, direction=Normalised(objective.direction, noise_schedule))
    return objective


def _plain_objective(method: MethodConfig, noise_schedule: NoiseSchedule) -> Objective:
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
        case "sdedit" | "styleid" | "freestyle" | "instantstyle":
            return sampling_objective(
                noise_schedule, strength=method.sampling_strength, steps=max(1, method.iterations)
            )
        case "gatys" | "adain" | "ghiasi":
            raise AssertionError(f"{method.method} changes pixels, it has no objective on latents")
        case _:
            assert_never(method.method)


UNIT_STEP = OptimiserConfig(name="sgd", lr=1.0, warmup=0, cosine_length=0.0)
"""Plain gradient descent that takes the whole direction."""


def with_unit_steps(method: MethodConfig, length: int) -> MethodConfig:
    """Return a method that goes step by step as the loop runs it, in so many whole steps; others as they are.

    Args:
        method: constants, with the content knob applied.
        length: number of the model's timesteps.
    """
    if method.is_one_pass:
        return replace(method, iterations=1, optimiser=UNIT_STEP)
    if not method.is_sampling:
        return method
    steps = sampling_steps(length, method.sampling_strength, max(1, method.iterations))
    return replace(method, iterations=steps, optimiser=UNIT_STEP)


def check_timesteps(method: MethodConfig, length: int) -> None:
    """Raise `ConfigError` if the method draws a timestep beyond the last one of the model's schedule."""
    if method.is_sampling:
        return
    used = {"timesteps.t_max": method.timesteps.t_max}
    if method.has_fake_score and method.fake.sampler == "uniform":
        used["fake.t_max"] = method.fake.t_max
    if method.refine.factor > 1:
        used["refine.t_max"] = method.refine.t_max
    is_enough = length - 1 >= method.timesteps.t_min + 2
    for name, t_max in used.items():
        if t_max >= length:
            raise ConfigError(
                f"{name} must be below the model's number of timesteps, {length}, not {t_max!r}",
                hint=f"use --set {name}={length - 1}" if is_enough else "use another model: it has too few timesteps",
            )


def make_parse(name: PromptWeights) -> Parse:
    """Return what splits prompts into weighted fragments."""
    match name:
        case "auto":
            return prompts.parse_detected
        case "on":
            return prompts.parse_weights
        case "off":
            return prompts.parse_plain
        case _:
            assert_never(name)


def make_optimiser(config: OptimiserConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimiser of the subject; its learning rate is set in every iteration."""
    betas = (config.beta1, config.beta2)
    match config.name:
        case "adamw":
            return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=config.lr, betas=betas)
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.lr)
        case _:
            assert_never(config.name)


def make_learning_rate(config: OptimiserConfig, iterations: int, scale: float = 1.0) -> Callable[[int], float]:
    """Return the learning rate of a run.

    Args:
        config: peak, warm-up and cosine length.
        iterations: length of the run.
        scale: constant factor; the number of entries for plain gradient descent on a mean loss.
    """
    warmup = config.warmup + config.warmup_fraction * iterations
    return learning_rate(config.lr * scale, iterations, warmup=warmup, cosine_length=config.cosine_length)
