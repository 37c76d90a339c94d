"""Where and how the networks compute: nothing here changes the method, only speed, memory and rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
Memory = Literal["normal", "low", "offload"]
Compile = Literal["off", "on", "graphs"]
StyleWeights = Literal["auto", "adapter", "merged"]


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """Device, precision and what is traded for speed or memory.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: precision of the networks; latents and optimisers are float32 always.
        memory: normal; low takes longer for less memory: text encoders run on the CPU, the autoencoder is on the device
            only while it runs, scores are evaluated one at a time, and activations are recomputed in the backward pass
            (gradient checkpointing); offload does the same, but batches the scores and keeps the denoising network's
            weights in CPU memory, moving each layer to the GPU while it runs, for a network larger than the GPU.
        compile: whether the denoising network goes through torch.compile: a minute or more at the start, once for each
            shape and kind of score, and faster steps on a GPU; graphs records its kernels as CUDA graphs too. Not on a
            CPU, and only with normal memory.
        style_weights: adapter evaluates the style adapters beside the network's layers; merged adds them to the weights
            of a copy of the network, only with normal memory; auto merges for a small network in float32 where that is
            faster and memory is free. Without meaning where there is a style model.
        tile: side in pixels of the overlapping tiles that a larger picture is processed in; 0 for none; `None` takes
            the model's native resolution where the picture has more than four times its pixels, else none.
    """

    device: str = "auto"
    dtype: DtypeName = "auto"
    memory: Memory = "normal"
    compile: Compile = "off"
    style_weights: StyleWeights = "auto"
    tile: int | None = None

    @property
    def saves_memory(self) -> bool:
        """Whether the run takes longer for less memory, in either way."""
        return self.memory != "normal"
