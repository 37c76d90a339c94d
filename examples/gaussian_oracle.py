"""Shows why a fake score is needed, without a model or a photo, in a few seconds.

The "style" is a Gaussian and the "picture" a cloud of points, so that every score is one line of mathematics. Style
minus fake moves the cloud until it has the style's mean and standard deviation. SDS uses the drawn noise in place
of the fake score and moves all points to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from stylescore.method.fit import Fitting, fit
from stylescore.method.objective import Objective, sds, vsd
from stylescore.method.schedule import NoiseSchedule, unit_weight
from stylescore.method.scores import SeparateScores
from stylescore.method.subjects import LatentSubject
from stylescore.method.timesteps import Grid, Uniform
from stylescore.method.types import Latent, Noise, Timesteps

MEAN, STD = 2.0, 0.3
SCHEDULE = NoiseSchedule(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
SAMPLER = Uniform(Grid(t_min=21, t_max=979))


def expected_noise(z_t: Latent, t: Timesteps, mean: float, std: float) -> Noise:
    """Return E[eps | z_t] for z ~ N(mean, std^2), the prediction that a perfectly trained network would make."""
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    return sigma * (z_t - alpha * mean) / ((alpha * std) ** 2 + sigma**2)


def style(z_t: Latent, t: Timesteps) -> Noise:
    """Predict noise as a perfect model of the style."""
    return expected_noise(z_t, t, MEAN, STD)


@dataclass(frozen=True)
class Fake:
    """Predicts noise as a perfect model of the current cloud."""

    cloud: LatentSubject

    def __call__(self, z_t: Latent, t: Timesteps) -> Noise:
        """Predict noise from the cloud's current mean and standard deviation."""
        points = self.cloud.render()
        return expected_noise(z_t, t, float(points.mean()), float(points.std()))


def fit_cloud(objective: Objective, iterations: int, points: int = 1024) -> tuple[float, float]:
    """Fit a cloud that begins with mean 0 and standard deviation 1; return both at the end."""
    cloud = LatentSubject.at(torch.randn(16, 1, 1, points // 16, generator=torch.Generator().manual_seed(0)))
    fitting = Fitting(
        subject=cloud,
        objective=objective,
        scores=SeparateScores({"style": style, "fake": Fake(cloud), "edit": style, "source": style}),
        optimiser=torch.optim.Adam(cloud.parameters()),
        learning_rate=lambda i: 0.025 * (1 + math.cos(math.pi * i / iterations)),
        fake=None,
        rng=[torch.Generator().manual_seed(seed) for seed in range(16)],
        iterations=iterations,
    )
    for _ in fit(fitting):
        pass
    return float(cloud.z.detach().mean()), float(cloud.z.detach().std())


def main(iterations: int = 500) -> dict[str, tuple[float, float]]:
    """Print and return mean and standard deviation of the fitted clouds, after those of the style."""
    objectives = {
        "style minus fake": vsd(SCHEDULE, SAMPLER, weight=unit_weight),
        "SDS": sds(SCHEDULE, SAMPLER, weight=unit_weight),
    }
    ends = {name: fit_cloud(objective, iterations) for name, objective in objectives.items()}
    for name, (mean, std) in {"the style": (MEAN, STD), **ends}.items():
        print(f"{name:17s} mean {mean:6.3f}   std {std:.3f}")
    return ends


if __name__ == "__main__":
    main()
