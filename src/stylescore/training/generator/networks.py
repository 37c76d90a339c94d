"""What networks are trained as generators: how one is made, how it paints, and the file that holds its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from stylescore.assembly.fitting import fill_template
from stylescore.assembly.networks import Networks
from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.metadata import BASE_WEIGHTS, added_tokens
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.features import encode_with_features
from stylescore.diffusion.one_step import LoraGenerator, OneStep
from stylescore.errors import ConfigError, ModelError, StyleError, quote
from stylescore.generators.files import GeneratorFacts, facts_metadata, write_generator
from stylescore.generators.kinds import check_network, make_generator
from stylescore.method.types import Latent
from stylescore.storage.safetensors_header import read_header
from stylescore.training.config import Targets, family_of
from stylescore.training.draws import make_generator as make_rng
from stylescore.training.draws import make_seed
from stylescore.training.export import changes_tensors, lora_bytes, write_lora
from stylescore.training.generator.batches import Batch
from stylescore.training.generator.config import GeneratorTrainingConfig
from stylescore.training.generator.start import put_lora, put_start
from stylescore.training.lora import target_layers
from stylescore.training.metadata import model_metadata

LAYERS: Targets = "attention+conv"
"""Layers of a U-Net that a generator's LoRA adapts, as those of a style's training name them."""


class Painting(Protocol):
    """What a generator makes of a batch, as pixels and as latents; either is computed when it is first needed."""

    @property
    def pictures(self) -> Tensor:
        """Pictures [batch, 3, h, w] in [0, 1]."""
        ...

    @property
    def latent(self) -> Latent:
        """The same as latents, differentiable in the generator's weights."""
        ...

    @property
    def levels(self) -> Sequence[Tensor]:
        """What the encoder sees of the pictures on its way, see `encode_with_features`."""
        ...


def encode(networks: Networks, pictures: Tensor) -> Latent:
    """Return the latents of pictures in [0, 1], differentiable in them."""
    return networks.codec.encode_differentiably(pictures * 2 - 1)


@dataclass(frozen=True)
class PixelPainting:
    """Pictures, encoded where latents are needed.

    Attributes:
        pictures: of a batch.
        networks: with the encoder.
    """

    pictures: Tensor
    networks: Networks

    @cached_property
    def _encoded(self) -> tuple[Latent, list[Tensor]]:
        return encode_with_features(self.networks.codec, self.pictures * 2 - 1)

    @property
    def latent(self) -> Latent:
        """The encoded pictures."""
        return self._encoded[0]

    @property
    def levels(self) -> Sequence[Tensor]:
        """The encoder's features of the pictures."""
        return self._encoded[1]


@dataclass(frozen=True)
class LatentPainting:
    """Latents that a denoising network has predicted, decoded where pixels are needed.

    Attributes:
        latent: of a batch.
        decode: makes pictures of them.
        codec: with the encoder.
    """

    latent: Latent
    decode: Callable[[Latent], Tensor]
    codec: Codec

    @cached_property
    def pictures(self) -> Tensor:
        """The decoded latents."""
        return self.decode(self.latent)

    @cached_property
    def levels(self) -> Sequence[Tensor]:
        """The encoder's features of the decoded pictures."""
        return encode_with_features(self.codec, self.pictures * 2 - 1)[1]


class Kind(Protocol):
    """A kind of network."""

    @property
    def stated(self) -> Mapping[str, Any]:
        """What a file says of the network, as fields of `GeneratorFacts`."""
        ...

    def make(self) -> nn.Module:
        """Return a new network; every call returns the same weights."""
        ...

    def start(self, file: Path, network: nn.Module) -> None:
        """Copy the weights of a generator's file into a new network.

        Raises:
            InputError: the file cannot be used, or is another network.
        """
        ...

    def paint(self, network: nn.Module, batch: Batch) -> Painting:
        """Return what a network makes of a batch."""
        ...

    def write(self, path: Path, network: nn.Module, facts: GeneratorFacts, dtype: torch.dtype) -> None:
        """Write a network's file.

        Raises:
            OutputError: it cannot be written.
        """
        ...


@dataclass(frozen=True)
class OwnNetwork:
    """A network that needs no other model once it is trained.

    Attributes:
        config: of the training.
        networks: those that it learns from.
        noise_channels: of its noise field.
        device: where it is trained.
    """

    config: GeneratorTrainingConfig
    networks: Networks
    noise_channels: int
    device: torch.device

    @property
    def stated(self) -> Mapping[str, Any]:
        """The network's options."""
        return {"options": self.config.options}

    def make(self) -> nn.Module:
        """Return a new network; every call returns the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(make_seed(self.config.run.seed, "hold", 1) % 2**63)
            return make_generator(self.config.network, self.config.options, self.noise_channels).to(self.device)

    def start(self, file: Path, network: nn.Module) -> None:
        """Copy the weights of a generator's file into a new network."""
        put_start(file, network, self.noise_channels)

    def paint(self, network: nn.Module, batch: Batch) -> Painting:
        """Return the network's pictures, float32."""
        pictures: Tensor = network(batch.photo, batch.noise)
        return PixelPainting(pictures.float(), self.networks)

    def write(self, path: Path, network: nn.Module, facts: GeneratorFacts, dtype: torch.dtype) -> None:
        """Write the network's weights."""
        write_generator(path, network.state_dict(), facts, dtype=dtype)


@dataclass(frozen=True)
class ModelWithLora:
    """The base model's own network, evaluated once, with a LoRA that is trained.

    Attributes:
        step: the pass of the network.
        prompt: its prompt as text.
        rank: of the LoRA; its alpha is the same.
        seed: of the training.
        family: of the model, as a style's training names it.
        predicts: what its network predicts.
        base_weights: fingerprint of its network, if it has one.
    """

    step: OneStep
    prompt: str
    rank: int
    seed: int
    family: str
    predicts: str
    base_weights: str | None

    @property
    def stated(self) -> Mapping[str, Any]:
        """Rank and timestep, and the prompt."""
        return {"options": {"rank": self.rank, "timestep": self.step.timestep}, "prompt": self.prompt}

    def make(self) -> nn.Module:
        """Return a generator whose LoRA changes nothing yet."""
        adapters, rng = self.step.backbone.adapters, [make_rng(self.seed, "hold", 1)]
        names = target_layers(adapters.network, LAYERS)
        return LoraGenerator(self.step, adapters.new_adapter(names, self.rank, float(self.rank), rng))

    def start(self, file: Path, network: nn.Module) -> None:
        """Copy the LoRA of a generator's file into a new one."""
        put_lora(file, cast(LoraGenerator, network))

    def paint(self, network: nn.Module, batch: Batch) -> Painting:
        """Return the latents that the network predicts."""
        generator = cast(LoraGenerator, network)
        height, width = batch.photo.shape[-2:]
        latent = generator.latent(batch.photo, batch.noise)
        return LatentPainting(latent, partial(generator.picture, size=(height, width)), self.step.codec)

    def write(self, path: Path, network: nn.Module, facts: GeneratorFacts, dtype: torch.dtype) -> None:
        """Write the LoRA, whose metadata say that it is a generator."""
        changes = cast(LoraGenerator, network).adapter.changes(self.step.backbone.adapters.network)
        write_lora(path, lora_bytes(changes_tensors(changes, dtype), self._metadata(facts)))

    def _metadata(self, facts: GeneratorFacts) -> dict[str, str]:
        return {
            **({BASE_WEIGHTS: self.base_weights} if self.base_weights else {}),
            **facts_metadata(facts),
            **model_metadata(self.family, facts.base, self.predicts),
            "modelspec.title": facts.style,
            "modelspec.resolution": f"{facts.size}x{facts.size}",
            "modelspec.trigger_phrase": facts.trigger,
            "modelspec.usage_hint": f"one-step generator: one pass at timestep {self.step.timestep} of a noised photo",
            "ss_output_name": facts.style,
            "ss_network_dim": str(self.rank),
            "ss_network_alpha": str(self.rank),
        }


def make_kind(config: GeneratorTrainingConfig, stylizer: Stylizer, noise_channels: int) -> Kind:
    """Return the kind of network that a training asks for.

    Raises:
        ConfigError: an option that the network does not have, or a style model beside a LoRA.
        ModelError: the base model cannot be a generator.
    """
    options = check_network(config.network, config.options, noise_channels)
    match config.network:
        case "lora":
            return _model_with_lora(config, stylizer, options["rank"], options["timestep"])
        case _:
            device = torch.device(stylizer.networks.codec.vae.device)
            return OwnNetwork(config, stylizer.networks, noise_channels, device)


def _model_with_lora(config: GeneratorTrainingConfig, stylizer: Stylizer, rank: int, timestep: int) -> ModelWithLora:
    networks = stylizer.networks
    prompt = fill_template(stylizer.run.method.target_prompt, stylizer.style_prompt, "")  # as `apply` has no captions
    _check_model(config, networks, timestep)
    _check_prompt(stylizer, prompt)
    encoded = networks.text([prompt])
    return ModelWithLora(
        step=OneStep(networks.base, networks.codec, encoded, timestep),
        prompt=prompt,
        rank=rank,
        seed=config.run.seed,
        family=family_of(encoded.tokens.shape[-1]),
        predicts=networks.predicts or "epsilon",
        base_weights=networks.fingerprint,
    )


def _check_model(config: GeneratorTrainingConfig, networks: Networks, timestep: int) -> None:
    """Raise `ConfigError` or `ModelError` unless a run's base can be trained as a generator and applied by its name."""
    network: Any = networks.base.network
    if config.run.style_model is not None:
        raise ConfigError(
            "the network lora adapts the base model and its autoencoder, and cannot have a --style-model beside it",
            hint="leave out --style-model, or give it as --model",
        )
    if not hasattr(network, "down_blocks") or networks.predicts == "flow":
        raise ModelError(
            f"the network lora needs a U-Net that predicts noise, v or the clean latent, the model has a "
            f"{type(network).__name__}",
            hint="use a model of the Stable Diffusion 1.x, 2.x or SDXL kind, or --network mobile",
        )
    count = len(networks.base.schedule.betas)
    if timestep >= count:
        raise ConfigError(
            f"timestep must be below {count}, the timesteps of the model, not {timestep}", hint="leave it out"
        )


def _check_prompt(stylizer: Stylizer, prompt: str) -> None:
    """Raise `ConfigError` if the prompt has a token that only the style's own file holds."""
    for style in stylizer.sources.styles:
        for token in added_tokens(read_header(style.path, error=StyleError)):
            if token in prompt:
                raise ConfigError(
                    f"the prompt of the network lora cannot have {quote(token)}, a token of the style's file",
                    hint="give a --style-prompt of plain words",
                )
