"""Where the networks run and in which precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stylescore.config.execution import DtypeName, ExecutionConfig
from stylescore.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


CPU = torch.device("cpu")


@dataclass(frozen=True)
class DevicePlacement:
    """Where a model's components are stored and where they run.

    Attributes:
        network: where the denoising network runs, with all latents and features.
        weights: where its weights are stored.
        codec: where the autoencoder is stored; it runs on the network's device.
        texts: where text encoders are stored.
        encoding: where text encoders run.
    """

    network: torch.device
    weights: torch.device
    codec: torch.device
    texts: torch.device
    encoding: torch.device

    @classmethod
    def on(cls, device: torch.device) -> DevicePlacement:
        """Place everything on one device."""
        return cls(device, device, device, device, device)

    @classmethod
    def of_run(cls, device: torch.device, execution: ExecutionConfig) -> DevicePlacement:
        """Place the components of a run: text encoders are on a GPU only while they run, or never to save memory.

        A run encodes its prompts once, before its first iteration. Only a GPU has memory of its own to be freed.
        """
        weights = CPU if execution.memory == "offload" else device
        if execution.saves_memory:
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
    if not _is_present(device):
        raise DeviceError(f"this machine has no device {name!r}", hint="use --device cpu")
    return device


def best_device() -> str:
    """Return the name of the fastest device present."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _is_present(device: torch.device) -> bool:
    """Tell whether tensors can be put on the device."""
    match device.type:
        case "cpu":
            return not device.index
        case "cuda":
            return (device.index or 0) < torch.cuda.device_count()
        case "mps":
            return torch.backends.mps.is_available()
        case _:
            return False


def pick_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
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


def set_memory_format(network: Any, device: torch.device) -> Any:
    """Store a network's weights in the memory format that is fastest on a device, and return the network.

    Tensor cores read channels-last convolutions; on a CPU that was measured to gain nothing on the whole.
    """
    return network.to(memory_format=torch.channels_last) if device.type == "cuda" else network


def avoid_cudnn_attention(device: torch.device) -> None:
    """Keep torch from computing attention with cuDNN in this process, where a network runs on a GPU.

    Its backward pass in half precision gives NaN for some lengths and inputs on H100 and H200, where torch takes it by
    itself since 2.11 (pytorch issue 196678). Flash and memory-efficient attention are left, and are about as fast.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def require_compiler(device: torch.device) -> None:
    """Raise `DeviceError` where torch.compile cannot be trusted.

    On a CPU with several threads the compiled backward pass of torch 2.13 writes past its memory and ends the program.
    """
    if device.type == "cpu":
        raise DeviceError("--compile needs a GPU, the device is 'cpu'", hint="leave it out: it saves no time there")


def require_gpu(device: torch.device) -> None:
    """Raise `DeviceError` where a network's weights are in CPU memory anyway."""
    if device.type == "cpu":
        raise DeviceError("--memory offload needs a GPU, the device is 'cpu'", hint="use --memory low")
