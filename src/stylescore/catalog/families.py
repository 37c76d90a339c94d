"""Facts about the families of diffusion models: the one table that every other module looks them up in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What the released models of one family have in common.

    Attributes:
        key: short name, used in tables, file reports and benchmarks.
        label: name for users.
        text_width: width of the text features that the network's attention reads.
        pooled_width: width of the pooled text features; 0 where the network takes none.
        latent_channels: channels of a latent.
        pixels_per_cell: pixels per latent cell on each axis.
        native_resolution: side in pixels of the pictures that the family was trained on.
        text_parameters: parameters of all text models, in billions.
        tiny_autoencoder: hub id of the tiny autoencoder for previews, where one is published.
        controls: hub ids of usual ControlNets, by what they follow.
        ip_adapter: hub ids of the usual IP-Adapter's file and of the folder of its image encoder.
        ip_adapter_block: dotted name of the block in which an IP-Adapter shows style alone, by InstantStyle.
        kohya_version: how kohya's files name the base (`ss_base_model_version`), where styles can be trained on it.
        modelspec_architecture: how the same files name it by the ModelSpec standard (`modelspec.architecture`).
        content_block: dotted name of the attention block that carries what a picture shows, where it is known.
        style_block: the same for colours and manner; both by "Implicit Style-Content Separation using B-LoRA",
            ECCV 2024.
        stated_as: matches the names by which adapter files state the family.
    """

    key: str
    label: str
    text_width: int
    pooled_width: int = 0
    latent_channels: int = 4
    pixels_per_cell: int = 8
    native_resolution: int
    text_parameters: float
    tiny_autoencoder: str | None = None
    controls: tuple[tuple[str, str], ...] = ()
    ip_adapter: tuple[str, str] | None = None
    ip_adapter_block: str | None = None
    kohya_version: str | None = None
    modelspec_architecture: str | None = None
    content_block: str | None = None
    style_block: str | None = None
    stated_as: re.Pattern[str] | None = None

    @property
    def native_cells(self) -> int:
        """Side in cells of the latents that the family was trained on."""
        return self.native_resolution // self.pixels_per_cell


_TAESD = "madebyollin/taesd"

SD1: Final = FamilyFacts(
    key="sd1",
    label="Stable Diffusion 1.x",
    text_width=768,
    native_resolution=512,
    text_parameters=0.123,
    tiny_autoencoder=_TAESD,
    controls=(("edges", "lllyasviel/sd-controlnet-canny"), ("tile", "lllyasviel/control_v11f1e_sd15_tile")),
    ip_adapter=("h94/IP-Adapter:models/ip-adapter_sd15.safetensors", "h94/IP-Adapter:models/image_encoder"),
    ip_adapter_block="up_blocks.1",
    kohya_version="sd_v1",
    modelspec_architecture="stable-diffusion-v1",
    stated_as=re.compile(r"^sd[_ -]?v?1|stable[-_ ]diffusion[-_ ]v?1", re.I),
)
SD2: Final = FamilyFacts(
    key="sd2",
    label="Stable Diffusion 2.x",
    text_width=1024,
    native_resolution=768,
    text_parameters=0.340,
    tiny_autoencoder=_TAESD,
    kohya_version="sd_v2",
    modelspec_architecture="stable-diffusion-v2-512",
    stated_as=re.compile(r"^sd[_ -]?v?2|stable[-_ ]diffusion[-_ ]v?2", re.I),
)
SDXL: Final = FamilyFacts(
    key="sdxl",
    label="SDXL",
    text_width=2048,
    pooled_width=1280,
    native_resolution=1024,
    text_parameters=0.817,
    tiny_autoencoder="madebyollin/taesdxl",
    controls=(("edges", "diffusers/controlnet-canny-sdxl-1.0"), ("tile", "xinsir/controlnet-tile-sdxl-1.0")),
    ip_adapter=("h94/IP-Adapter:sdxl_models/ip-adapter_sdxl.safetensors", "h94/IP-Adapter:sdxl_models/image_encoder"),
    ip_adapter_block="up_blocks.0.attentions.1",
    kohya_version="sdxl_base_v1-0",
    modelspec_architecture="stable-diffusion-xl-v1-base",
    content_block="up_blocks.0.attentions.0",
    style_block="up_blocks.0.attentions.1",
    stated_as=re.compile(r"sdxl|xl[-_ ]?base|stable[-_ ]diffusion[-_ ]xl|illustrious|noob-?ai|^pony", re.I),
)
SD3: Final = FamilyFacts(
    key="sd3",
    label="Stable Diffusion 3",
    text_width=4096,
    pooled_width=2048,
    latent_channels=16,
    native_resolution=1024,
    text_parameters=5.581,
    tiny_autoencoder="madebyollin/taesd3",
    stated_as=re.compile(r"^sd[_ -]?v?3|stable[-_ ]diffusion[-_ ]v?3", re.I),
)
FLUX: Final = FamilyFacts(
    key="flux",
    label="FLUX.1",
    text_width=4096,
    pooled_width=768,
    latent_channels=16,
    native_resolution=1024,
    text_parameters=4.886,
    tiny_autoencoder="madebyollin/taef1",
    stated_as=re.compile(r"(?:^|/)flux", re.I),
)
MINI: Final = FamilyFacts(
    key="mini",
    label="mini",
    text_width=96,
    latent_channels=32,
    native_resolution=256,
    text_parameters=0.001,
)

FAMILIES: Final = (SD1, SD2, SDXL, SD3, FLUX, MINI)
_BY_KEY = {facts.key: facts for facts in FAMILIES}
_BY_WIDTH = {facts.text_width: facts for facts in (SD1, SD2, SDXL)}
"""U-Nets alone: both transformers read features of one width, and mini's may be that of any small network."""


def usual_control(kind: str, text_width: int) -> str | None:
    """Return the hub id of the usual ControlNet for a U-Net with this text width, or `None`."""
    facts = _BY_WIDTH.get(text_width)
    return None if facts is None else dict(facts.controls).get(kind)


def usual_ip_adapter(text_width: int) -> tuple[str, str] | None:
    """Return hub id and file of the usual IP-Adapter for a U-Net with this text width, and of its image encoder."""
    facts = _BY_WIDTH.get(text_width)
    return None if facts is None else facts.ip_adapter


_STATED = (SDXL, FLUX, SD3, SD2, SD1)
"""SDXL first: its pattern looks anywhere in a name, the others mostly at its beginning."""


@dataclass(frozen=True, kw_only=True)
class OtherFamily:
    """A family of models that is not supported, to name the files of its adapters.

    Attributes:
        label: name for users.
        stated_as: matches the names by which adapter files state the family.
        tensors: matches tensor names that only its adapters have, if there are any.
    """

    label: str
    stated_as: re.Pattern[str] | None = None
    tensors: re.Pattern[str] | None = None


def _other(label: str, stated_as: str | None, tensors: str | None = None) -> OtherFamily:
    return OtherFamily(
        label=label,
        stated_as=None if stated_as is None else re.compile(stated_as, re.I),
        tensors=None if tensors is None else re.compile(tensors),
    )


_START = r"(?:^|[/_ -])"
OTHER_FAMILIES: Final = (
    _other("Qwen-Image", r"qwen[_ -]?image", r"transformer_blocks[._]\d+[._](?:img|txt)_(?:mod|mlp)"),
    _other(
        "HunyuanVideo",
        r"hunyuan[_ -]?video|framepack",
        r"token_refiner|double_blocks[._]\d+[._](?:img|txt)_mlp[._]fc|double_blocks\.\d+\.(?:img|txt)_attn_",
    ),
    _other("HunyuanDiT", r"hunyuan[_ -]?dit"),
    _other("HunyuanImage", r"hunyuan[_ -]?image"),
    _other("FLUX.2", _START + r"flux[ ._-]?2", r"to_qkv_mlp_proj|(?:double|single)_stream_modulation"),
    _other("Chroma", _START + r"chroma(?:$|[\d ._-])", r"distilled_guidance_layer"),
    _other("Flex", _START + r"flex[ ._-]?[12]"),
    _other(
        "Wan",
        _START + r"wan(?:$|[ _.-]?(?:ai|video|[12]))",
        r"(?:^|\.|lora_unet_|lycoris_)blocks[._]\d+[._](?:self_attn|cross_attn|ffn|attn1|attn2)[._]",
    ),
    _other("LTX-Video", _START + r"ltx"),
    _other("AuraFlow", r"aura-?flow|pony[ _-]?v?7", r"joint_transformer_blocks"),
    _other("HiDream", r"hi-?dream", r"(?:double|single)_stream_blocks"),
    _other("Lumina or Z-Image", None, r"(?:noise|context)_refiner[._]"),
    _other("Lumina", r"lumina"),
    _other("Z-Image", r"z[_-]?image"),
    _other("PixArt", r"pix-?art"),
    _other("Sana", _START + r"sana"),
    _other("Kolors", r"kolors"),
    _other("CogVideoX", r"cog-?video"),
    _other("Mochi", _START + r"mochi"),
    _other("Cosmos", r"cosmos"),
    _other("OmniGen", r"omni-?gen"),
    _other("Kandinsky", r"kandinsky"),
    _other("LongCat-Image", r"longcat"),
    _other("Bria", _START + r"bria"),
    _other("DeepFloyd IF", r"deepfloyd"),
    _other("Krea 2", r"krea[ _-]?2"),
    _other("Anima", _START + r"anima(?:$|[ _-])"),
    _other("Stable Cascade", r"cascade|w(?:ue|ü)rstchen", r"^lora_prior_"),
    _other(
        "a video model", r"stable-video|animatediff", r"temporal_transformer_blocks|motion_modules|temporal_res_block"
    ),
    _other("Llama", r"llama|vicuna|alpaca"),
    _other("Mistral", r"mistral|mixtral"),
    _other("Gemma", r"gemma"),
    _other("Qwen", r"qwen"),
    _other(
        "a language model",
        r"gpt|phi-?\d|deepseek|falcon|CAUSAL_LM|SEQ_2_SEQ_LM|SEQ_CLS",
        r"(?:^|model\.)(?:layers|h)\.\d+\.(?:self_attn|mlp|attn|attention)\.[a-z_]+\.lora_[AB]",
    ),
)
"""Families that are not supported; where several patterns match, the first counts."""
_WIDTHS_OF_OTHERS: Mapping[int, str] = {
    1152: "PixArt",
    2240: "Sana",
    2048: "LTX-Video",
    4096: "LTX-Video",
    1920: "CogVideoX",
    3072: "CogVideoX",
}
"""Width of a transformer whose blocks have an `attn1`, as no supported transformer has one alone."""


def other_family_stated_as(name: str) -> str | None:
    """Return the label of an unsupported family that a file's metadata mean by `name`, or `None`."""
    return next((other.label for other in OTHER_FAMILIES if other.stated_as and other.stated_as.search(name)), None)


def other_family_with(names: Iterable[str]) -> str | None:
    """Return the label of the unsupported family that tensor names belong to, or `None`."""
    known = list(names)
    for other in OTHER_FAMILIES:
        if other.tensors and any(other.tensors.search(name) for name in known):
            return other.label
    return None


def other_family_of_width(width: int | None) -> str:
    """Return the label of the unsupported transformer with an `attn1` of this width."""
    return _WIDTHS_OF_OTHERS.get(width or 0, "a transformer of another family")


def family_facts(key: str) -> FamilyFacts:
    """Return the facts of the family with this key."""
    return _BY_KEY[key]


def family_label(key: str) -> str:
    """Return a family's name for users; a name that is no family's key is returned unchanged."""
    return _BY_KEY[key].label if key in _BY_KEY else key


def family_of_text_width(width: int) -> FamilyFacts | None:
    """Return the U-Net family whose text features are `width` wide, or `None`."""
    return _BY_WIDTH.get(width)


def family_stated_as(name: str) -> FamilyFacts | None:
    """Return the family that an adapter file's metadata mean by `name`, or `None`."""
    return next((facts for facts in _STATED if facts.stated_as and facts.stated_as.search(name)), None)
