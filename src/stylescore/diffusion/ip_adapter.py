"""IP-Adapters: a U-Net's cross-attention reads a picture beside the prompt, in all blocks or in that of the style.

Sources: "IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models", arXiv 2308.06721; which
block holds the style, "InstantStyle: Free Lunch towards Style-Preserving in Text-to-Image Generation", arXiv
2404.02733, section 3.2. Loading and attention are those of diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylescore.catalog.families import usual_ip_adapter
from stylescore.catalog.hub import download_file, download_subfolder, split_hub_file
from stylescore.catalog.places import Found
from stylescore.diffusion.checkpoints.folders import require_facts, translate_errors
from stylescore.diffusion.checkpoints.loading import Components
from stylescore.diffusion.conditioning import ImagePrompt
from stylescore.errors import ModelError

_PART = "IP-Adapter"
_HINT = "choose an IP-Adapter of the model's family, plain or Plus, as safetensors: --weights ip-adapter=FILE"
_ENCODER_HINT = "choose the image encoder that the IP-Adapter was trained with: --weights image-encoder=FOLDER"
_PLAIN, _PLUS = "proj.weight", "proj_in.weight"
"""Tensors of the projection that only a plain adapter, or one of the Plus kind, has."""


@dataclass(frozen=True)
class ImageEncoder:
    """What turns pictures into the features that an IP-Adapter takes.

    Attributes:
        network: a CLIP vision model of transformers with its projection.
        processor: brings pictures to its size.
        of_patches: whether the adapter takes the features of every patch instead of one vector.
    """

    network: Any
    processor: Any
    of_patches: bool

    @torch.no_grad()
    def __call__(self, groups: Sequence[Sequence[Image.Image]]) -> ImagePrompt:
        """Encode pictures.

        Args:
            groups: for every adapter one picture for each photo of a batch.
        """
        pairs = [self._features(pictures) for pictures in groups]
        return ImagePrompt(tuple(given for given, _ in pairs), tuple(absent for _, absent in pairs))

    def _features(self, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Return the features of pictures, and those that stand for no picture, [batch, 1, ...]."""
        pixels = self.processor(list(pictures), return_tensors="pt").pixel_values
        pixels = pixels.to(self.network.device, self.network.dtype)
        if self.of_patches:
            given, absent = (
                self.network(each, output_hidden_states=True).hidden_states[-2]
                for each in (pixels, torch.zeros_like(pixels))
            )
        else:
            given = self.network(pixels).image_embeds
            absent = torch.zeros_like(given)
        return given[:, None], absent[:, None]


def load_ip_adapter(
    places: Mapping[str, Found], parts: Components, scales: tuple[float, float], device: torch.device
) -> ImageEncoder:
    """Load an IP-Adapter into a model's U-Net, and return the encoder of its pictures.

    Args:
        places: files of `ip-adapter` and `image-encoder`; those left out are the usual ones of the model's family.
        parts: the model; its U-Net is changed.
        scales: factor in the style block for the first picture, and in all blocks for a second one, 0 for none.
        device: where the encoder runs.

    Raises:
        ModelError: the family takes none, there is no usual one, or it is invalid or does not fit the model.
    """
    block = parts.family.facts.ip_adapter_block
    if block is None:
        raise ModelError(
            f"instantstyle is for Stable Diffusion 1.x and SDXL, the model is {parts.family.label}",
            hint="use another --model, or another --method",
        )
    file, folder = _adapter_file(places, parts), _encoder_folder(places, parts)
    state, unet = _read_adapter(file), parts.network
    require_facts(_PART, file, {"text width": (_text_width(state, file), parts.text_width)}, _HINT)
    style, content = scales
    states = [state] if content == 0 else [state, state]
    loader = _make_loader(unet)
    with translate_errors(file, _PART):
        loader.load_ip_adapter(states, subfolder="", weight_name=[""] * len(states), low_cpu_mem_usage=False)
    _set_scales(loader, unet, block, [style, content][: len(states)])
    unet.requires_grad_(False).eval()
    encoder = _load_encoder(folder, parts.network.dtype, device)
    of_patches = _PLUS in state["image_proj"]
    _require_encoder(folder, encoder, state, of_patches)
    return ImageEncoder(encoder, _make_processor(encoder), of_patches)


def _adapter_file(places: Mapping[str, Found], parts: Components) -> Path:
    if "ip-adapter" in places:
        return places["ip-adapter"].path
    return download_file(*_usual(parts)[0])


def _encoder_folder(places: Mapping[str, Found], parts: Components) -> Path:
    if "image-encoder" in places:
        return places["image-encoder"].path
    return download_subfolder(*_usual(parts)[1])


def _usual(parts: Components) -> list[tuple[str, str]]:
    """Return hub id and file or folder of the usual adapter and its encoder."""
    names = usual_ip_adapter(parts.text_width)
    if names is None:
        raise ModelError(f"there is no usual IP-Adapter for {parts.name!r}", hint=_HINT)
    return [(str(hub_id), file) for hub_id, file in map(split_hub_file, names)]


def _read_adapter(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return an adapter's tensors by their two groups.

    Raises:
        ModelError: it is no safetensors file, damaged, or an adapter of another kind.
    """
    found: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    if path.suffix != ".safetensors":
        raise ModelError(f"an IP-Adapter must be a .safetensors file, not {path.name!r}", hint=_HINT)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 the file is no mapping
                group, _, rest = name.partition(".")
                if group in found:
                    found[group][rest] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the IP-Adapter {str(path)!r} cannot be read: {error}", hint="get the file again") from error
    if not found["ip_adapter"] or not {_PLAIN, _PLUS}.intersection(found["image_proj"]):
        raise ModelError(f"{str(path)!r} is neither a plain IP-Adapter nor one of the Plus kind", hint=_HINT)
    return found


def _text_width(state: Mapping[str, Mapping[str, Tensor]], path: Path) -> int:
    """Return the width of the features that an adapter gives to attention."""
    key = next((tensor for name, tensor in state["ip_adapter"].items() if name.endswith("to_k_ip.weight")), None)
    if key is None:
        raise ModelError(f"the IP-Adapter {str(path)!r} has no keys for attention", hint=_HINT)
    return int(key.shape[1])


def _make_loader(unet: Any) -> Any:
    """Return what has diffusers' loader for a U-Net that stands in no pipeline."""
    from diffusers.loaders import IPAdapterMixin

    loader = IPAdapterMixin()
    loader.unet = unet
    return loader


def _set_scales(loader: Any, unet: Any, block: str, scales: Sequence[float]) -> None:
    """Set the factors: that of the first picture in the style block alone, that of the second everywhere.

    Args:
        loader: has diffusers' `set_ip_adapter_scale`.
        unet: its U-Net.
        block: a block of the decoder, `up_blocks.N`, or one of its attentions, `up_blocks.N.attentions.M`.
        scales: one or two factors.
    """
    _, number, *inner = block.split(".")
    attentions = _attentions(unet, block, int(number))
    chosen = range(attentions) if not inner else [int(inner[1])]
    in_block = [scales[0] if n in chosen else 0.0 for n in range(attentions)]
    style = {"up": {f"block_{number}": in_block}}
    loader.set_ip_adapter_scale([style, *scales[1:]])


def _attentions(unet: Any, block: str, number: int) -> int:
    """Return how many attentions a decoder's block has, the style block among them.

    Raises:
        ModelError: the U-Net has no such block.
    """
    names = {name for name, _ in unet.named_modules()}
    count = sum(f"up_blocks.{number}.attentions.{n}" in names for n in range(16))
    if block not in names or not count:
        raise ModelError(f"instantstyle needs the block {block}, which this U-Net has not", hint="use another --model")
    return count


def _load_encoder(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    from transformers import CLIPVisionModelWithProjection

    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"the image encoder {str(folder)!r} has no weights as .safetensors", hint=_ENCODER_HINT)
    with translate_errors(folder, "image encoder"):
        network = CLIPVisionModelWithProjection.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=dtype
        )
    return network.eval().requires_grad_(False).to(device)


def _make_processor(encoder: Any) -> Any:
    """Return what prepares pictures as diffusers does where a pipeline has no feature extractor."""
    from transformers import CLIPImageProcessor

    side = encoder.config.image_size
    return CLIPImageProcessor(size=side, crop_size=side)


def _require_encoder(folder: Path, encoder: Any, state: Mapping[str, Mapping[str, Tensor]], of_patches: bool) -> None:
    """Raise `ModelError` unless an encoder's features are as wide as an adapter takes them."""
    wanted = int(state["image_proj"][_PLUS if of_patches else _PLAIN].shape[1])
    width = encoder.config.hidden_size if of_patches else encoder.config.projection_dim
    require_facts("image encoder", folder, {"feature width": (int(width), wanted)}, _ENCODER_HINT)
