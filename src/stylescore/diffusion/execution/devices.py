"""Where the networks run and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from stylescore.config.run import RunConfig
from stylescore.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Places:
    """Where a model's parts are kept and where they work.

    Attributes:
        network: where the denoising network works, with all latents and features.
        weights: where its weights are kept.
        codec: where the autoencoder is kept; it works beside the network.
        texts: where text models are kept.
        reading: where text models work.
    """

    network: torch.device
    weights: torch.device
    codec: torch.device
    texts: torch.device
    reading: torch.device

    @classmethod
    def on(cls, device: torch.device) -> Places:
        """Return one place for everything."""
        return cls(device, device, device, device, device)

    @classmethod
    def of_run(cls, device: torch.device, run: RunConfig) -> Places:
        """Return the places of a run: text models visit a card while they read, or stay away to save memory.

        A run reads its prompts once, before its first iteration. Only a card has memory of its own to be freed.
        """
        weights = CPU if run.offload else device
        if run.saves_memory:
            return cls(device, weights, CPU, CPU, CPU)
        return cls(device, weights, device, CPU if device.type == "cuda" else device, device)


def pick_device(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        DeviceError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device(best_device())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"no device is called {name!r}", hint="use auto, cpu, cuda, cuda:N or mps") from error
    if not present(device):
        raise DeviceError(f"this machine has no device {name!r}", hint="use --device cpu")
    return device


def best_device() -> str:
    """Return the name of the fastest device present."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def present(device: torch.device) -> bool:
    """Tell whether tensors can be put on the device."""
    match device.type:
        case "cpu":
            return True
        case "cuda":
            return (device.index or 0) < torch.cuda.device_count()
        case "mps":
            return torch.backends.mps.is_available()
        case _:
            return False


def pick_dtype(name: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device) -> torch.dtype:
    """Return the networks' precision; "auto" is float32 on the CPU, else bfloat16 where it is native.

    Raises:
        DeviceError: half precision on a CPU, where it is slower than float32 and overflows.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if native else torch.float32
    if name == "float16" and device.type == "cpu":
        raise DeviceError("--dtype 'float16' needs a GPU, the device is 'cpu'", hint="use --dtype float32 or bfloat16")
    return DTYPES[name]


def laid_out(network: Any, device: torch.device) -> Any:
    """Lay a network's weights as the device that will work with them reads them, and return the network.

    Tensor cores read convolutions' channels side by side; on a CPU that was measured to gain nothing on the whole.
    """
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def require_compiler(device: torch.device) -> None:
    """Raise `DeviceError` where torch.compile cannot be trusted.

    On a CPU with several threads the compiled way back of torch 2.13 writes past its memory and ends the program.
    """
    if device.type == "cpu":
        raise DeviceError("--compile needs a GPU, the device is 'cpu'", hint="leave it out: it saves no time there")


def require_card(device: torch.device) -> None:
    """Raise `DeviceError` where a network's weights are in main memory anyway."""
    if device.type == "cpu":
        raise DeviceError("--offload needs a GPU, the device is 'cpu'", hint="use --low-memory")
