"""Finds the `content` at which a picture has a wanted distance from its photo, by bisection on short runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from stylescore.assembly.stylizer import Stylizer
from stylescore.config.method import MethodConfig
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError
from stylescore.images import Photo, to_tensor
from stylescore.method.fit import fit
from stylescore.metrics.lpips import Lpips
from stylescore.metrics.perceptual import PerceptualDistance

FEWEST_ITERATIONS = 30
"""A search takes a third of a run's iterations, but not fewer than this, unless the run itself has fewer."""
MOST_TRIALS = 20


@dataclass(frozen=True)
class Trial:
    """One short run: the knob, and the distance of its result from the photo."""

    content: float
    distance: float


def search_content(
    measure: Callable[[float], float], wanted: float, *, trials: int, tolerance: float
) -> Iterator[Trial]:
    """Halve the range of the knob until a distance is close to the wanted one; yield every trial.

    Both ends are tried first: 0, where the distance is largest, and 1. A wanted distance beyond an end ends the search.

    Args:
        measure: returns the distance at a value of the knob; it should fall with it.
        wanted: the distance.
        trials: most runs, at least 3.
        tolerance: largest difference that is close enough.

    Raises:
        ConfigError: a number is out of range.
    """
    check_search(wanted, trials, tolerance)
    low, high = Trial(0.0, measure(0.0)), None
    yield low
    if wanted >= low.distance - tolerance:
        return
    high = Trial(1.0, measure(1.0))
    yield high
    if wanted <= high.distance + tolerance:
        return
    for _ in range(trials - 2):
        middle = (low.content + high.content) / 2
        trial = Trial(middle, measure(middle))
        yield trial
        if abs(trial.distance - wanted) <= tolerance:
            return
        low, high = (trial, high) if trial.distance > wanted else (low, trial)


def best_trial(trials: list[Trial], wanted: float) -> Trial:
    """Return the trial whose distance is closest to the wanted one; of equal ones, the first."""
    return min(trials, key=lambda trial: abs(trial.distance - wanted))


def shorten(method: MethodConfig) -> MethodConfig:
    """Return the constants of a short run at the model's native resolution."""
    iterations = min(method.iterations, max(FEWEST_ITERATIONS, method.iterations // 3))
    return overlay(method, {"iterations": iterations, "refine": {"factor": 1.0}})


def make_measure(stylizer: Stylizer, photo: Photo, network: Lpips | PerceptualDistance) -> Callable[[float], float]:
    """Return a function that makes a picture in a short run and returns its distance from the photo."""
    short = replace(stylizer.run, size=None, method=shorten(stylizer.run.method))

    def measure(content: float) -> float:
        run = stylizer.with_run(replace(short, content=content))
        fitting = run.start([photo])
        for _ in fit(fitting):
            pass
        picture = run.picture(fitting, 0)
        size = picture.size
        with torch.inference_mode():
            pair = [to_tensor(each, size).to(stylizer.device) for each in (photo.picture, picture)]
            return float(network.to(stylizer.device)(*pair))

    return measure


def check_search(wanted: float, trials: int, tolerance: float) -> None:
    """Raise `ConfigError` for a number of a search that is out of range."""
    if not 0 < wanted < 10:
        raise ConfigError(f"--distance must be above 0 and below 10, not {wanted:g}", hint="0.2 to 0.5 is usual")
    if not 3 <= trials <= MOST_TRIALS:
        raise ConfigError(f"--trials must be from 3 to {MOST_TRIALS}, not {trials}", hint="7 is usual")
    if not 0 < tolerance < 1:
        raise ConfigError(f"--tolerance must be above 0 and below 1, not {tolerance:g}", hint="0.01 is usual")
