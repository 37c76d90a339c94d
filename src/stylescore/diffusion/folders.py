"""Loads a model from a folder in diffusers layout, looking at every part before any is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from stylescore.errors import ModelError
from stylescore.safetensors_header import read_header

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
SUPPORTED = "models of the Stable Diffusion 1.x and 2.x kind (StableDiffusionPipeline) can be used"
CONFIGS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LOADING_FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
)


class Parts(NamedTuple):
    """What a model consists of; `scheduler_config` as stored."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]


def load_folder(folder: Path, dtype: torch.dtype) -> Parts:
    """Load all parts of a diffusers folder.

    Raises:
        ModelError: naming the part that is missing or unsound, or the family that cannot be used.
    """
    _require_family(folder)
    for part, config in CONFIGS.items():
        _require_config(folder, part, config)
    variants = {part: _require_weights(folder, part) for part in STEMS}
    return Parts(
        unet=load_part(folder, "unet", dtype, variants["unet"]),
        vae=load_part(folder, "vae", dtype, variants["vae"]),
        text_encoder=load_part(folder, "text_encoder", dtype, variants["text_encoder"]),
        tokenizer=load_tokenizer(folder / "tokenizer"),
        scheduler_config=read_json(folder / "scheduler" / CONFIGS["scheduler"], "scheduler"),
    )


def read_json(path: Path, part: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: naming `part` when it is none.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as reason:
        raise ModelError(f"the {part} of {str(path.parent)!r} cannot be read: {path.name}: {reason}") from reason
    if not isinstance(value, dict):
        raise ModelError(f"the {part} of {str(path.parent)!r} cannot be read: {path.name} is no JSON object")
    return value


def _require_family(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:5])
        hint = f"it holds single files, name one: {files}" if files else "a diffusers folder has one at its top"
        raise ModelError(f"{str(folder)!r} is no diffusers model: it has no model_index.json", hint=hint)
    pipeline = read_json(index, "index").get("_class_name")
    if pipeline not in PIPELINES:
        raise ModelError(f"{str(folder)!r} is a {pipeline!r}, which this version cannot use yet", hint=SUPPORTED)


def _require_config(folder: Path, part: str, config: str) -> None:
    path = folder / part / config
    if not path.is_file():
        raise _lacking(folder, part, f"there is no {part}/{config}")
    stated = read_json(path, part)
    kind = stated.get("_class_name") or next(iter(stated.get("architectures") or [None]))
    if part in CLASSES and kind not in (CLASSES[part], None):
        raise ModelError(f"the {part} of {str(folder)!r} is a {kind!r}, not a {CLASSES[part]}", hint=SUPPORTED)


def _require_weights(folder: Path, part: str) -> str | None:
    """Check the headers of a part's weight files and return the name of their variant, if any."""
    home, stem = folder / part, STEMS[part]
    for variant, pattern in ((None, ""), ("fp16", ".fp16")):
        index = home / f"{stem}.safetensors.index{pattern}.json"
        single = home / f"{stem}{pattern}.safetensors"
        files = [single] if single.is_file() else _shards(index, part)
        for file in files:
            _require_sound(folder, part, file)
        if files:
            return variant
    pickles = sorted(path.name for path in home.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"the {part} of {str(folder)!r} is a pickle ({pickles[0]}), which may run code when loaded",
            hint="get the model with .safetensors weights",
        )
    raise _lacking(folder, part, f"there is no {part}/{stem}.safetensors")


def _shards(index: Path, part: str) -> list[Path]:
    if not index.is_file():
        return []
    names = read_json(index, part).get("weight_map")
    return [index.parent / str(name) for name in sorted(set(names.values()))] if isinstance(names, dict) else []


def _require_sound(folder: Path, part: str, file: Path) -> None:
    try:
        read_header(file, error=ModelError)
    except ModelError as reason:
        raise ModelError(f"the {part} of {str(folder)!r} cannot be used: {reason}", hint=reason.hint) from None


def _lacking(folder: Path, part: str, reason: str) -> ModelError:
    return ModelError(f"{str(folder)!r} lacks its {part}: {reason}", hint="download the model again, as a whole")


def load_part(folder: Path, part: str, dtype: torch.dtype, variant: str | None) -> Any:
    """Load one network and make sure that every weight came from the file."""
    precision = {"dtype" if part == "text_encoder" else "torch_dtype": dtype}
    with quiet(), naming(folder, part):
        model, info = network_class(part).from_pretrained(
            folder / part,
            variant=variant,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            **precision,
        )
    require_complete(folder, part, info)
    return model


def network_class(part: str) -> Any:
    """Return the class of a part; the libraries are loaded here, not before."""
    match part:
        case "unet":
            from diffusers.models import UNet2DConditionModel

            return UNet2DConditionModel
        case "vae":
            from diffusers.models import AutoencoderKL

            return AutoencoderKL
        case _:
            from transformers import CLIPTextModel

            return CLIPTextModel


def require_complete(source: Path, part: str, info: dict[str, Any]) -> None:
    """Raise unless a loader's report says that no weight was missing or of another shape."""
    missing = sorted(key for key in info.get("missing_keys", ()) if not key.endswith("position_ids"))
    wrong = [key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ())]
    if missing or wrong:
        count, first = len(missing) + len(wrong), (missing or wrong)[0]
        raise ModelError(
            f"the {part} of {str(source)!r} lacks {count} of its weights, such as {first!r}",
            hint="the weights belong to another config.json, or the download is incomplete",
        )


def load_tokenizer(folder: Path) -> Any:
    """Load a CLIP tokenizer.

    Raises:
        ModelError: when its vocabulary is missing or unsound.
    """
    from transformers import CLIPTokenizer

    pair = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not pair and not (folder / "tokenizer.json").is_file():
        raise _lacking(folder.parent, "tokenizer", "there is no tokenizer/vocab.json with tokenizer/merges.txt")
    with quiet(), naming(folder.parent, "tokenizer"):
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def naming(source: Path, part: str) -> Iterator[None]:
    """Turn whatever a loader raises into a `ModelError` that names the part."""
    try:
        yield
    except LOADING_FAILURES as reason:
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise ModelError(f"the {part} of {str(source)!r} cannot be loaded: {lines[0][:200]}") from reason


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars and warnings off the screen inside the block."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [library.get_verbosity() for library in libraries]
    bars = transformers_logging.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
