"""A whole run but its pictures: what to stylize with, and where and how to compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from stylescore.config.execution import ExecutionConfig
from stylescore.config.method import MethodConfig
from stylescore.config.presets import origin, preset_for
from stylescore.config.toml import overlay
from stylescore.errors import ConfigError, InputError, quote

PredictionName = Literal["epsilon", "v", "sample", "flow"]
ControlName = Literal["edges", "tile"]
PromptWeights = Literal["auto", "on", "off"]


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
class EmbeddingChoice:
    """One textual inversion embedding.

    Attributes:
        token: the word that stands for it in prompts.
        file: its file, or a hub id.
    """

    token: str
    file: str


@dataclass(frozen=True, kw_only=True)
class WeightsChoice:
    """Weights of a network that a method needs besides a diffusion model.

    Attributes:
        network: its name, as `--weights` has it.
        file: a file or folder, or a hub id.
    """

    network: str
    file: str


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run, without its pictures: enough to repeat it.

    Attributes:
        styles: the style adapters, applied together.
        model: base of the fake and real scores: bundled name, folder, file or hub id.
        style_model: base under the style adapters; `None` shares `model`.
        preview_model: tiny autoencoder that previews are decoded with, a folder or a hub id; `None` takes the usual one
            of the model's family if it is in the hub's local cache and fits, else the model's own autoencoder.
        prediction: what the network predicts, where the model's files do not state it; `None` takes what they state.
        vae: autoencoder in place of the model's own: a folder, a file or a hub id.
        text_encoders: folder or hub id with the text encoders and their tokenizers, in place of the model's own.
        clip_skip: the layer of CLIP whose output is used, counted from the last, 1; `None` takes what the styles state,
            else what the model was released with.
        negative_prompt: what classifier-free guidance moves away from, in place of the empty prompt.
        prompt_weights: whether prompts may weight words, as in `(word:1.2)`; auto does so in prompts that look like it.
        embeddings: textual inversion embeddings, for all prompts.
        control: what of the photo a ControlNet holds in sdedit and instantstyle: its edges, or the whole of it for a
            tile ControlNet.
        control_model: folder or hub id of the ControlNet; `None` takes the usual one of the model's family.
        control_scale: factor of what it adds to the U-Net's features.
        style_image: a picture in the style, for methods that take it from there instead of adapters.
        weights: where networks of the method are that are no diffusion model; those left out are looked for.
        style_prompt: prompt of the style; `None` takes the adapter's trigger words, else its name.
        caption: what the photo shows; may be empty.
        content: 0 strongest style, 0.5 the preset as it is, 1 strongest content.
        size: short side in pixels that photos are processed at; `None` is the native resolution, or with
            `refine.factor` above 1 the photo's own up to that factor.
        seed: of every random draw.
        keep_colours: how much of the photo's chroma the finished picture has, 0 to 1.
        mask_feather: width in pixels of a mask's soft edge; `None` is a hundredth of the photo's short side.
        execution: where and how the networks compute.
        preset: where the method's constants come from, for the record only.
        method: the preset, resolved; left out, the one that suits model and styles.
    """

    styles: tuple[StyleChoice, ...]
    model: str = "mini"
    style_model: str | None = None
    preview_model: str | None = None
    prediction: PredictionName | None = None
    vae: str | None = None
    text_encoders: str | None = None
    clip_skip: int | None = None
    negative_prompt: str = ""
    prompt_weights: PromptWeights = "auto"
    embeddings: tuple[EmbeddingChoice, ...] = ()
    control: ControlName | None = None
    control_model: str | None = None
    control_scale: float = 1.0
    style_image: str | None = None
    weights: tuple[WeightsChoice, ...] = ()
    style_prompt: str | None = None
    caption: str = ""
    content: float = 0.5
    size: int | None = None
    seed: int = 0
    keep_colours: float = 0.0
    mask_feather: int | None = None
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    preset: str = ""
    method: MethodConfig = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check the styles' type, and fill in the preset that suits model and styles, where no method is given."""
        if not isinstance(self.styles, tuple) or not all(isinstance(style, StyleChoice) for style in self.styles):
            raise ConfigError(
                f"styles must be a tuple of StyleChoice, not {quote(self.styles)}",
                hint="styles=(StyleChoice(name='watercolor'),)",
            )
        if self.method is None:
            names = [style.name for style in self.styles]
            method, preset = _default_method(self.model, names)
            object.__setattr__(self, "method", method)
            object.__setattr__(self, "preset", self.preset or preset)


def _default_method(model: str, styles: Sequence[str]) -> tuple[MethodConfig, str]:
    """Return the preset of a model and styles, and where it comes from; a model that is not there has none yet."""
    try:
        return preset_for(model, None, None, styles), origin(model, None, styles)
    except InputError:
        return MethodConfig(), ""


def with_options(run: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    """Return a run with fields replaced, those of its execution named without a prefix.

    Args:
        run: the run.
        options: e.g. `{"content": 0.7, "device": "cuda"}`.

    Raises:
        ConfigError: an unknown name, or a value of the wrong type.
    """
    names = {field.name for field in fields(ExecutionConfig)}
    execution = {name: value for name, value in options.items() if name in names}
    others = {name: value for name, value in options.items() if name not in names}
    return replace(overlay(run, others), execution=overlay(run.execution, execution))
