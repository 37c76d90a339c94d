"""A whole run but its pictures: what to stylize with, and where and how to compute it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stylescore.config.method import MethodConfig


@dataclass(frozen=True, kw_only=True)
class StyleChoice:
    """One style adapter.

    Attributes:
        name: bundled or own style's name, file, or hub id.
        weight: its share; multiplied with the style strength.
    """

    name: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run, without its pictures: enough to repeat it.

    Attributes:
        styles: the style adapters, applied together.
        model: base of the fake and real scores: bundled name, folder, file or hub id.
        style_model: base under the style adapters; `None` shares `model`.
        preview_model: tiny autoencoder that previews are decoded with, a folder or a hub id; `None` takes the usual one
            of the model's family if it is in the hub's local cache and fits, else the model's own autoencoder.
        style_prompt: words for the style; `None` takes the adapter's trigger words, else its name.
        caption: words for the photo's content; may be empty.
        content: 0 strongest style, 0.5 the preset as it is, 1 strongest content.
        size: length of the short side the model works at; `None` is the model's own, or with `refine.factor` above 1
            the photo's own as far as that allows.
        tile: side in pixels of the overlapping windows that a larger picture is worked on in; 0 for none; `None` takes
            the model's own size where the picture has more than four times its pixels, else none.
        seed: of every random draw.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: precision of the networks; latents and optimisers are float32 always.
        low_memory: whether to take longer for less memory: text models work on the CPU, the autoencoder visits the
            device only while it works, scores are asked one at a time, and inner results of the trained pass are made
            twice.
        style_copy: whether the style adapters are merged into a copy of the network instead of standing beside its
            layers; `None` has it so for a small network in float32 where that is faster and memory is free. Without
            meaning where there is a `style_model`. Not together with low_memory.
        compile: whether the denoising network goes through torch.compile: a minute or more at the start, once for each
            shape and kind of score, and faster steps on a GPU. Not on a CPU, not together with low_memory.
        cuda_graphs: whether the compiled network's kernels are recorded and played back as CUDA graphs. Needs compile.
        offload: whether the denoising network's weights stay in main memory and each layer's visit the device while it
            works, for a network larger than the card. Saves in the ways of low_memory too, but asks scores together:
            here a call is what costs. Not on a CPU.
        preset: where the method's constants come from, in words; nothing depends on it.
        method: the preset, resolved.
    """

    styles: tuple[StyleChoice, ...]
    model: str = "mini"
    style_model: str | None = None
    preview_model: str | None = None
    style_prompt: str | None = None
    caption: str = ""
    content: float = 0.5
    size: int | None = None
    tile: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    low_memory: bool = False
    style_copy: bool | None = None
    compile: bool = False
    cuda_graphs: bool = False
    offload: bool = False
    preset: str = ""
    method: MethodConfig = field(default_factory=MethodConfig)

    @property
    def saves_memory(self) -> bool:
        """Whether the run takes longer for less memory, in either way."""
        return self.low_memory or self.offload
