"""Describes what a family of models is: the components of its checkpoints, and how they are put to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from stylescore.catalog.families import FamilyFacts
from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.text import Encode
from stylescore.errors import ModelError

Value = TypeVar("Value")

Call = Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
"""`(network, latents, time, conditioning) -> output`, latents and output [batch, c, h, w], time [batch]."""


@dataclass(frozen=True)
class ComponentSpec:
    """A network or tokenizer of a model, as a folder in diffusers layout stores it.

    Attributes:
        name: its subfolder.
        kind: its class in diffusers or transformers.
        is_optional: whether a model may lack it.
    """

    name: str
    kind: str
    is_optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the files of one model hold, loaded into memory but not yet on its device.

    Attributes:
        family: the family of the model.
        networks: the denoising network, `vae` and text models, by the name of their subfolder.
        tokenizers: by the name of their subfolder.
        scheduler_config: the scheduler's settings, as stored.
        index: `model_index.json`, as stored.
        configs: folder with the components' settings in diffusers layout: its own, or that of the released models.
        notes: what was assumed about it, one line each.
    """

    family: Family
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    index: Mapping[str, Any]
    configs: Path
    notes: tuple[str, ...] = ()

    @property
    def network(self) -> Any:
        """The denoising network."""
        return self.networks[self.family.network.name]

    @property
    def vae(self) -> Any:
        """The autoencoder."""
        return self.networks["vae"]

    @property
    def vae_scale(self) -> int:
        """Pixels per latent cell on each axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def text_models(self) -> dict[str, tuple[Any, Any]]:
        """Tokenizer and text model by the name of the text model; those that the model lacks are left out."""
        return {
            text.name: (self.tokenizers[tokenizer.name], self.networks[text.name])
            for tokenizer, text in self.family.text_models
            if text.name in self.networks
        }


@dataclass(frozen=True, kw_only=True)
class Family:
    """How models of one family are loaded, conditioned and called.

    Attributes:
        facts: facts that a checkpoint does not state itself; where several families share this code, the first one's.
        label: name for users.
        pipelines: the diffusers pipelines whose folders hold such models.
        network: the denoising network.
        text_models: tokenizer and text model, in the family's order.
        clip_skip: the layer of CLIP that the released models use, counted from the last, 1; `None` where it cannot be
            chosen.
        takes_control: whether ControlNets of diffusers can act on its network.
        is_flow: whether the network predicts a rectified flow's velocity instead of what its scheduler states.
        patch: sides of a latent must be multiples of this many cells.
        max_lengths: tokens per prompt of a text model, by its name, where its tokenizer does not state them.
        require_fit: raises unless a checkpoint's components belong together.
        make_encode: returns what combines the outputs of the text models.
        make_call: returns what calls the network.
        text_width: returns the width of the text features that the network's attention reads.
    """

    facts: FamilyFacts
    label: str
    pipelines: tuple[str, ...]
    network: ComponentSpec
    text_models: tuple[tuple[ComponentSpec, ComponentSpec], ...]
    clip_skip: int | None = None
    takes_control: bool = False
    is_flow: bool = False
    patch: int = 1
    max_lengths: Callable[[Checkpoint], Mapping[str, int]]
    require_fit: Callable[[str, Checkpoint], None]
    make_encode: Callable[[Checkpoint], Encode]
    make_call: Callable[[Checkpoint], Call]
    text_width: Callable[[Any], int]

    @property
    def networks(self) -> tuple[ComponentSpec, ...]:
        """All networks: the denoising one, the autoencoder, the text models."""
        return (self.network, ComponentSpec("vae", "AutoencoderKL"), *(text for _, text in self.text_models))

    @property
    def tokenizers(self) -> tuple[ComponentSpec, ...]:
        """All tokenizers."""
        return tuple(tokenizer for tokenizer, _ in self.text_models)


def always(value: Value) -> Callable[[Checkpoint], Value]:
    """Return a function that returns `value` for every checkpoint of a family."""

    def of(checkpoint: Checkpoint) -> Value:
        del checkpoint
        return value

    return of


def tokenizer_lengths(checkpoint: Checkpoint) -> Mapping[str, int]:
    """Return no lengths: every tokenizer of the family states how many tokens its text model takes."""
    del checkpoint
    return {}


def require_latents(name: str, checkpoint: Checkpoint, cells: int = 1) -> None:
    """Raise `ModelError` unless input and output of the network are latents of this autoencoder.

    Args:
        name: the model's name.
        checkpoint: its components.
        cells: how many latent cells make one input vector of the network, concatenated along the channels.
    """
    config, channels = checkpoint.network.config, checkpoint.vae.config.latent_channels
    inputs, outputs = config.in_channels, config.out_channels or config.in_channels
    if (inputs, outputs) != (cells * channels, cells * channels):
        raise ModelError(
            f"the model {name!r} is not a plain text-to-image model: its latents have {channels} channels, "
            f"its {checkpoint.family.network.name} takes {inputs} and returns {outputs}",
            hint="inpainting, depth and editing models cannot be used: choose their base model",
        )


def require_width(name: str, checkpoint: Checkpoint, what: str, wanted: int, found: int) -> None:
    """Raise `ModelError` unless the features of the text models are as wide as the network expects."""
    if wanted != found:
        encoders = " and ".join(checkpoint.text_models)
        raise ModelError(
            f"the model {name!r} has a {checkpoint.family.network.name} for {what} of width {wanted}, "
            f"but {encoders} of width {found}",
            hint="its components belong to different models: download it again, as a whole",
        )
