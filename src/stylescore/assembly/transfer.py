"""From names to the networks and runs of methods that change pixels, which load no diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

import torch

from stylescore.assembly.fitting import step_scale
from stylescore.assembly.objectives import make_learning_rate, make_optimiser, with_unit_steps
from stylescore.assembly.sources import Sources
from stylescore.baselines.adain import AdainNetwork
from stylescore.baselines.gatys import GramMatching, TextureFeatures
from stylescore.baselines.ghiasi import PredictedNormalisation
from stylescore.baselines.pixels import Pictures, PixelCodec, ToTransferred, pixel_objective
from stylescore.catalog.places import Found
from stylescore.config.method import MethodConfig, TrunkName
from stylescore.config.run import RunConfig
from stylescore.diffusion.execution.devices import pick_device
from stylescore.diffusion.prompts import Parse
from stylescore.errors import ConfigError
from stylescore.method.directions import Direction
from stylescore.method.fit import Fitting
from stylescore.method.scores import PassCounter, SeparateScores
from stylescore.method.subjects import LatentSubject
from stylescore.method.types import Latent, Rng
from stylescore.metrics.preparation import IMAGENET, hed_pixels, standardise
from stylescore.metrics.states import read_state
from stylescore.metrics.trunks import VGG16, VGG19, make_vgg

NATIVE = 512
"""Short side that pictures are processed at by default, as in the papers."""
MULTIPLE = 8
"""Both sides are multiples of this many pixels: the encoder of AdaIN halves them three times."""

MakeDirection = Callable[[MethodConfig, Pictures, Pictures], Direction]
"""`(method, photos, style) -> direction`, with the content knob applied to the method."""


@dataclass(frozen=True, kw_only=True)
class TransferNetworks:
    """What a method that changes pixels has loaded; it answers what a run asks of a diffusion model's networks.

    Attributes:
        make_direction: from photos and style picture to what a step takes off.
        device: where its network is.
        notes: which weights are used, one line each.
        codec: between pictures and latents, which are the same.
        native_size: short side by default, in pixels.
        multiple: both sides of a working picture are multiples of this many pixels.
        counter: of passes through a denoising network: there are none.
    """

    make_direction: MakeDirection
    device: torch.device
    notes: tuple[str, ...]
    codec: PixelCodec = field(default_factory=PixelCodec)
    native_size: int = NATIVE
    multiple: int = MULTIPLE
    counter: PassCounter = field(default_factory=PassCounter)
    predicts: None = None
    clip_skip: None = None
    trigger: str = ""
    tiny: None = None
    style_has_network: bool = False

    def check(self, method: MethodConfig) -> None:
        """Accept the constants: none of them is of the networks."""

    def windows(self, prompts: Sequence[str], parse: Parse) -> int:
        """Return how many windows of a text encoder prompts take; there is none, so batches may mix them."""
        return 1

    def truncated_ends(self, prompts: Sequence[str]) -> list[str]:
        """Return the ends of prompts that are left out: nothing is read."""
        return []

    def with_tiles(self, cells: int | None, codec: int | None) -> TransferNetworks:
        """Return the networks: the whole picture is needed at once."""
        return self


def load_transfer(run: RunConfig, sources: Sources) -> TransferNetworks:
    """Load what a method that changes pixels needs.

    Raises:
        InputError: weights or device that cannot be used.
    """
    device, found = pick_device(run.execution.device), sources.weights
    return TransferNetworks(
        make_direction=_make_direction(run.method, [found[name] for name in run.method.weights], device),
        device=device,
        notes=tuple(f"{name}: {place.origin}" for name, place in found.items()),
    )


def _make_direction(method: MethodConfig, found: Sequence[Found], device: torch.device) -> MakeDirection:
    """Return what makes a method's direction, its networks loaded."""
    paths = [place.path for place in found]
    match method.method:
        case "gatys":
            return partial(_gram_matching, load_texture(method.gatys.trunk, found[0], device))
        case "adain":
            network = AdainNetwork.from_states(*map(read_state, paths)).to(device)
            return lambda method, photos, style: _to(partial(network, style=style, strength=method.adain.strength))
        case "ghiasi":
            networks = PredictedNormalisation.open(paths[0], paths[1], torch.get_num_threads())
            return lambda method, photos, style: _to(partial(networks, style=style, strength=method.ghiasi.strength))
        case _:
            raise AssertionError(f"{method.method} changes no pixels")


def load_texture(trunk: TrunkName, found: Found, device: torch.device) -> TextureFeatures:
    """Load a VGG with what it was trained on.

    Raises:
        ModelError: its weights cannot be read, or are those of another network.
    """
    state = read_state(found.path)
    match trunk:
        case "vgg19":
            return TextureFeatures(make_vgg(VGG19).load(state).to(device), partial(standardise, scale=IMAGENET))
        case "vgg16":
            return TextureFeatures(make_vgg(VGG16).load(state).to(device), partial(standardise, scale=IMAGENET))
        case "hed":
            return TextureFeatures(make_vgg(VGG16).load(state).to(device), hed_pixels)
        case _:
            assert_never(trunk)


def _to(transfer: Callable[[Pictures], Pictures]) -> Direction:
    return ToTransferred(transfer)


def _gram_matching(features: TextureFeatures, method: MethodConfig, photos: Pictures, style: Pictures) -> Direction:
    weights = method.gatys
    return GramMatching.between(
        features, photos, style, content_weight=weights.content_weight, style_weight=weights.style_weight
    )


def fit_pixels(
    networks: TransferNetworks,
    method: MethodConfig,
    z_source: Latent,
    style: Pictures | None,
    rng: Rng,
) -> Fitting:
    """Assemble a run over the pixels of photos.

    Args:
        networks: what the method has loaded.
        method: constants, with the content knob applied.
        z_source: the photos in [-1, 1], [batch, 3, h, w].
        style: the style picture, [1, 3, h, w].
        rng: one CPU generator per picture; nothing is drawn.

    Raises:
        ConfigError: there is no style picture.
    """
    if style is None:
        raise ConfigError(f"{method.method} needs a picture in the style", hint="give --style-image FILE")
    subject, method = LatentSubject.at(z_source), with_unit_steps(method, 1)
    return Fitting(
        subject=subject,
        objective=pixel_objective(networks.make_direction(method, subject.z_source, style)),
        scores=SeparateScores({}),
        optimiser=make_optimiser(method.optimiser, subject.parameters()),
        learning_rate=make_learning_rate(method.optimiser, method.iterations, step_scale(method, subject)),
        fake=None,
        rng=rng,
        iterations=method.iterations,
        counter=networks.counter,
    )
