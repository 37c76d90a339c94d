"""Processes, device and precision, through accelerate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stylescore.diffusion.execution.devices import pick_device, pick_dtype
from stylescore.errors import ConfigError
from stylescore.training.config import StyleTrainingConfig

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Machine:
    """Where and with whom this process trains.

    Attributes:
        accelerator: accelerate's.
        dtype: precision of the frozen networks.
    """

    accelerator: Any
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where this process's networks are."""
        return torch.device(self.accelerator.device)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return bool(self.accelerator.is_main_process)

    @property
    def rank(self) -> int:
        """This process's number."""
        return int(self.accelerator.process_index)

    @property
    def processes(self) -> int:
        """How many train together."""
        return int(self.accelerator.num_processes)

    def agreed(self, wish: bool) -> bool:
        """Tell whether any process has this wish; all get the same answer."""
        if self.processes == 1:
            return wish
        if wish:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())


def make_machine(config: StyleTrainingConfig) -> Machine:
    """Set up this process; how many there are is told by `accelerate launch`.

    Raises:
        DeviceError: a device or precision that this machine does not have.
        ConfigError: the batch cannot be shared out among the processes.
    """
    from accelerate import Accelerator, PartialState

    if config.device != "auto":
        wanted = pick_device(config.device)
        if wanted.type == "cuda" and wanted.index is not None:
            torch.cuda.set_device(wanted)
    cpu = config.device == "cpu"
    dtype = pick_dtype(config.dtype, PartialState(cpu=cpu).device)
    accelerator = Accelerator(mixed_precision=MIXED[dtype], cpu=cpu)
    if config.batch % accelerator.num_processes:
        raise ConfigError(
            f"batch must be a multiple of the {accelerator.num_processes} processes, not {config.batch!r}",
            hint=f"use --batch {accelerator.num_processes}",
        )
    return Machine(accelerator, dtype)
