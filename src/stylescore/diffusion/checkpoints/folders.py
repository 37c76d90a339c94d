"""Loads a model from a folder in diffusers layout; every component is checked before any is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch

from stylescore.catalog.hub import TINY_FILES
from stylescore.diffusion.checkpoints.limits import DOWNLOAD_AGAIN, check_settings, refuse_scaled
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.families import FAMILIES, Checkpoint, ComponentSpec, Family
from stylescore.diffusion.quantisation import require_usable
from stylescore.errors import ModelError, StylescoreError, is_out_of_memory, quote
from stylescore.storage.safetensors_header import read_header
from stylescore.storage.texts import describe_error, is_file, parse_json, read_text
from stylescore_apply.storage.file_kinds import file_kind

SUPPORTED = f"use a plain text-to-image model of these families: {', '.join(family.label for family in FAMILIES)}"
_SCHEDULER = ComponentSpec("scheduler", "scheduler")
_WEIGHT_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_NOT_IN_FILE = "meta tensor"
"""What torch says of a weight that no file has filled in."""
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def load_folder(folder: Path, dtype: torch.dtype, options: ModelOptions | None = None) -> Checkpoint:
    """Load all components of a diffusers folder, but those that the options take from elsewhere.

    Raises:
        ModelError: a component is missing or invalid, or the family is not supported.
    """
    index = _read_index(folder)
    family = _find_family(folder, index)
    replaced = (options or ModelOptions()).replaces
    networks, tokenizers = (
        [spec for spec in _keep_present(specs, index) if not replaced(spec.name)]
        for specs in (family.networks, family.tokenizers)
    )
    configs = {spec.name: require_config(folder, spec, "config.json", family) for spec in networks}
    for spec in (*tokenizers, _SCHEDULER):
        configs[spec.name] = require_config(folder, spec, f"{spec.name.rstrip('_23')}_config.json", family)
    check_settings(str(folder), family, configs)
    variants = {spec: require_weights(folder, spec) for spec in networks}
    return Checkpoint(
        family=family,
        networks={spec.name: load_network(folder, spec, dtype, variant) for spec, variant in variants.items()},
        tokenizers={spec.name: load_tokenizer(folder / spec.name, spec.kind) for spec in tokenizers},
        scheduler_config=configs["scheduler"],
        index=index,
        configs=folder,
    )


def _keep_present(specs: Iterable[ComponentSpec], index: Mapping[str, Any]) -> list[ComponentSpec]:
    """Drop optional components that the model lacks according to its index."""
    return [spec for spec in specs if not spec.is_optional or _is_present(index.get(spec.name))]


def _is_present(entry: object) -> bool:
    """Tell whether an entry of a model's index names a library and a class."""
    return isinstance(entry, list) and bool(entry) and None not in entry


def read_json(path: Path, part: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ModelError: the file cannot be read or is no JSON object; the message names `part`.
    """
    folder = str(path.parent)
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as reason:
        why = _other_kind(path) or f"{path.name}: {describe_error(reason)}"
        raise ModelError(f"the {part} of {folder!r} cannot be read: {why}", hint=DOWNLOAD_AGAIN) from reason
    if not isinstance(value, dict):
        raise ModelError(f"the {part} of {folder!r} cannot be read: {path.name} is no JSON object", hint=DOWNLOAD_AGAIN)
    return value


def _other_kind(path: Path) -> str | None:
    """Return what a file is that should be JSON, if it is something else by mistake."""
    with suppress(OSError):
        kind = file_kind(path)
        if kind is not None and kind.what != "a JSON file":
            return f"{path.name} {kind.refuse('a JSON file')}"
    return None


def _read_index(folder: Path) -> dict[str, Any]:
    index = folder / "model_index.json"
    if not index.is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:5])
        hint = f"name one of the single files in it: {files}" if files else "give the folder that holds this file"
        raise ModelError(f"{str(folder)!r} is no diffusers model: it has no model_index.json", hint=hint)
    return read_json(index, "index")


def _find_family(folder: Path, index: Mapping[str, Any]) -> Family:
    pipeline = index.get("_class_name")
    family = next((family for family in FAMILIES if pipeline in family.pipelines), None)
    if family is None:
        raise ModelError(f"{str(folder)!r} is a {quote(pipeline)}, which is not supported", hint=SUPPORTED)
    required = [text.name for _, text in family.text_models if not text.is_optional]
    missing = [name for name in required if index.get(name) == [None, None]]
    if missing:
        raise ModelError(
            f"{str(folder)!r} is a {pipeline!r} without a {missing[0]}, such as a refiner, which cannot be used",
            hint="choose its base model",
        )
    return family


def require_config(folder: Path, spec: ComponentSpec, config: str, family: Family) -> dict[str, Any]:
    """Return the settings of a component, which must be of the family's class."""
    path = folder / spec.name / config
    if not path.is_file():
        raise _missing_error(folder, spec.name, f"there is no {spec.name}/{config}")
    stated = read_json(path, spec.name)
    if spec in family.networks:
        require_kind(folder, spec, stated)
    return stated


def require_kind(folder: Path, spec: ComponentSpec, settings: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a network's settings name another class, or weights that cannot be used here."""
    kind = _stated_class(settings)
    if kind not in (spec.kind, None):
        raise ModelError(f"the {spec.name} of {str(folder)!r} is a {quote(kind)}, not a {spec.kind}", hint=SUPPORTED)
    require_usable(f"the {spec.name} of {str(folder)!r}", settings)


def _stated_class(config: Mapping[str, Any]) -> Any:
    """Return the class that a network's settings name, or `None`."""
    architectures = config.get("architectures")
    listed = architectures[0] if isinstance(architectures, list) and architectures else None
    return config.get("_class_name") or listed


def require_weights(folder: Path, spec: ComponentSpec) -> str | None:
    """Check the headers of a network's weight files and return the name of their variant, if any."""
    name, stem = spec.name, _WEIGHT_STEMS[_library_of(spec.kind)]
    for variant, pattern in ((None, ""), ("fp16", ".fp16")):
        index = folder / name / f"{stem}.safetensors.index{pattern}.json"
        single = folder / name / f"{stem}{pattern}.safetensors"
        files = [single] if is_file(single) else _list_shards(index, name)
        for file in files:
            _require_valid(folder, name, file)
        if files:
            return variant
    refuse_pickles(folder, name, folder / name)
    raise _missing_error(folder, name, f"there is no {name}/{stem}.safetensors")


def refuse_pickles(model: Path, part: str, folder: Path) -> None:
    """Raise `ModelError` if the folder of a component holds a pickle; to be called if it holds no safetensors file."""
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ModelError(
            f"the {part} of {str(model)!r} is a pickle ({pickles[0]}), which may run code when loaded",
            hint="get it with .safetensors weights",
        )


def _list_shards(index: Path, part: str) -> list[Path]:
    if not index.is_file():
        return []
    weights = read_json(index, part).get("weight_map")
    names = list(weights.values()) if isinstance(weights, dict) else []
    wrong = next((name for name in names if not isinstance(name, str) or Path(name).name != name), None)
    if wrong is not None:
        reason = f"{index.name} names {quote(wrong)}, which is no file beside it"
        raise ModelError(f"the {part} of {str(index.parent)!r} cannot be read: {reason}", hint=DOWNLOAD_AGAIN)
    return [index.parent / name for name in sorted(set(names))]


def _require_valid(folder: Path, part: str, file: Path) -> None:
    try:
        refuse_scaled(file, read_header(file, error=ModelError))
    except ModelError as reason:
        raise ModelError(f"the {part} of {str(folder)!r} cannot be used: {reason}", hint=reason.hint) from None


def _missing_error(folder: Path, part: str, reason: str) -> ModelError:
    return ModelError(f"{str(folder)!r} lacks its {part}: {reason}", hint=DOWNLOAD_AGAIN)


def load_network(folder: Path, spec: ComponentSpec, dtype: torch.dtype, variant: str | None) -> Any:
    """Load one network and check that every weight came from the file, and that none is left over."""
    precision = {"dtype" if _library_of(spec.kind) == "transformers" else "torch_dtype": dtype}
    with silence_libraries(), translate_errors(folder, spec.name):
        model, info = network_class(spec.kind).from_pretrained(
            folder / spec.name,
            variant=variant,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            **precision,
        )
    require_complete(folder, spec.name, info)
    if _library_of(spec.kind) == "diffusers":
        _refuse_left_over(folder, spec, info)
    return model


def load_alone(folder: Path, kind: str, part: str, dtype: torch.dtype, hints: tuple[str, str]) -> Any:
    """Load a network of diffusers from a folder that holds nothing else, frozen.

    Args:
        folder: with `config.json` and weights in safetensors.
        kind: its class.
        part: what it is, for messages.
        dtype: of its weights.
        hints: for a folder that lacks a file, and for one of another class.

    Raises:
        ModelError: it is something else, incomplete or damaged.
    """
    config, weights = (folder / file for file in TINY_FILES)
    if not config.is_file():
        raise ModelError(f"{str(folder)!r} is no {part}: it has no {config.name}", hint=hints[0])
    found = read_json(config, part).get("_class_name")
    if found != kind:
        article = "an" if kind[0] in "AEIOU" else "a"
        raise ModelError(f"{str(folder)!r} is a {found!r}, not {article} {kind}", hint=hints[1])
    if not weights.is_file():
        refuse_pickles(folder, part, folder)
        raise ModelError(f"the {part} of {str(folder)!r} has no {TINY_FILES[1]}", hint=hints[0])
    read_header(weights, error=ModelError)
    with silence_libraries(), translate_errors(folder, part):
        network, info = network_class(kind).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, local_files_only=True, torch_dtype=dtype
        )
    require_complete(folder, part, info)
    return network.eval().requires_grad_(False)


def require_facts(what: str, folder: Path, facts: Mapping[str, tuple[Any, Any]], hint: str) -> None:
    """Raise `ModelError` for the first fact of a network that is not what the model needs, (found, wanted)."""
    for fact, (found, wanted) in facts.items():
        if found != wanted:
            raise ModelError(
                f"the {what} of {str(folder)!r} does not fit the model: it has {found} {fact}, not {wanted}", hint=hint
            )


def _refuse_left_over(folder: Path, spec: ComponentSpec, info: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a network's file holds tensors that its class would drop."""
    unused = sorted(info.get("unexpected_keys", ()))
    if unused:
        raise ModelError(
            f"the {spec.name} of {str(folder)!r} holds {len(unused)} tensors that a {spec.kind} does not have, such as "
            f"{quote(unused[0])}",
            hint="it is of another kind than its settings say: download it again, or choose another model",
        )


def _library_of(kind: str) -> Literal["diffusers", "transformers"]:
    """Return the library that a network class belongs to."""
    return "transformers" if kind.startswith(("CLIP", "T5")) else "diffusers"


def network_class(kind: str) -> Any:
    """Return a network class by name; its library is imported here, not before."""
    return getattr(import_module(_library_of(kind)), kind)


def require_complete(source: Path, part: str, info: dict[str, Any]) -> None:
    """Raise `ModelError` if a loader's report lists weights that are missing or have another shape."""
    missing = sorted(key for key in info.get("missing_keys", ()) if not key.endswith("position_ids"))
    wrong = [key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ())]
    if missing or wrong:
        count, first = len(missing) + len(wrong), (missing or wrong)[0]
        raise ModelError(
            f"the {part} of {str(source)!r} lacks {count} of its weights, such as {first!r}",
            hint="download it again: it is incomplete, or its weights belong to another config.json",
        )


def load_tokenizer(folder: Path, kind: str = "CLIPTokenizer") -> Any:
    """Load a CLIP or T5 tokenizer; T5's is loaded from its `tokenizer.json`.

    Raises:
        ModelError: its vocabulary is missing or invalid.
    """
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    part, is_clip, has_json = folder.name, kind == "CLIPTokenizer", (folder / "tokenizer.json").is_file()
    has_vocabulary = is_clip and all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not has_vocabulary and not has_json:
        needed = f"{part}/vocab.json with {part}/merges.txt" if is_clip else f"{part}/tokenizer.json"
        raise _missing_error(folder.parent, part, f"there is no {needed}")
    with silence_libraries(), translate_errors(folder.parent, part):
        return (CLIPTokenizer if is_clip else PreTrainedTokenizerFast).from_pretrained(folder, local_files_only=True)


@contextmanager
def translate_errors(source: Path, part: str) -> Iterator[None]:
    """Raise a `ModelError` that names the component for whatever a loader raises inside the block."""
    try:
        yield
    except StylescoreError:
        raise
    except Exception as reason:
        if is_out_of_memory(reason):
            raise
        if _NOT_IN_FILE in str(reason):
            raise ModelError(
                f"the {part} of {str(source)!r} lacks some of its weights", hint=DOWNLOAD_AGAIN
            ) from reason
        lines = str(reason).strip().splitlines() or [type(reason).__name__]
        raise ModelError(
            f"the {part} of {str(source)!r} cannot be loaded: {lines[0][:200]}", hint=DOWNLOAD_AGAIN
        ) from reason


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Silence the progress bars and warnings of diffusers and transformers inside the block."""
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
