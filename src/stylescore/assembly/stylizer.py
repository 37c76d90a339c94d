"""A run's networks, loaded once, and the photos stylized with them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional as F

from stylescore.assembly.fitting import Guides, Prompts, encode_sources, enlarge, fit_latents
from stylescore.assembly.networks import Networks, load_networks
from stylescore.assembly.objectives import make_parse
from stylescore.assembly.options import Style, check_names, make_run, settings_table
from stylescore.assembly.sources import Sources, resolve_sources
from stylescore.assembly.transfer import TransferNetworks, fit_pixels, load_transfer
from stylescore.assembly.updates import Update, progress_bar
from stylescore.baselines.pixels import PixelCodec
from stylescore.config.content_knob import with_content, with_strength
from stylescore.config.method import GatysConfig, InstantStyleConfig, Method, MethodConfig
from stylescore.config.ranges import check_run
from stylescore.config.run import RunConfig, with_options
from stylescore.config.toml import overlay
from stylescore.diffusion.adapters import MODULES
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import Control, ImagePrompt
from stylescore.diffusion.ip_adapter import ImageEncoder
from stylescore.diffusion.previews import choose_codec
from stylescore.diffusion.prompts import describe_weights
from stylescore.errors import ConfigError, PictureError, memory_limit, quote
from stylescore.images import (
    Photo,
    as_photo,
    as_photos,
    before_after,
    finish,
    fitted_size,
    read_photo,
    to_picture,
    to_tensor,
    with_mask,
)
from stylescore.images.controls import control_picture
from stylescore.images.sizes import resize
from stylescore.images.tensors import mask_tensor
from stylescore.method.fit import Fitting, Growth, Iteration, fit
from stylescore.method.scores import PassCounter
from stylescore.method.state import PictureState, restore, source_latents
from stylescore.method.types import Latent, Map, Rng

LARGE = 4
"""A picture with more than so many times the pixels of the native resolution is processed in tiles."""
WORTH_REFINING = 1.25
"""A picture less than so many times the native resolution is processed at one size."""
CODEC_TILE = 512
"""Side in pixels of the autoencoder's tiles in a run that saves memory; one needs 0.4 GB."""


@dataclass(frozen=True)
class Result:
    """A stylized photo.

    Attributes:
        picture: at the photo's own size; RGBA if the photo had transparency.
        model_picture: at the working size.
        photo: the source.
    """

    picture: Image.Image
    model_picture: Image.Image
    photo: Photo

    @property
    def before_after(self) -> Image.Image:
        """Photo and result side by side."""
        photo = self.photo.picture.copy()
        if self.photo.alpha is not None:
            photo.putalpha(self.photo.alpha)
        return before_after(photo, self.picture)


class Stylizer:
    """A configuration with its networks loaded.

    Nothing of a run stays in the networks: fittings made by one stylizer, or by several on the same networks, do not
    depend on one another.

    Attributes:
        run: the checked configuration.
        sources: what its names stand for.
        style_prompt: text for the style, as resolved.
    """

    @classmethod
    def load(cls, style: Style, **options: Any) -> Stylizer:
        """Load a model with a style, for many calls of `stylize`.

        Args:
            style: a style's name, an adapter file or a hub id; several as a list, or with weights as `{name: weight}`.
            options: `model`, `method`, `preset`, `content`, `style_strength`, `iterations`, `seed`, `size`, `device`,
                `dtype`, `memory`, `settings`, ... as on the command line, see `options.make_run`.

        Raises:
            InputError: an argument that cannot be used.
        """
        return cls(make_run(style, **options))

    @torch.inference_mode(False)
    def __init__(self, run: RunConfig, sources: Sources | None = None) -> None:
        """Load what `run` names.

        Args:
            run: the configuration.
            sources: what its names stand for, if that is known already.

        Raises:
            InputError: a number out of range, or a model, style or device that cannot be used.
        """
        if not isinstance(run, RunConfig):
            raise ConfigError(
                f"Stylizer takes a RunConfig, not {type(run).__name__}",
                hint="Stylizer.load(NAME) takes a style",
            )
        check_run(run)
        self.sources = resolve_sources(run) if sources is None else sources
        with MODULES, memory_limit("loading the model"):
            load = load_transfer if run.method.is_transfer else load_networks
            self._networks: Networks | TransferNetworks = load(run, self.sources)
        self._configure(run)

    def _configure(self, run: RunConfig) -> None:
        """Set what follows from a configuration once its networks are loaded."""
        method = with_content(run.method, run.content)
        self._networks.check(method)
        self.run, self._method = run, method
        self.style_prompt = run.style_prompt or self._networks.trigger

    def with_run(self, run: RunConfig) -> Stylizer:
        """Return a stylizer for another configuration on the networks that are loaded already.

        Raises:
            InputError: a number out of range, or something that would have to be loaded again.
        """
        if not self.has_loaded(run):
            raise ConfigError(
                "model, styles, strength, embeddings, control, device, dtype, compile and memory options are fixed "
                "once loaded",
                hint="make a new Stylizer",
            )
        other = copy.copy(self)
        for name in ("hashes", "preview_codec"):
            other.__dict__.pop(name, None)
        other.sources = self.sources.with_run(run)
        other._configure(run)
        return other

    def has_loaded(self, run: RunConfig) -> bool:
        """Return whether the loaded networks are those of another configuration too.

        Raises:
            InputError: a number of it is out of range.
        """
        return _what_is_loaded(check_run(run)) == _what_is_loaded(self.run)

    def __enter__(self) -> Stylizer:
        """Return the stylizer; its networks are freed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the networks."""
        self.close()

    if not TYPE_CHECKING:  # else no misspelt attribute would be found

        def __getattr__(self, name: str) -> Any:
            """Raise `ConfigError` where the networks were freed; Python asks here for what an object does not have."""
            if name == "_networks":
                raise ConfigError(
                    "the stylizer is closed, and its networks are freed", hint="call it inside of its with block"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def close(self) -> None:
        """Free the networks' memory; the stylizer, and others made of it, cannot be used any more."""
        self.__dict__.pop("preview_codec", None)
        self.__dict__.pop("_networks", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @overload
    def stylize(self, photo: list[Any] | tuple[Any, ...], **options: Any) -> list[Result]: ...
    @overload
    def stylize(self, photo: Any, **options: Any) -> Result: ...
    def stylize(
        self,
        photo: Any,
        *,
        prompt: str | Sequence[str] | None = None,
        mask: Any = None,
        on_iteration: Callable[[Update], object] | None = None,
        progress: bool = True,
        batch: int = 1,
        **changes: Any,
    ) -> Result | list[Result]:
        """Stylize a photo, or a list of photos.

        Args:
            photo: a path, a PIL image, an array, a tensor, or a list of these; see `images.inputs.as_photo`.
            prompt: what the photo shows; for several photos also a list; `None` takes the run's.
            mask: what is stylized, white, and what stays as it is, black: a path, an image, an array or a tensor of
                the photo's aspect ratio; for several photos also a list, with `None` for all of a photo.
            on_iteration: called after every iteration; if it returns a true value, the run ends there.
            progress: whether a progress bar is shown, in terminals and notebooks.
            batch: photos of one working size that are processed together.
            changes: what differs from the run that was loaded, e.g. `content=0.8`, `seed=3`, `iterations=100`,
                `settings={...}`; not what is fixed once loaded.

        Returns:
            The result, or a list of results in the order of the photos.

        Raises:
            InputError: an argument that cannot be used.
            NonFiniteError: the run produced NaN or infinity.
        """
        photos = as_photos(photo)
        if on_iteration is not None and not callable(on_iteration):
            raise ConfigError(
                f"on_iteration must be a function, not {type(on_iteration).__name__}", hint="on_iteration=print"
            )
        stylizer = self.with_changes(changes)
        captions = stylizer._captions(prompt, len(photos))
        photos = stylizer._with_masks(photos, mask)
        results: dict[int, Result] = {}
        for numbers in stylizer.split(photos, batch, captions):
            chosen = [photos[number] for number in numbers]
            fitting = stylizer.start(chosen, captions=[captions[number] for number in numbers])
            label = chosen[0].path.name if len(photos) > 1 else "stylizing"
            with progress_bar(fitting.iterations, label, shown=progress) as advance:
                for iteration in fit(fitting):
                    advance()
                    preview = partial(stylizer._previews, fitting)
                    update = Update(iteration, fitting.iterations, tuple(numbers), preview)
                    if on_iteration is not None and on_iteration(update):
                        break
            for index, number in enumerate(numbers):
                results[number] = stylizer.result(fitting, index, photos[number])
        ordered = [results[number] for number in range(len(photos))]
        return ordered if isinstance(photo, list | tuple) else ordered[0]

    def with_changes(self, changes: Mapping[str, Any]) -> Stylizer:
        """Return a stylizer on the same networks with options changed, by the names of `load`.

        Raises:
            InputError: an unknown name, a value that cannot be used, or something that is fixed once loaded.
        """
        check_names(changes)
        _refuse_fixed(changes)
        direct = ("iterations", "style_strength", "text_strength")
        own = ("settings", "prompt", "strength", *direct)
        table = settings_table(changes.get("settings"))
        constants = {**table, **{key: changes[key] for key in direct if key in changes}}
        rest = {key: value for key, value in changes.items() if key not in own}
        if "prompt" in changes:
            rest["caption"] = changes["prompt"]
        method = with_strength(overlay(self.run.method, constants), changes.get("strength"))
        run = with_options(replace(self.run, method=method), rest)
        return self if run == self.run else self.with_run(run)

    def _captions(self, prompt: Any, count: int) -> list[str]:
        """Return one caption per photo."""
        if prompt is None or isinstance(prompt, str):
            return [self.run.caption if prompt is None else prompt] * count
        captions = list(prompt) if isinstance(prompt, Sequence) else [prompt]
        wrong = [caption for caption in captions if not isinstance(caption, str)]
        if wrong or len(captions) != count:
            what = f"{wrong[0]!r}" if wrong else f"{len(captions)} for {count} photos"
            raise ConfigError(f"prompt must be a text, or one text per photo, not {what}", hint="prompt='a cat'")
        return captions

    def _with_masks(self, photos: Sequence[Photo], mask: Any) -> list[Photo]:
        """Return the photos with their masks: one for all, or one for each."""
        masks = list(mask) if isinstance(mask, list | tuple) else [mask] * len(photos)
        if len(masks) != len(photos):
            raise ConfigError(
                f"mask must be a picture, or one per photo, not {len(masks)} for {len(photos)} photos",
                hint="give None for a photo without one",
            )
        return [
            photo if each is None else with_mask(photo, each, self.run.mask_feather)
            for photo, each in zip(photos, masks, strict=True)
        ]

    def windows(self, caption: str) -> int:
        """Return how many windows of the text encoder this caption's prompts take."""
        prompts = self.prompts([caption])
        return self._networks.windows(prompts.every, prompts.parse)

    def split(self, photos: Sequence[Photo], batch: int, captions: Sequence[str] | None = None) -> Iterator[list[int]]:
        """Yield batches as numbers of photos: neighbours of one working size, at most `batch` of them.

        Prompts of a batch have as many tokens as its longest, so captions of other lengths go into another batch.

        Raises:
            ConfigError: `batch` is not at least 1.
            PictureError: a photo too elongated to process.
        """
        if isinstance(batch, bool) or not isinstance(batch, Integral) or batch < 1:
            raise ConfigError(f"batch must be a whole number of at least 1, not {quote(batch)}", hint="use batch=1")
        windows = [1] * len(photos) if captions is None else [self.windows(caption) for caption in captions]
        keys = [(self.working_size(photo), count) for photo, count in zip(photos, windows, strict=True)]
        for _, group in groupby(range(len(photos)), key=keys.__getitem__):
            numbers = list(group)
            for first in range(0, len(numbers), batch):
                yield numbers[first : first + batch]

    def _previews(self, fitting: Fitting) -> list[Image.Image]:
        """Return approximate pictures of a batch as it stands."""
        return [self.preview(fitting, index) for index in range(len(fitting.rng))]

    @property
    def networks(self) -> Networks:
        """The loaded networks of a diffusion model; a run changes nothing of them."""
        assert isinstance(self._networks, Networks)
        return self._networks

    @property
    def counter(self) -> PassCounter:
        """Counts the passes through denoising networks."""
        return self._networks.counter

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._networks.device

    @property
    def style_has_network(self) -> bool:
        """Whether the style score has a network of its own: a merged copy, or another base."""
        return self._networks.style_has_network

    def working_size(self, photo: Photo) -> tuple[int, int]:
        """Return (width, height) at which a photo is processed.

        Raises:
            PictureError: it is too elongated.
        """
        return self.size_for(photo.path, photo.picture.size)

    def size_for(self, path: Path, size: tuple[int, int]) -> tuple[int, int]:
        """Return the same for the photo at a path, of which only width and height are known."""
        try:
            return fitted_size(*size, self._short_side(*size), self._networks.multiple)
        except PictureError as error:
            raise PictureError(f"{str(path)!r} is {error}", hint=error.hint) from error

    def _short_side(self, width: int, height: int) -> int:
        """Return the short side for a picture of this size: the run's, else the preset's choice."""
        native = self._networks.native_size
        own = min(width, height, round(native * self.run.method.refine_factor))
        return self.run.size or (own if own >= WORTH_REFINING * native else native)

    def coarse_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) at which a run of a working size begins; the same where nothing is refined."""
        native = self._networks.native_size
        if self.run.method.refine_factor <= 1 or min(size) < WORTH_REFINING * native:
            return size
        return fitted_size(*size, native, self._networks.multiple)

    def prompts(self, captions: Sequence[str]) -> Prompts:
        """Return the prompts of a batch with these captions."""
        parse = make_parse(self.run.prompt_weights)
        return Prompts.of(self._method, self.style_prompt, captions, self.run.negative_prompt, parse)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed about models and styles, one line each."""
        return self._networks.notes

    @property
    def resolved_run(self) -> RunConfig:
        """The run with what its files state filled in, so that it can be repeated where they do not state it."""
        run, networks = self.run, self._networks
        return replace(
            run, prediction=run.prediction or networks.predicts, clip_skip=run.clip_skip or networks.clip_skip
        )

    def cut_prompts(self, caption: str) -> list[str]:
        """Return the ends of this caption's prompts that the text encoder truncates."""
        return self._networks.truncated_ends(self.prompts([caption]).every)

    def prompt_notes(self, caption: str) -> list[str]:
        """Return how this caption's prompts are read where it is not as plain text, one line each."""
        prompts = self.prompts([caption])
        weights = [describe_weights(prompts.parse(prompt)) for prompt in prompts.every]
        notes = [f"weights of words in a prompt: {words}" for words in dict.fromkeys(filter(None, weights))]
        windows = self.windows(caption)
        if windows > 1:
            notes.append(f"a prompt is longer than the text encoder reads at once: it is read in {windows} parts")
        return notes

    @torch.inference_mode(False)
    def start(
        self,
        photos: Sequence[Photo],
        states: Sequence[PictureState] | None = None,
        captions: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Fitting:
        """Assemble a run over photos of one working size; nothing is computed but the photos' latents and maps.

        Args:
            photos: a batch; every picture draws from its own generator, seeded with the run's seed.
            states: saved states to resume from, one per photo; their source latents are used as they are.
            captions: one per photo; `None` takes the run's caption for all.
            seeds: one per photo; `None` takes the run's seed for all.

        Raises:
            ConfigError: not one caption per photo, or states that belong to another configuration.
        """
        if captions is not None and len(captions) != len(photos):
            raise ConfigError(f"a batch needs one caption per photo, not {len(captions)} for {len(photos)}")
        seeds = [self.run.seed] * len(photos) if seeds is None else seeds
        rng = [torch.Generator().manual_seed(seed) for seed, _ in zip(seeds, photos, strict=True)]
        prompts = self.prompts([self.run.caption] * len(photos) if captions is None else captions)
        size = self.working_size(photos[0])
        coarse = self.coarse_size(size)
        with memory_limit("encoding the photos"):
            z_source = self._sources(photos, coarse, rng) if states is None else source_latents(states).to(self.device)
            fitting = self._assemble(photos, prompts, z_source, rng, (size, coarse))
        if states is not None:
            restore(fitting, states)
        if fitting.iteration <= self._method.iterations and coarse != size:
            fitting.growth = Growth(self._method.iterations, partial(self._enlarge, photos=photos, prompts=prompts))
        return fitting

    def _assemble(
        self,
        photos: Sequence[Photo],
        prompts: Prompts,
        z_source: Latent,
        rng: Rng,
        sizes: tuple[tuple[int, int], tuple[int, int]],
    ) -> Fitting:
        """Assemble a run that begins at the second of two sizes, for whatever networks there are."""
        size, coarse = sizes
        networks = self._networks_for(*z_source.shape[-2:])
        if isinstance(networks, TransferNetworks):
            return fit_pixels(networks, self._method, z_source, self._style_picture(coarse), rng)
        return fit_latents(
            networks,
            self._method,
            prompts,
            z_source,
            rng,
            refined=coarse != size,
            mask=self._mask(photos, z_source),
            guides=self._guides(photos, coarse),
        )

    def _enlarge(self, fitting: Fitting, photos: Sequence[Photo], prompts: Prompts) -> None:
        """Bring a run from its coarse size to the photos' working size."""
        size = self.working_size(photos[0])
        z_source = self._sources(photos, size, fitting.rng)
        networks = self.networks_for(*z_source.shape[-2:])
        pictures = networks.codec.decode(fitting.subject.render())
        larger = F.interpolate(pictures, size[::-1], mode="bicubic").clamp(-1, 1)
        z, mask = networks.codec.encode(larger, None), self._mask(photos, z_source)
        enlarge(fitting, networks, self._method, prompts, z, z_source, mask)

    def _mask(self, photos: Sequence[Photo], like: Latent) -> Map | None:
        """Return the masks of a batch at the size of its latents; `None` if no photo has one."""
        if all(photo.mask is None for photo in photos):
            return None
        height, width = like.shape[-2:]
        return torch.cat([mask_tensor(photo.mask, (width, height)) for photo in photos]).to(like.device)

    def _guides(self, photos: Sequence[Photo], size: tuple[int, int]) -> Guides:
        """Return what the method follows besides the photos."""
        content = self._enhanced(photos, size) if self.run.method.has_content_stream else None
        encoder = self.networks.image_encoder
        return Guides(
            control=self._control(photos, size),
            style=None if encoder is not None else self._style_picture(size),
            content=content,
            images=None if encoder is None else self._image_prompt(encoder, photos),
        )

    def _image_prompt(self, encoder: ImageEncoder, photos: Sequence[Photo]) -> ImagePrompt:
        """Return what an IP-Adapter shows: the style picture, and the photo where the method asks for it."""
        assert self.sources.style_image is not None
        style = read_photo(self.sources.style_image).visible.convert("RGB")
        groups = [[style] * len(photos)]
        if self.run.method.instantstyle.content_scale:
            groups.append([photo.visible.convert("RGB") for photo in photos])
        return encoder(groups)

    def _enhanced(self, photos: Sequence[Photo], size: tuple[int, int]) -> Latent:
        """Return the latents of the photos with their edges enhanced, as FreeStyle reads them."""
        pictures = [
            resize(photo.visible.convert("RGB"), size).filter(ImageFilter.EDGE_ENHANCE_MORE) for photo in photos
        ]
        return self._encode_means(torch.cat([to_tensor(picture, size) for picture in pictures]))

    def _encode_means(self, pictures: Tensor) -> Latent:
        """Return the means of the encoder's posterior for pictures in [-1, 1], [batch, 3, h, w]."""
        factor = self._networks.codec.factor
        networks = self._networks_for(pictures.shape[-2] // factor, pictures.shape[-1] // factor)
        return networks.codec.encode(pictures.to(self.device), None)

    def _control(self, photos: Sequence[Photo], size: tuple[int, int]) -> Control | None:
        """Return the ControlNet with what it follows of each photo, at the working size; `None` if the run has none."""
        kind, network = self.run.control, self.networks.control
        if kind is None:
            return None
        pictures = [control_picture(resize(photo.visible.convert("RGB"), size), kind) for photo in photos]
        values = torch.cat([to_tensor(picture, size) for picture in pictures])
        return Control(network, ((values + 1) / 2).to(self.device), self.run.control_scale)

    def _style_picture(self, size: tuple[int, int]) -> Latent | None:
        """Return the latents of the style picture, its middle at the working size; `None` if the run has none."""
        path = self.sources.style_image
        if path is None:
            return None
        picture = ImageOps.fit(read_photo(path).visible.convert("RGB"), size, Image.Resampling.LANCZOS)
        return self._encode_means(to_tensor(picture, size))

    def _sources(self, photos: Sequence[Photo], size: tuple[int, int], rng: Rng) -> Latent:
        pictures = torch.cat([to_tensor(photo.visible, size) for photo in photos])
        factor = self._networks.codec.factor
        networks = self._networks_for(pictures.shape[-2] // factor, pictures.shape[-1] // factor)
        return encode_sources(networks.codec, self._method, pictures.to(self.device), rng)

    def decode(self, latents: Latent) -> list[Image.Image]:
        """Decode latents to pictures."""
        return self._decode_with(self._networks.codec, latents)

    def _decode_with(self, codec: Codec | PixelCodec, latents: Latent) -> list[Image.Image]:
        tiled = codec.in_tiles(self._codec_tile(*latents.shape[-2:]))
        return [to_picture(picture) for picture in tiled.decode(latents)]

    def networks_for(self, height: int, width: int) -> Networks:
        """Return the diffusion model's networks for a latent of so many cells, in tiles if it is large."""
        networks = self._networks_for(height, width)
        assert isinstance(networks, Networks)
        return networks

    def _networks_for(self, height: int, width: int) -> Networks | TransferNetworks:
        """Return the networks for a latent of this size, in tiles if it is large."""
        return self._networks.with_tiles(self._tile(height, width), self._codec_tile(height, width))

    def _tile(self, height: int, width: int) -> int | None:
        """Return the side in latent cells of the tiles of a latent of this size; `None` if it is not large."""
        networks, factor, chosen = self._networks, self._networks.codec.factor, self.run.execution.tile
        large = height * width * factor**2 > LARGE * networks.native_size**2
        side = chosen if chosen is not None else networks.native_size if large else 0
        cells = side // networks.multiple * networks.multiple // factor
        return cells or None

    def _codec_tile(self, height: int, width: int) -> int | None:
        """Return the same for the autoencoder, which takes smaller tiles where memory is saved."""
        tile, small = self._tile(height, width), CODEC_TILE // self._networks.codec.factor
        execution = self.run.execution
        return min(tile or small, small) if execution.saves_memory and execution.tile != 0 else tile

    def picture(self, fitting: Fitting, index: int) -> Image.Image:
        """Return one picture of a batch as it stands."""
        return self._render(self._networks.codec, fitting, index)

    def _render(self, codec: Codec | PixelCodec, fitting: Fitting, index: int) -> Image.Image:
        rendered: Tensor = fitting.subject.render()
        return self._decode_with(codec, rendered[index : index + 1])[0]

    @cached_property
    def preview_codec(self) -> Codec | PixelCodec:
        """What previews are decoded with, loaded when it is first needed: a tiny autoencoder, or the model's own.

        Raises:
            ModelError: the run names a preview model that cannot be used.
        """
        if isinstance(self._networks, TransferNetworks):
            return self._networks.codec
        return choose_codec(self.sources.preview_model, self._networks.tiny, self._networks.codec)

    def preview(self, fitting: Fitting, index: int) -> Image.Image:
        """Return one picture of a batch approximately, by a tiny autoencoder in a fraction of the time.

        Raises:
            ModelError: the run names a preview model that cannot be used.
        """
        return self._render(self.preview_codec, fitting, index)

    def result(self, fitting: Fitting, index: int, photo: Photo) -> Result:
        """Return one picture of a batch as the result for its photo."""
        with memory_limit("decoding the picture"):
            picture = self.picture(fitting, index)
            return Result(finish(picture, photo, self.run.keep_colours), picture, photo)

    @cached_property
    def hashes(self) -> dict[str, Any]:
        """The hashes of models and adapters, as a run's record names them."""
        return self.sources.hashes

    def __call__(self, photos: Sequence[Any]) -> Iterator[Iteration | Result]:
        """Stylize photos of one working size, given as to `stylize`: yield every iteration, then every result."""
        read = [as_photo(photo) for photo in photos]
        fitting = self.start(read)
        yield from fit(fitting)
        for index, photo in enumerate(read):
            yield self.result(fitting, index, photo)


def _refuse_fixed(changes: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for what gives a run all of its constants: a change of it would leave them as they are."""
    for name in ("preset", "method"):
        if name in changes:
            raise ConfigError(
                f"{name} is fixed once loaded", hint=f"Stylizer.load(style, {name}=...), or change settings={{...}}"
            )


def _what_is_loaded(run: RunConfig) -> RunConfig:
    """Return a configuration with only what matters while the networks are loaded."""
    names = ("style_strength", "text_strength", "text_encoder_lora")
    with_networks: Method = run.method.method if run.method.weights else "sms"
    pictures = run.method.instantstyle
    loading = MethodConfig(
        method=with_networks,
        gatys=GatysConfig(trunk=run.method.gatys.trunk),
        instantstyle=InstantStyleConfig(scale=pictures.scale, content_scale=pictures.content_scale),
        **{name: getattr(run.method, name) for name in names},
    )
    return RunConfig(
        styles=run.styles,
        embeddings=run.embeddings,
        model=run.model,
        style_model=run.style_model,
        prediction=run.prediction,
        vae=run.vae,
        text_encoders=run.text_encoders,
        clip_skip=run.clip_skip,
        control=run.control,
        control_model=run.control_model,
        weights=run.weights,
        execution=replace(run.execution, tile=None),
        method=loading,
    )
