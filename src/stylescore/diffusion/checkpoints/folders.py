"""Loads a model from a folder in diffusers layout, looking at every part before any is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from stylescore.diffusion.families import FAMILIES, Family, Part, Parts
from stylescore.errors import ModelError
from stylescore.storage.safetensors_header import read_header

SUPPORTED = f"plain text-to-image models can be used: {', '.join(family.label for family in FAMILIES)}"
SCHEDULER = Part("scheduler", "scheduler")
WEIGHT_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
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


def load_folder(folder: Path, dtype: torch.dtype) -> Parts:
    """Load all parts of a diffusers folder.

    Raises:
        ModelError: naming the part that is missing or unsound, or the family that cannot be used.
    """
    index = _index(folder)
    family = _family(folder, index)
    networks, tokenizers = _present(family.parts, index), _present(family.tokenizers, index)
    for part in networks:
        _require_config(folder, part, "config.json", family)
    for part in (*tokenizers, SCHEDULER):
        _require_config(folder, part, f"{part.name.rstrip('_23')}_config.json", family)
    variants = {part: _require_weights(folder, part) for part in networks}
    return Parts(
        family=family,
        networks={part.name: load_part(folder, part, dtype, variant) for part, variant in variants.items()},
        tokenizers={part.name: load_tokenizer(folder / part.name, part.kind) for part in tokenizers},
        scheduler_config=read_json(folder / "scheduler" / "scheduler_config.json", "scheduler"),
        index=index,
    )


def _present(parts: Iterable[Part], index: Mapping[str, Any]) -> list[Part]:
    """Leave out what a model may lack and its index says it does."""
    return [part for part in parts if not part.optional or None not in (index.get(part.name) or [None])]


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


def _index(folder: Path) -> dict[str, Any]:
    index = folder / "model_index.json"
    if not index.is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:5])
        hint = f"it holds single files, name one: {files}" if files else "a diffusers folder has one at its top"
        raise ModelError(f"{str(folder)!r} is no diffusers model: it has no model_index.json", hint=hint)
    return read_json(index, "index")


def _family(folder: Path, index: Mapping[str, Any]) -> Family:
    pipeline = index.get("_class_name")
    family = next((family for family in FAMILIES if pipeline in family.pipelines), None)
    if family is None:
        raise ModelError(f"{str(folder)!r} is a {pipeline!r}, which is not supported", hint=SUPPORTED)
    lacking = [text.name for _, text in family.texts if index.get(text.name) == [None, None] and not text.optional]
    if lacking:
        raise ModelError(
            f"{str(folder)!r} is a {pipeline!r} without a {lacking[0]}, such as a refiner, which cannot be used",
            hint="choose its base model",
        )
    return family


def _require_config(folder: Path, part: Part, config: str, family: Family) -> None:
    path = folder / part.name / config
    if not path.is_file():
        raise _lacking(folder, part.name, f"there is no {part.name}/{config}")
    stated = read_json(path, part.name)
    kind = stated.get("_class_name") or next(iter(stated.get("architectures") or [None]))
    if part in family.parts and kind not in (part.kind, None):
        raise ModelError(f"the {part.name} of {str(folder)!r} is a {kind!r}, not a {part.kind}", hint=SUPPORTED)


def _require_weights(folder: Path, needed: Part) -> str | None:
    """Check the headers of a part's weight files and return the name of their variant, if any."""
    part, stem = needed.name, WEIGHT_STEMS[library_of(needed.kind)]
    home = folder / part
    for variant, pattern in ((None, ""), ("fp16", ".fp16")):
        index = home / f"{stem}.safetensors.index{pattern}.json"
        single = home / f"{stem}{pattern}.safetensors"
        files = [single] if single.is_file() else _shards(index, part)
        for file in files:
            _require_sound(folder, part, file)
        if files:
            return variant
    refuse_pickles(folder, part, home)
    raise _lacking(folder, part, f"there is no {part}/{stem}.safetensors")


def refuse_pickles(model: Path, part: str, folder: Path) -> None:
    """Raise `ModelError` if the folder of a model's part holds weights as a pickle; for where sound ones are absent."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"the {part} of {str(model)!r} is a pickle ({pickles[0]}), which may run code when loaded",
            hint="get it with .safetensors weights",
        )


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


def load_part(folder: Path, part: Part, dtype: torch.dtype, variant: str | None) -> Any:
    """Load one network and make sure that every weight came from the file."""
    precision = {"dtype" if library_of(part.kind) == "transformers" else "torch_dtype": dtype}
    with quiet(), naming(folder, part.name):
        model, info = network_class(part.kind).from_pretrained(
            folder / part.name,
            variant=variant,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            **precision,
        )
    require_complete(folder, part.name, info)
    return model


def library_of(kind: str) -> Literal["diffusers", "transformers"]:
    """Return the library that a class of networks belongs to."""
    return "transformers" if kind.startswith(("CLIP", "T5")) else "diffusers"


def network_class(kind: str) -> Any:
    """Return a class of networks; its library is loaded here, not before."""
    return getattr(import_module(library_of(kind)), kind)


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


def load_tokenizer(folder: Path, kind: str = "CLIPTokenizer") -> Any:
    """Load a CLIP or T5 tokenizer; T5's is taken as its `tokenizer.json` describes it.

    Raises:
        ModelError: when its vocabulary is missing or unsound.
    """
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    part, clip, described = folder.name, kind == "CLIPTokenizer", (folder / "tokenizer.json").is_file()
    pair = clip and all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not pair and not described:
        needed = f"{part}/vocab.json with {part}/merges.txt" if clip else f"{part}/tokenizer.json"
        raise _lacking(folder.parent, part, f"there is no {needed}")
    with quiet(), naming(folder.parent, part):
        return (CLIPTokenizer if clip else PreTrainedTokenizerFast).from_pretrained(folder, local_files_only=True)


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
