"""What a family of models is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from stylescore.diffusion.conditioning import Conditioning
from stylescore.diffusion.text import Encode
from stylescore.errors import ModelError

Value = TypeVar("Value")

Call = Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
"""`(network, latents, time, conditioning) -> output`, latents and output [batch, c, h, w], time [batch]."""


@dataclass(frozen=True)
class Part:
    """A network or tokenizer of a model, as a folder in diffusers layout has it.

    Attributes:
        name: of its subfolder.
        kind: its class.
        optional: whether a model may lack it.
    """

    name: str
    kind: str
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model consists of.

    Attributes:
        family: which decides what the parts are.
        networks: the denoising network, `vae` and text models, by the name of their subfolder.
        tokenizers: by the name of their subfolder.
        scheduler_config: as stored.
        index: `model_index.json`, as stored.
    """

    family: Family
    networks: Mapping[str, Any]
    tokenizers: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    index: Mapping[str, Any]

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
    def texts(self) -> dict[str, tuple[Any, Any]]:
        """Tokenizer and text model by the name of the model; those that the model lacks are left out."""
        return {
            text.name: (self.tokenizers[tokenizer.name], self.networks[text.name])
            for tokenizer, text in self.family.texts
            if text.name in self.networks
        }


@dataclass(frozen=True, kw_only=True)
class Family:
    """How models of one kind are put together.

    Attributes:
        key: short name.
        label: name for readers.
        pipelines: the diffusers pipelines whose folders hold such models.
        network: the denoising network.
        texts: tokenizer and text model, in the family's order.
        flow: whether the network predicts a rectified flow's velocity instead of what its scheduler states.
        patch: sides of a latent must be multiples of this many cells.
        usual_grid: cells of a latent's side that models are trained on where their settings do not say.
        tiny: hub id of the tiny autoencoder that is usual for such models.
        lengths: tokens that a text model reads where its tokenizer does not say, by the model's name.
        require_fit: raises unless a model's parts belong together.
        make_encode: makes what puts the text features together.
        make_call: makes what calls the network.
        text_width: of the features that the network's attention reads.
    """

    key: str
    label: str
    pipelines: tuple[str, ...]
    network: Part
    texts: tuple[tuple[Part, Part], ...]
    flow: bool = False
    patch: int = 1
    usual_grid: int = 128
    tiny: str | None = None
    lengths: Callable[[Parts], Mapping[str, int]]
    require_fit: Callable[[str, Parts], None]
    make_encode: Callable[[Parts], Encode]
    make_call: Callable[[Parts], Call]
    text_width: Callable[[Any], int]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All networks: the denoising one, the autoencoder, the text models."""
        return (self.network, Part("vae", "AutoencoderKL"), *(text for _, text in self.texts))

    @property
    def tokenizers(self) -> tuple[Part, ...]:
        """All tokenizers."""
        return tuple(tokenizer for tokenizer, _ in self.texts)


def always(value: Value) -> Callable[[Parts], Value]:
    """Return what gives `value` for every model of a family."""

    def of(parts: Parts) -> Value:
        del parts
        return value

    return of


def as_tokenizers_say(parts: Parts) -> Mapping[str, int]:
    """Return no lengths: every tokenizer knows how much its model reads."""
    del parts
    return {}


def require_latents(name: str, parts: Parts, cells: int = 1) -> None:
    """Raise `ModelError` unless the network takes and gives latents of this autoencoder.

    Args:
        name: of the model.
        parts: its parts.
        cells: how many latent cells the network takes as one, side by side in its channels.
    """
    config, latent = parts.network.config, parts.vae.config.latent_channels
    taken, given = config.in_channels, config.out_channels or config.in_channels
    if (taken, given) != (cells * latent, cells * latent):
        raise ModelError(
            f"the model {name!r} is not a plain text-to-image model: its latents have {latent} channels, "
            f"its {parts.family.network.name} takes {taken} and gives {given}",
            hint="inpainting, depth and editing models cannot be used: choose their base model",
        )


def require_width(name: str, parts: Parts, what: str, wanted: int, found: int) -> None:
    """Raise `ModelError` unless the text models give features as wide as the network reads."""
    if wanted != found:
        encoders = " and ".join(parts.texts)
        raise ModelError(
            f"the model {name!r} has a {parts.family.network.name} for {what} of width {wanted}, "
            f"but {encoders} of width {found}",
            hint="its parts belong to different models: download it again, as a whole",
        )
