"""The processes of a Ray cluster: how many there are, what each takes, and the connection to it; imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from stylescore.errors import ConfigError, StylescoreError, quote

MOST_WORKERS = 10_000


@dataclass(frozen=True)
class Workers:
    """The processes of a cluster.

    Attributes:
        count: how many; `None` is one for each GPU, or without GPUs one for each CPU.
    """

    count: int | None = None


@dataclass(frozen=True)
class Slots:
    """The processes that a cluster has room for.

    Attributes:
        count: how many.
        resources: what each takes, as options of a Ray actor.
    """

    count: int
    resources: Mapping[str, float]


def parse_workers(text: str | None) -> Workers | None:
    """Return the processes that `--workers` asks for.

    Raises:
        ConfigError: it is neither `ray` nor `ray:N`, or Ray is not installed.
    """
    if text is None:
        return None
    name, colon, count = text.partition(":")
    number = int(count) if count.isdecimal() and len(count) < 6 else 0
    if name != "ray" or (colon and not 1 <= number <= MOST_WORKERS):
        raise ConfigError(
            f"--workers must be ray, or ray:N with a number of processes, not {quote(text)}", hint="use --workers ray"
        )
    if find_spec("ray") is None:
        raise ConfigError(
            "--workers ray needs the package ray, which is not installed", hint="pip install 'stylescore[ray]'"
        )
    return Workers(number or None)


def find_slots(workers: Workers, device: str, most: int = MOST_WORKERS) -> Slots:
    """Return the processes of the connected cluster: each with a GPU if it has some and the run may use them.

    Args:
        workers: how many are wanted.
        device: on which the run computes.
        most: no more than this.
    """
    import ray

    resources: dict[str, float] = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
    on_gpu = gpus > 0 and device in ("auto", "cuda")
    count = max(1, min(workers.count or (gpus if on_gpu else cpus), gpus if on_gpu else cpus, most))
    return Slots(count, {"num_gpus": 1} if on_gpu else {"num_cpus": max(1, cpus // count)})


@contextmanager
def connected() -> Iterator[None]:
    """Connect this process to the cluster for the block, unless it is connected already.

    Raises:
        StylescoreError: it cannot be reached, or Ray does not start on this machine.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except Exception as error:  # Ray raises plain ones
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StylescoreError(
            f"Ray cannot be started or reached: {reason[:200]}",
            hint="try again on a less busy machine, check RAY_ADDRESS and RAY_AUTH_MODE, or leave out --workers",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
