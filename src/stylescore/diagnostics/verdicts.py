"""Says which models work on a machine: the bundled one, and each family at its native resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stylescore.catalog.families import MINI, family_facts
from stylescore.diagnostics.estimates import Need

_USABLE = 0.9
"""Fraction of a memory that a run can have; the system and other programs have the rest."""
_MINI_GIGABYTES = 0.8
"""Peak memory of a run of `examples/coffee.jpg` with the bundled model (`benchmarks/results/default_run.json`)."""
_MINI_OPERATIONS = 0.816e12
"""Operations of that run, counted by torch's FlopCounterMode."""
_MINI_START = 6.0
"""Seconds of that run for imports, loading and decoding."""
_MINI_EFFICIENCY = 0.3
"""Fraction of the speed in matrix products that its iterations reached: 14 s at 190 GFLOP/s."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether one picture can be made with a model.

    Attributes:
        model: `mini`, or a family's name for users.
        works: whether the memory is large enough, and the model there if it is bundled.
        memory: the first of `--memory normal`, `low` and `offload` that fits; the last one where none does.
        gigabytes: what the run needs with it, in 10^9 bytes.
        available: the memory there is; `None` if the system does not state it.
        size: side of the picture in pixels.
        seconds: time of the run.
    """

    model: str
    works: bool
    memory: str
    gigabytes: float
    available: float | None
    size: int
    seconds: float


def judge_mini(installed: bool, available: float | None, speed: float) -> Verdict:
    """Judge the bundled model.

    Args:
        installed: whether its files are there.
        available: memory in GB, `None` if it is not known.
        speed: operations per second in matrix products.
    """
    return Verdict(
        model=MINI.key,
        works=installed and _fits(_MINI_GIGABYTES, available),
        memory="normal",
        gigabytes=_MINI_GIGABYTES,
        available=available,
        size=2 * MINI.native_resolution,
        seconds=_MINI_START + _MINI_OPERATIONS / (_MINI_EFFICIENCY * speed),
    )


def judge_families(needs: Sequence[Need], available: float | None) -> list[Verdict]:
    """Judge each family at its native resolution, with the preset `balanced`."""
    native = (need for need in needs if need.size == family_facts(need.family).native_resolution)
    return [_judge(need, available) for need in native]


def _judge(need: Need, available: float | None) -> Verdict:
    fitting = (setting for setting, size in need.gigabytes.items() if _fits(size, available))
    memory = next(fitting, list(need.gigabytes)[-1])
    return Verdict(
        model=family_facts(need.family).label,
        works=_fits(need.gigabytes[memory], available),
        memory=memory,
        gigabytes=need.gigabytes[memory],
        available=available,
        size=need.size,
        seconds=need.seconds["balanced"],
    )


def _fits(gigabytes: float, available: float | None) -> bool:
    return available is None or gigabytes <= _USABLE * available
