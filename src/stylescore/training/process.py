"""The process that trains, one of several perhaps: its device and precision, through accelerate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stylescore.diffusion.execution.devices import pick_device, pick_dtype
from stylescore.errors import ConfigError
from stylescore.training.config import StyleTrainingConfig

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

    def is_any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, the same in all of them."""
        if self.count == 1:
            return flag
        if flag:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())


def make_process(config: StyleTrainingConfig) -> Process:
    """Set up this process; `accelerate launch` decides how many there are.

    Raises:
        DeviceError: a device or precision that this machine does not have.
        ConfigError: the batch cannot be split evenly over the processes.
    """
    from accelerate import Accelerator, PartialState

    if config.device != "auto":
        device = pick_device(config.device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    cpu = config.device == "cpu"
    dtype = pick_dtype(config.dtype, PartialState(cpu=cpu).device)
    accelerator = Accelerator(mixed_precision=MIXED_PRECISION[dtype], cpu=cpu)
    if config.batch % accelerator.num_processes:
        raise ConfigError(
            f"batch must be a multiple of the {accelerator.num_processes} processes, not {config.batch!r}",
            hint=f"use --batch {accelerator.num_processes}",
        )
    return Process(accelerator, dtype)
