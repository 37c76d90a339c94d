"""Assembles an objective from parts, with a timestep sampler that the package does not contain.

An objective consists of a timestep sampler, a noise schedule, a direction, a relevance map and a spectrum loss. Any
callable with the right signature can be used; nothing has to be registered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.assembly.stylizer import Result
from stylescore.method.directions import StyleMatching
from stylescore.method.fit import fit
from stylescore.method.objective import Objective
from stylescore.method.relevance import SemanticRelevance, absolute_then_mean
from stylescore.method.schedule import NoiseSchedule, posterior_weight
from stylescore.method.spectrum import ProgressiveSpectrum
from stylescore.method.timesteps import Grid
from stylescore.method.types import Rng, Timesteps

HERE = Path(__file__).parent


@dataclass(frozen=True)
class SquareNarrowing:
    """t ~ U{t_min .. (1 - progress)^2 t_max}: leaves large timesteps sooner than the paper's sampler."""

    grid: Grid

    def __call__(self, progress: float, rng: Rng) -> Timesteps:
        """Draw one timestep per generator."""
        upper = math.floor(self.grid.high * (1 - progress) ** 2)
        return self.grid.uniform(max(upper, self.grid.low + 1), rng)


def my_objective(schedule: NoiseSchedule) -> Objective:
    """Assemble style matching with the relevance map of the preset `balanced` and a weak spectrum loss."""
    return Objective(
        schedule=schedule,
        timesteps=SquareNarrowing(Grid(t_min=21, t_max=499, stride=schedule.stride)),
        direction=StyleMatching(schedule, posterior_weight),
        relevance=SemanticRelevance(reduce=absolute_then_mean, upper=0.95),
        spectrum=ProgressiveSpectrum(weight=2e-4),
    )


def main(photo: Path = HERE / "chelsea.jpg", style: str = "pencil-sketch", model: str = "mini") -> Result:
    """Run the model's own preset with this objective."""
    run = RunConfig(styles=(StyleChoice(name=style),), model=model)
    stylizer, source = Stylizer(run), read_photo(photo)
    fitting = stylizer.start([source])
    fitting.objective = my_objective(fitting.objective.schedule)
    for iteration in fit(fitting):
        print(f"iteration {iteration.index}  t {int(iteration.step.t[0])}")
    return stylizer.result(fitting, 0, source)


if __name__ == "__main__":
    main().picture.save("sketched.png")
