"""How checkpoints in one file name their tensors, and which family a file belongs to by these names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stylescore.catalog import families as facts
from stylescore.catalog.families import FamilyFacts, family_of_text_width
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.families import FLUX, SD, SD3, SDXL, ComponentSpec, Family
from stylescore.errors import ModelError

NETWORK = "model.diffusion_model."
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a file, by name."""


@dataclass(frozen=True)
class Layout:
    """How checkpoints of one family name their tensors.

    Attributes:
        facts: facts about the family.
        family: how its models are loaded.
        prefixes: what the names of a component's tensors begin with, by component; any of several.
        landmark: a tensor that the denoising network of every such file has, without prefix.
        zero_padded: text models whose tokenizer pads prompts with the first token of the vocabulary.
    """

    facts: FamilyFacts
    family: Family
    prefixes: Mapping[str, tuple[str, ...]]
    landmark: str
    zero_padded: frozenset[str] = frozenset()

    @property
    def configs(self) -> Path:
        """Folder with the settings of the networks, in diffusers layout."""
        return Path(__file__).parent / self.facts.key

    def prefix(self, names: Collection[str], part: str) -> str | None:
        """Return what the names of a component's tensors begin with in a file; `None` if it lacks the component."""
        if part == self.family.network.name:
            return next((prefix for prefix in (NETWORK, "") if f"{prefix}{self.landmark}" in names), None)
        return next((prefix for prefix in self.prefixes[part] if has_prefix(names, prefix)), None)

    def is_openclip(self, part: str) -> bool:
        """Tell whether a text model has OpenCLIP's tensor names instead of those of transformers."""
        return self.prefixes[part][0].endswith(".model.")


_VAE = ("first_stage_model.", "vae.")
_UNET_LANDMARK = "input_blocks.0.0.weight"
_CLIP_L, _CLIP_G, _T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
SD1_LAYOUT = Layout(facts.SD1, SD, {"vae": _VAE, "text_encoder": ("cond_stage_model.transformer.",)}, _UNET_LANDMARK)
SD2_LAYOUT = Layout(
    facts.SD2,
    SD,
    {"vae": _VAE, "text_encoder": ("cond_stage_model.model.",)},
    _UNET_LANDMARK,
    zero_padded=frozenset({"text_encoder"}),
)
SDXL_LAYOUT = Layout(
    facts.SDXL,
    SDXL,
    {
        "vae": _VAE,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    _UNET_LANDMARK,
    zero_padded=frozenset({"text_encoder_2"}),
)
SD3_LAYOUT = Layout(
    facts.SD3,
    SD3,
    {"vae": _VAE, "text_encoder": (_CLIP_L,), "text_encoder_2": (_CLIP_G,), "text_encoder_3": (_T5,)},
    "joint_blocks.0.x_block.attn.qkv.weight",
    zero_padded=frozenset({"text_encoder_2"}),
)
FLUX_LAYOUT = Layout(
    facts.FLUX,
    FLUX,
    {"vae": _VAE, "text_encoder": (_CLIP_L,), "text_encoder_2": (_T5,)},
    "double_blocks.0.img_attn.qkv.weight",
)
LAYOUTS = (SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, SD3_LAYOUT, FLUX_LAYOUT)
_UNETS = {layout.facts: layout for layout in (SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT)}
_UNSUPPORTED = {
    "conditioner.embedders.0.model.": "an SDXL refiner",
    "lora_": "a LoRA",
    "control_model.": "a ControlNet",
}
_OF_FLUX_KIND = {
    "double_stream_modulation_img.": "a FLUX.2 checkpoint",
    "distilled_guidance_layer.": "a Chroma checkpoint",
}
"""Other families whose networks have FLUX's blocks, by what only they have."""
_EDM = "edm_"
_FILE_HINT = "give a complete Stable Diffusion 1.x, 2.x, 3, SDXL or FLUX.1 checkpoint, or a folder in diffusers layout"


def detect_layout(path: Path, shapes: Shapes, options: ModelOptions) -> Layout:
    """Detect the layout from the names of the tensors.

    Raises:
        ModelError: the file is of another family, or lacks a component that does not come from elsewhere either.
    """
    names = list(shapes)
    _refuse_unsupported(path, names)
    layout = _find_layout(shapes)
    lacking = [spec for spec in layout.family.networks if layout.prefix(shapes, spec.name) is None]
    if len(lacking) == len(layout.family.networks):
        raise ModelError(f"{str(path)!r} is no Stable Diffusion checkpoint", hint=_FILE_HINT)
    missing = [spec for spec in lacking if not spec.is_optional and not options.replaces(spec.name)]
    if missing:
        reason = f"lacks its {', '.join(spec.name for spec in missing)}"
        raise ModelError(f"{str(path)!r} {reason}", hint=_missing_hint(layout, missing))
    return layout


def _find_layout(shapes: Shapes) -> Layout:
    """Return the layout of a file: transformers have names of their own, U-Nets differ most in their text models."""
    for layout in (SD3_LAYOUT, FLUX_LAYOUT):
        if layout.prefix(shapes, "transformer") is not None:
            return layout
    for layout in (SDXL_LAYOUT, SD2_LAYOUT, SD1_LAYOUT):
        if layout.prefix(shapes, "text_encoder") is not None:
            return layout
    width = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), 0)
    known = family_of_text_width(width)
    return SD1_LAYOUT if known is None else _UNETS[known]


def _missing_hint(layout: Layout, missing: Iterable[ComponentSpec]) -> str:
    """Return what to do about components that a file lacks."""
    names = {spec.name for spec in missing}
    if layout.family.network.name in names:
        return "get the complete checkpoint"
    vae = "the autoencoder with --vae FILE" if "vae" in names else ""
    texts = "the text encoders with --text-encoders FOLDER" if names - {"vae"} else ""
    return f"get the complete checkpoint, or give {' and '.join(filter(None, (vae, texts)))}"


def _refuse_unsupported(path: Path, names: Collection[str]) -> None:
    for prefix, kind in _UNSUPPORTED.items():
        if has_prefix(names, prefix):
            raise ModelError(f"{str(path)!r} is {kind}, which cannot be used as a model file", hint=_FILE_HINT)
    for prefix, kind in _OF_FLUX_KIND.items():
        if has_prefix(names, prefix) or has_prefix(names, NETWORK + prefix):
            raise ModelError(f"{str(path)!r} is {kind}, which cannot be used as a model file", hint=_FILE_HINT)
    mark = next((name for name in names if name.startswith(_EDM)), None)
    if mark is not None:
        reason = f"was trained on EDM's noise schedule, as {mark!r} shows, which is not supported"
        raise ModelError(
            f"{str(path)!r} {reason}", hint="choose a model that was trained on Stable Diffusion's noise schedule"
        )


def has_prefix(names: Iterable[str], prefix: str) -> bool:
    """Tell whether a name begins with a prefix."""
    return any(name.startswith(prefix) for name in names)
