"""The process that trains, one of several perhaps: its device and precision, through accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from stylescore.config.execution import DtypeName
from stylescore.diffusion.execution.devices import pick_device, pick_dtype
from stylescore.errors import ConfigError

T = TypeVar("T")
Step = TypeVar("Step", contravariant=True)

MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Process:
    """This process among those that train together.

    Attributes:
        accelerator: accelerate's.
        dtype: precision of the frozen networks.
    """

    accelerator: Any
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """The device of this process's networks."""
        return torch.device(self.accelerator.device)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.accelerator.is_main_process)

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        """Number of processes that train together."""
        return int(self.accelerator.num_processes)

    def share(self, make: Callable[[], T]) -> T:
        """Return what the first process makes, in all of them."""
        made: list[T | None] = [make() if self.is_main else None]
        if self.count > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(made)
        value: Any = made[0]
        return value  # type: ignore[no-any-return]

    def is_any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, the same in all of them."""
        if self.count == 1:
            return flag
        if flag:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())


def make_process(device: str, dtype: DtypeName) -> Process:
    """Set up this process; `accelerate launch` decides how many there are.

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: precision of the frozen networks, or auto.

    Raises:
        DeviceError: a device or precision that this machine does not have.
    """
    from accelerate import Accelerator, PartialState

    if device != "auto":
        chosen = pick_device(device)
        if chosen.type == "cuda" and chosen.index is not None:
            torch.cuda.set_device(chosen)
    cpu = device == "cpu"
    precision = pick_dtype(dtype, PartialState(cpu=cpu).device)
    return Process(Accelerator(mixed_precision=MIXED_PRECISION[precision], cpu=cpu), precision)


def require_even(process: Process, batch: int, option: str = "batch") -> None:
    """Raise `ConfigError` unless a batch can be split evenly over the processes."""
    if batch % process.count:
        raise ConfigError(
            f"{option} must be a multiple of the {process.count} processes, not {batch!r}",
            hint=f"use --{option.replace('_', '-')} {process.count}",
        )


def is_due(every: int, done: int) -> bool:
    """Return whether something that happens every so many steps, or never if 0, happens after `done` steps."""
    return every > 0 and done % every == 0


class StepWriter(Protocol[Step]):
    """Writes what a training yields into its folder."""

    def write_step(self, step: Step) -> None:
        """Write a step's line, and what is due after it."""

    def save_state(self) -> None:
        """Save the state after the last step."""

    def finish_steps(self) -> None:
        """Write what is due after all steps."""

    def close(self) -> None:
        """Close what is open."""


def run_steps(
    steps: Iterable[T], writer: StepWriter[T], process: Process, is_interrupted: Callable[[], bool]
) -> Iterator[T]:
    """Write and yield every step of a training, and wait for the other processes at the end.

    Args:
        steps: the loop.
        writer: of its folder.
        process: this process.
        is_interrupted: called after every step; when it returns true in any process, the state is saved and the
            training ends.

    Raises:
        KeyboardInterrupt: the training was interrupted.
    """
    try:
        for step in steps:
            writer.write_step(step)
            yield step
            if process.is_any(is_interrupted()):
                writer.save_state()
                raise KeyboardInterrupt
        writer.finish_steps()
    finally:
        writer.close()
    process.accelerator.wait_for_everyone()
