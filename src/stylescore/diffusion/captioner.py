"""Captions that a model writes from a photo: BLIP or Florence-2, whose weights are on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image

from stylescore.catalog.hub import CAPTION_MODELS, cached_transformer, download_transformer
from stylescore.diffusion.checkpoints.folders import read_json, refuse_pickles, silence_libraries, translate_errors
from stylescore.diffusion.execution.devices import pick_device
from stylescore.errors import ModelError, memory_limit, quote
from stylescore.images import Photo
from stylescore.images.sheets import flatten_alpha
from stylescore.storage.safetensors_header import read_header
from stylescore.storage.texts import is_folder, user_path

Kind = Literal["blip", "florence2"]
KINDS = ("blip", "florence2")
FLORENCE_TASK = "<CAPTION>"
LONGEST_CAPTION = 40
"""Most tokens of a caption; the text encoders of the usual models read 77 with the style's words."""
BEAMS = 3

_PART = "caption model"
_HINT = "give --caption-model a folder with BLIP or Florence-2 for transformers, with weights as .safetensors"


@dataclass(frozen=True)
class CaptionModel:
    """A caption model that was found, not loaded yet.

    Attributes:
        folder: with its files.
        kind: which architecture it has.
        name: what it is called in messages.
    """

    folder: Path
    kind: Kind
    name: str

    def load(self, device: str = "auto") -> Captioner:
        """Load the model.

        Raises:
            ModelError: a file is missing or damaged.
        """
        import transformers

        with memory_limit("loading the caption model"), silence_libraries(), translate_errors(self.folder, _PART):
            processor = transformers.AutoProcessor.from_pretrained(self.folder, local_files_only=True)
            network = transformers.AutoModelForImageTextToText.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True, torch_dtype=torch.float32
            )
        place = torch.device(pick_device(device))
        return Captioner(self.name, self.kind, processor, network.to(place).eval().requires_grad_(False))


@dataclass(frozen=True)
class Captioner:
    """A loaded caption model; its captions follow from the photo alone.

    Attributes:
        name: what it is called in messages.
        kind: which architecture it has.
        processor: from pictures and texts to tensors and back.
        network: the model.
    """

    name: str
    kind: Kind
    processor: Any
    network: Any

    @torch.inference_mode()
    def describe(self, photo: Photo) -> str:
        """Return a caption of a photo, one line; transparent parts are shown white."""
        picture = photo.picture.copy()
        if photo.alpha is not None:
            picture.putalpha(photo.alpha)
        inputs = self._prepare(flatten_alpha(picture))
        tokens = self.network.generate(**inputs, max_new_tokens=LONGEST_CAPTION, num_beams=BEAMS, do_sample=False)
        texts: Sequence[str] = self.processor.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(texts[0].split())

    def _prepare(self, picture: Image.Image) -> Any:
        words = {"text": FLORENCE_TASK} if self.kind == "florence2" else {}
        return self.processor(images=picture, return_tensors="pt", **words).to(self.network.device)


def find_caption_model(name: str | None) -> CaptionModel:
    """Return the caption model of a name, or the first usual one in the hub's local cache.

    Args:
        name: a folder or a hub id, which is downloaded if it is not on this machine; `None` looks in the cache only.

    Raises:
        ModelError: there is none, or it is no model that can be used.
    """
    if name is None:
        cached = ((hub_id, cached_transformer(hub_id)) for hub_id in CAPTION_MODELS)
        found = next(((hub_id, folder) for hub_id, folder in cached if folder is not None), None)
        if found is None:
            raise ModelError("neither BLIP nor Florence-2 is in the hub's local cache", hint=_HINT)
        return _check(found[1], found[0])
    place = user_path(name)
    if is_folder(place):
        return _check(place, place.resolve().name)
    if name.count("/") != 1 or place.exists():
        raise ModelError(f"there is no caption model {quote(name)}", hint=_HINT)
    return _check(download_transformer(name), name)


def _check(folder: Path, name: str) -> CaptionModel:
    """Return a caption model if its folder has all that is needed.

    Raises:
        ModelError: it has another architecture, or no weights in safetensors.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{str(folder)!r} is no caption model: it has no config.json", hint=_HINT)
    kind = read_json(config, _PART).get("model_type")
    if kind not in KINDS:
        raise ModelError(f"{name!r} is a {kind!r} model, not BLIP or Florence-2", hint=_HINT)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        refuse_pickles(folder, _PART, folder)
        raise ModelError(f"the caption model {name!r} has no weights as .safetensors", hint=_HINT)
    for file in weights:
        read_header(file, error=ModelError)
    return CaptionModel(folder, cast(Kind, kind), name)
