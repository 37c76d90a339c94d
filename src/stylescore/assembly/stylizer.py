"""The parts behind the front ends: load once, then stylize batches of photos."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stylescore.assembly.build import Models, Prompts, encode_sources, enlarge, fit_latents
from stylescore.assembly.networks import Prepared, prepare
from stylescore.catalog.registry import resolve_model, resolve_preview_model, resolve_style
from stylescore.config.content_knob import with_content
from stylescore.config.method import MethodConfig
from stylescore.config.ranges import check_run
from stylescore.config.run import RunConfig
from stylescore.diffusion.adapters import adaptable
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.previews import choose_codec
from stylescore.errors import ConfigError, PictureError
from stylescore.images import Photo, at_source_size, before_after, fitted_size, to_picture, to_tensor
from stylescore.method.fit import Fitting, Growth, Iteration, fit
from stylescore.method.state import PictureState, restore
from stylescore.method.types import Latent, Rng
from stylescore.storage.files import sha256

LARGE = 4
"""A picture with more than so many times the pixels of the model's own is worked on in windows."""
WORTH_REFINING = 1.25
"""A picture less than so many times as large as the model's own is worked on at one size."""
CODEC_WINDOW = 512
"""Side in pixels of the windows that pass the autoencoder in a run that saves memory; it needs 0.4 GB for one."""


@dataclass(frozen=True)
class Result:
    """A stylized photo.

    Attributes:
        picture: at the photo's own size; RGBA if the photo had transparency.
        model_picture: at the size the model worked at.
        photo: the source.
    """

    picture: Image.Image
    model_picture: Image.Image
    photo: Photo

    @property
    def before_after(self) -> Image.Image:
        """Photo and result side by side."""
        return before_after(self.photo.picture, self.picture.convert("RGB"))


class Stylizer:
    """A configuration with its models loaded.

    Attributes:
        run: the checked configuration.
        style_prompt: words for the style, as resolved.
    """

    def __init__(self, run: RunConfig) -> None:
        """Load what `run` names.

        Raises:
            InputError: a number out of range, or a model, style or device that cannot be used.
        """
        self.run = checked(run)
        self._prepared: Prepared = prepare(self.run)
        self._take_up(self.run)

    def _take_up(self, run: RunConfig) -> None:
        """Set what follows from a configuration once its models are there."""
        require_targets(self._prepared.models.base.network, run.method.fake.targets)
        self.run = run
        self.style_prompt = self._prepared.style_prompt
        self._method = with_content(run.method, run.content)

    def with_run(self, run: RunConfig) -> Stylizer:
        """Return a stylizer for another configuration on the models that are loaded already.

        The two share one network, in which a run's fake score has its place: finish one run before the next is
        started.

        Raises:
            InputError: a number out of range, or something that would have to be loaded anew.
        """
        if loaded_by(checked(run)) != loaded_by(self.run):
            raise ConfigError(
                "model, styles, their strength, device, dtype, compile and how memory is used are fixed once loaded",
                hint="make a new Stylizer",
            )
        other = copy.copy(self)
        for name in ("hashes", "preview_codec"):
            other.__dict__.pop(name, None)
        other._take_up(run)
        return other

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return torch.device(self._prepared.models.base.network.device)

    @property
    def style_has_network(self) -> bool:
        """Whether the style score has a network of its own: a copy, or another base."""
        return self._prepared.models.style is not self._prepared.models.base

    def working_size(self, photo: Photo) -> tuple[int, int]:
        """Return (width, height) at which a photo is worked on."""
        width, height = photo.picture.size
        try:
            return fitted_size(width, height, self._short_side(width, height), self._prepared.multiple)
        except PictureError as error:
            raise PictureError(f"{str(photo.path)!r} is {error}", hint=error.hint) from error

    def _short_side(self, width: int, height: int) -> int:
        """Return the short side a picture of this size is worked at: the user's word, else as the preset has it."""
        native = self._prepared.native_size
        own = min(width, height, round(native * self.run.method.refine.factor))
        return self.run.size or (own if own >= WORTH_REFINING * native else native)

    def coarse_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) at which a picture of a working size is begun; the same where nothing is refined."""
        native = self._prepared.native_size
        if self.run.method.refine.factor <= 1 or min(size) < WORTH_REFINING * native:
            return size
        return fitted_size(*size, native, self._prepared.multiple)

    def prompts(self, captions: Sequence[str]) -> Prompts:
        """Return the words of a batch with these captions."""
        return Prompts.of(self._method, self.style_prompt, captions)

    def cut_prompts(self, caption: str) -> list[str]:
        """Return the ends of this caption's prompts that the text encoder does not read."""
        prompts = self.prompts([caption])
        return [
            rest
            for prompt in (*prompts.target, *prompts.edit, *prompts.caption)
            if (rest := self._prepared.models.text.truncated_end(prompt))
        ]

    def start(
        self,
        photos: Sequence[Photo],
        states: Sequence[PictureState] | None = None,
        captions: Sequence[str] | None = None,
    ) -> Fitting:
        """Assemble a run over photos of one working size; nothing is computed but the photos' latents.

        Args:
            photos: a batch; every picture draws from its own generator, seeded with the run's seed.
            states: kept states to go on from, one per photo; their source latents are used as they are.
            captions: one per photo; `None` takes the run's caption for all.

        Raises:
            ConfigError: not one caption per photo, or states that do not fit.
        """
        if captions is not None and len(captions) != len(photos):
            raise ConfigError(f"a batch needs one caption a photo, got {len(captions)} for {len(photos)}")
        rng = [torch.Generator().manual_seed(self.run.seed) for _ in photos]
        prompts = self.prompts([self.run.caption] * len(photos) if captions is None else captions)
        try:
            return self._assembled(photos, states, prompts, rng)
        except (KeyError, RuntimeError) as error:
            if states is None:
                raise
            raise ConfigError(f"the kept state cannot be taken up: {error}", hint="begin a new run") from error

    def _assembled(
        self, photos: Sequence[Photo], states: Sequence[PictureState] | None, prompts: Prompts, rng: Rng
    ) -> Fitting:
        size = self.working_size(photos[0])
        begun = self.coarse_size(size)
        z_source = self._sources(photos, begun, rng) if states is None else kept_sources(states, self.device)
        models = self._models(*z_source.shape[-2:])
        fitting = fit_latents(models, self._method, prompts, z_source, rng, refined=begun != size)
        if states is not None:
            restore(fitting, states)
        if fitting.iteration <= self._method.iterations and begun != size:
            fitting.growth = Growth(self._method.iterations, partial(self._enlarge, photos=photos, prompts=prompts))
        return fitting

    def _enlarge(self, fitting: Fitting, photos: Sequence[Photo], prompts: Prompts) -> None:
        """Bring a run from its coarse size to the photos' working size."""
        size = self.working_size(photos[0])
        z_source = self._sources(photos, size, fitting.rng)
        models = self._models(*z_source.shape[-2:])
        pictures = models.codec.decode(fitting.subject.render())
        larger = F.interpolate(pictures, size[::-1], mode="bicubic").clamp(-1, 1)
        enlarge(fitting, models, self._method, prompts, models.codec.encode(larger, None), z_source)

    def _sources(self, photos: Sequence[Photo], size: tuple[int, int], rng: Rng) -> Latent:
        pictures = torch.cat([to_tensor(photo.picture, size) for photo in photos])
        factor = self._prepared.models.codec.factor
        models = self._models(pictures.shape[-2] // factor, pictures.shape[-1] // factor)
        return encode_sources(models, self._method, pictures.to(self.device), rng)

    def decode(self, latents: Latent) -> list[Image.Image]:
        """Decode latents to pictures."""
        return self._decoded(latents, self._prepared.models.codec)

    def _decoded(self, latents: Latent, codec: Codec) -> list[Image.Image]:
        windowed = replace(codec, tile=self._codec_window(*latents.shape[-2:]))
        return [to_picture(picture) for picture in windowed.decode(latents)]

    def _models(self, height: int, width: int) -> Models:
        """Return the networks for a latent of this size, in windows if it is large."""
        return self._prepared.models.tiled(self._window(height, width), self._codec_window(height, width))

    def _window(self, height: int, width: int) -> int | None:
        """Return the side in latent cells of the windows for a latent of this size; `None` if it is not large."""
        prepared, factor = self._prepared, self._prepared.models.codec.factor
        large = height * width * factor**2 > LARGE * prepared.native_size**2
        side = self.run.tile if self.run.tile is not None else prepared.native_size if large else 0
        cells = side // prepared.multiple * prepared.multiple // factor
        return cells or None

    def _codec_window(self, height: int, width: int) -> int | None:
        """Return the same for the autoencoder, which takes smaller ones where memory is saved."""
        window, small = self._window(height, width), CODEC_WINDOW // self._prepared.models.codec.factor
        return min(window or small, small) if self.run.saves_memory and self.run.tile != 0 else window

    def picture(self, fitting: Fitting, index: int) -> Image.Image:
        """Return one picture of a batch as it stands."""
        return self._shown(fitting, index, self._prepared.models.codec)

    def _shown(self, fitting: Fitting, index: int, codec: Codec) -> Image.Image:
        rendered: Tensor = fitting.subject.render()
        return self._decoded(rendered[index : index + 1], codec)[0]

    @cached_property
    def preview_codec(self) -> Codec:
        """What previews are decoded with, loaded when it is first asked for: a tiny autoencoder, or the model's own.

        Raises:
            ModelError: the run names a preview model that cannot be used.
        """
        return choose_codec(self.run.preview_model, self._prepared.tiny, self._prepared.models.codec)

    def preview(self, fitting: Fitting, index: int) -> Image.Image:
        """Return one picture of a batch about as it stands, which a tiny autoencoder makes in a fraction of the time.

        Raises:
            ModelError: the run names a preview model that cannot be used.
        """
        return self._shown(fitting, index, self.preview_codec)

    def result(self, fitting: Fitting, index: int, photo: Photo) -> Result:
        """Return one picture of a batch as the result for its photo."""
        picture = self.picture(fitting, index)
        return Result(at_source_size(picture, photo), picture, photo)

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """What the run is made from, as the record names it: hashes of models and adapters."""
        run = self.run
        return {
            "model_sha256": model_hash(run.model),
            "style_model_sha256": model_hash(run.style_model) if run.style_model else "",
            "style_sha256": tuple(sha256(resolve_style(style.name).path) for style in run.styles),
        }

    def __call__(self, photos: Sequence[Photo]) -> Iterator[Iteration | Result]:
        """Stylize photos of one working size: yield every iteration, then every result."""
        fitting = self.start(photos)
        yield from fit(fitting)
        for index, photo in enumerate(photos):
            yield self.result(fitting, index, photo)


def checked(run: RunConfig) -> RunConfig:
    """Return a configuration whose numbers are in range and whose preview model is there or may be on the hub.

    Raises:
        InputError: it is not.
    """
    if run.preview_model is not None:
        resolve_preview_model(run.preview_model)
    return check_run(run)


def loaded_by(run: RunConfig) -> RunConfig:
    """Return a configuration in which only what is read while the models are loaded tells runs apart."""
    method = replace(
        MethodConfig(), style_strength=run.method.style_strength, text_encoder_lora=run.method.text_encoder_lora
    )
    return replace(
        run, method=method, preview_model=None, preset="", caption="", content=0.5, size=None, tile=None, seed=0
    )


def require_targets(network: nn.Module, targets: Sequence[str]) -> None:
    """Raise `ConfigError` unless every name of a layer that the fake score adapts is one of the model's."""
    known = {name.rpartition(".")[2] for name in adaptable(network)}
    wrong = [name for name in targets if name not in known]
    if wrong or not targets:
        raise ConfigError(
            f"fake.targets must name linear layers or convolutions of the model, not "
            f"{wrong[0] if wrong else 'nothing'!r}",
            hint=f"known names: {', '.join(sorted(known))}",
        )


def model_hash(name: str) -> str:
    """Return the hash of a model's files, or a hub model's id, whose files belong to the hub's cache."""
    location = resolve_model(name).location
    return sha256(location) if Path(location).exists() else str(location)


def kept_sources(states: Sequence[PictureState], device: torch.device) -> Latent:
    """Return the source latents of kept states."""
    return torch.stack([state.tensors["z_source"] for state in states]).to(device)
