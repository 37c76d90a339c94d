"""Resolves the names of models and styles: bundled ones, the user's files, or ids on the Hugging Face hub.

Neither torch nor diffusers is imported here, so that names can be listed and checked without delay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylescore.catalog.hub import CONTROL_FILES, HUB_ID, TINY_FILES, USUAL_STYLE_FILES, download_style
from stylescore.catalog.metadata import base_model, one_step_generator, stated_trigger_words
from stylescore.errors import ModelError, StyleError, did_you_mean, quote, suggest_closest
from stylescore.storage.safetensors_header import read_header
from stylescore.storage.texts import is_file, is_folder, user_path
from stylescore_apply.names import ENDING, SMALL_ENDING, known_networks, network_dirs
from stylescore_apply.names import STYLES_VARIABLE as STYLES_VARIABLE
from stylescore_apply.names import data_folder as data_folder
from stylescore_apply.names import user_styles_dir as user_styles_dir

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_MODELS = ("mini",)
TINY_FOLDER = f"give a folder with {' and '.join(TINY_FILES)}"
CONTROL_FOLDER = f"give a folder with {' and '.join(CONTROL_FILES)}"
TEXT_ENCODERS_FOLDER = "give a folder with text_encoder and tokenizer, as a model in diffusers layout has them"
_STYLE_ENDING = ".safetensors"
_WEIGHTS = (".safetensors", ".gguf", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model is loaded from.

    Attributes:
        name: its name in messages and files.
        kind: a folder, a single file, or an id on the hub.
        location: the path, or the hub id.
        bundled: whether it is part of the package.
    """

    name: str
    kind: Literal["folder", "file", "hub"]
    location: Path | str
    bundled: bool = False

    @property
    def reference(self) -> str:
        """A name that means the same in any working folder: an absolute path, or what is bundled or on the hub."""
        return self.name if self.bundled or self.kind == "hub" else str(Path(self.location).absolute())


@dataclass(frozen=True, kw_only=True)
class StyleSource:
    """Where a style is loaded from.

    Attributes:
        path: its file.
        name: its name in messages and files.
        reference: a name that means the same in any working folder: an absolute path, a style's name or a hub id.
    """

    path: Path
    name: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class StyleEntry:
    """One style of the list of styles.

    Attributes:
        name: the name to give on the command line.
        path: its file.
        bundled: whether it is part of the package.
        trigger: its trigger words, or `None` if the file names none.
        base: the model that the file says it was trained on, or `None`.
        generator: the generator of the style, or `None`.
        mobile: its small generator, named NAME-mobile, or `None`.
        is_generator: whether it is a one-step generator itself.
    """

    name: str
    path: Path
    bundled: bool
    trigger: str | None
    base: str | None
    generator: Path | None = None
    mobile: Path | None = None
    is_generator: bool = False


def resolve_model(name: str) -> ModelSource:
    """Resolve a model's name: a bundled one, a path or a hub id; nothing is downloaded.

    Raises:
        ModelError: it is none of them. Whether a hub id exists is not checked.
    """
    path = user_path(name)
    if name in BUNDLED_MODELS:
        return _bundled_model(name)
    if name and is_folder(path):
        return ModelSource(name=path.resolve().name, kind="folder", location=path)
    if name and is_file(path):
        return ModelSource(name=path.stem, kind="file", location=path)
    if _looks_like_hub_id(name):
        return ModelSource(name=name, kind="hub", location=name)
    raise ModelError(f"there is no model {quote(name)}", hint=_model_hint(name))


def resolve_preview_model(name: str) -> ModelSource:
    """Resolve a tiny autoencoder's name: a folder or a hub id; nothing is downloaded.

    Raises:
        ModelError: it is neither. What is in the folder, and whether the hub id exists, is not checked.
    """
    return _resolve_folder(name, "there is no preview model", TINY_FOLDER)


def resolve_vae(name: str) -> ModelSource:
    """Resolve an autoencoder's name: a folder, a file or a hub id; nothing is downloaded.

    Raises:
        ModelError: it is none of them.
    """
    path = user_path(name)
    if name and is_file(path):
        return ModelSource(name=path.stem, kind="file", location=path)
    hint = "give a folder with config.json and weights, a .safetensors file"
    return _resolve_folder(name, "there is no autoencoder", hint)


def resolve_text_encoders(name: str) -> ModelSource:
    """Resolve the name of a model whose text encoders are used: a folder or a hub id; nothing is downloaded.

    Raises:
        ModelError: it is neither.
    """
    return _resolve_folder(name, "there is no model with text encoders", TEXT_ENCODERS_FOLDER)


def resolve_control_model(name: str) -> ModelSource:
    """Resolve a ControlNet's name: a folder or a hub id; nothing is downloaded.

    Raises:
        ModelError: it is neither.
    """
    return _resolve_folder(name, "there is no ControlNet", CONTROL_FOLDER)


def _resolve_folder(name: str, absent: str, hint: str) -> ModelSource:
    """Resolve a folder or a hub id; `absent` begins the message if it is neither."""
    path = user_path(name)
    if name and is_folder(path):
        return ModelSource(name=path.resolve().name, kind="folder", location=path)
    if name and is_file(path):
        what = absent.removeprefix("there is no ")
        raise ModelError(f"the {what} {name!r} is a file, a folder is needed", hint=hint)
    if _looks_like_hub_id(name):
        return ModelSource(name=name, kind="hub", location=name)
    raise ModelError(f"{absent} {quote(name)}", hint=f"{hint}, or a hub id owner/name")


def _model_hint(name: str) -> str:
    others = "a folder, a .safetensors file or a hub id owner/name"
    closest = suggest_closest(name, BUNDLED_MODELS)
    if closest is not None:
        return f"{closest} Otherwise give {others}"
    return f"give {', '.join(map(repr, BUNDLED_MODELS))}, {others}"


def _bundled_model(name: str) -> ModelSource:
    folder = BUNDLED / name
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"the bundled model {name!r} is not installed", hint="install stylescore again")
    return ModelSource(name=name, kind="folder", location=folder, bundled=True)


def _looks_like_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and not name.endswith(_WEIGHTS)


def resolve_style(name: str, styles_dirs: Sequence[Path] | None = None) -> StyleSource:
    """Find a style's file by name, path, or hub id `owner/name` or `owner/name:file.safetensors`.

    Args:
        name: the name, as the user gave it.
        styles_dirs: folders to search for names; by default the bundled ones, then the user's own.

    Raises:
        StyleError: there is none, or it cannot be downloaded from the hub.
    """
    known = dict(_style_files(styles_dirs))
    local = _local_style(name, known, default_styles_dirs() if styles_dirs is None else styles_dirs)
    if local is not None:
        return local
    owner, _, file = name.partition(":")
    if _looks_like_hub_id(owner):
        downloaded = download_style(owner, file or None)
        short = downloaded.stem if file else owner.split("/")[1]
        return StyleSource(path=downloaded, name=short, reference=name)
    raise StyleError(f"there is no style {quote(name)}", hint=did_you_mean(name, known) or _style_hint(name))


def resolve_embedding(name: str) -> Path:
    """Find the file of a textual inversion embedding by path, or hub id `owner/name` or `owner/name:file.safetensors`.

    Raises:
        StyleError: there is none, or it cannot be downloaded from the hub.
    """
    path = user_path(name)
    if name and (is_file(path) or is_folder(path)):
        return path
    owner, _, file = name.partition(":")
    if _looks_like_hub_id(owner):
        return download_style(owner, file or None, what="embedding")
    raise StyleError(f"there is no embedding {quote(name)}", hint="give --embedding NAME=FILE with a .safetensors file")


def _local_style(name: str, known: Mapping[str, Path], folders: Iterable[Path]) -> StyleSource | None:
    """Find a style on this machine: a known name, a path, or a path below one of the style folders."""
    short = name.removesuffix(_STYLE_ENDING)
    if short in known and (short == name or not is_file(user_path(name))):
        return StyleSource(path=known[short], name=short, reference=short)
    places = [user_path(name), *(folder / name for folder in folders)] if name else []
    spellings = [spelling for place in places for spelling in (place, Path(f"{place}{_STYLE_ENDING}"))]
    for path in spellings:
        if is_file(path):
            return StyleSource(path=path, name=path.stem, reference=str(path.absolute()))
        if is_folder(path):
            file = _style_in(path)
            return StyleSource(path=file, name=path.resolve().name, reference=str(file.absolute()))
    return None


def _style_in(folder: Path) -> Path:
    """Return the only LoRA file of a folder, or the one with the usual name.

    Raises:
        StyleError: there is none, or there are several.
    """
    names = sorted(path.name for path in folder.glob(f"*{_STYLE_ENDING}") if not path.name.startswith("."))
    usual = next((name for name in USUAL_STYLE_FILES if name in names), None)
    chosen = names[0] if len(names) == 1 else usual
    if chosen is None:
        hint = f"name one of them: {', '.join(names[:5])}" if names else "give a folder with a LoRA file"
        raise StyleError(f"{str(folder)!r} has {len(names)} .safetensors files, exactly one is needed", hint=hint)
    return folder / chosen


def bundled_style(name: str) -> Path | None:
    """Return the file of a bundled style; `None` if there is none, or a file in another folder takes precedence."""
    path = dict(_style_files(None)).get(name.removesuffix(_STYLE_ENDING))
    return path if path is not None and path.is_relative_to(BUNDLED) else None


def _style_hint(name: str) -> str:
    return f"put {name or 'name'}.safetensors into {str(user_styles_dir())!r}, or give the path of a LoRA file"


def list_styles(styles_dirs: Sequence[Path] | None = None) -> list[StyleEntry]:
    """List all styles by name, bundled ones first; only headers are read, and invalid files are left out."""
    generators = known_generators()
    entries = (_entry(name, path, generators) for name, path in _style_files(styles_dirs))
    found = [entry for entry in entries if entry is not None]
    return sorted(found, key=lambda entry: (not entry.bundled, entry.name))


def _entry(name: str, path: Path, generators: Mapping[str, Path]) -> StyleEntry | None:
    try:
        header = read_header(path, error=StyleError)
    except StyleError:
        return None
    triggers = stated_trigger_words(header)
    return StyleEntry(
        name=name,
        path=path,
        bundled=path.is_relative_to(BUNDLED),
        trigger=triggers[0] if triggers else None,
        base=base_model(header.metadata),
        generator=generators.get(name),
        mobile=generators.get(name + SMALL_ENDING),
        is_generator=bool(one_step_generator(header.metadata)),
    )


def _style_files(styles_dirs: Sequence[Path] | None) -> Iterator[tuple[str, Path]]:
    """Yield name and file of every style; of two files with one name, only the one in the earlier folder."""
    seen: set[str] = set()
    for folder in default_styles_dirs() if styles_dirs is None else styles_dirs:
        for path in sorted(folder.glob("*.safetensors")):
            if path.stem not in seen and not path.name.startswith("."):  # else what an interrupted program left
                seen.add(path.stem)
                yield path.stem, path


def default_styles_dirs() -> tuple[Path, ...]:
    """Return the folders that are searched for styles: those of the bundled models, then the user's own."""
    return (*(BUNDLED / model / "styles" for model in BUNDLED_MODELS), user_styles_dir())


def generator_dirs() -> tuple[Path, ...]:
    """Return the folders that are searched for exported generators: those of bundled ones, then the user's own."""
    return (*_bundled_generator_dirs(), *network_dirs())


def _bundled_generator_dirs() -> tuple[Path, ...]:
    return tuple(BUNDLED / model / "generators" for model in BUNDLED_MODELS)


def find_generator(style: str) -> Path | None:
    """Return the generator of a style: an exported one of its name or beside the LoRA's file, or a LoRA that is one.

    `None` if there is none.
    """
    path, short = user_path(style), style.removesuffix(_STYLE_ENDING)
    if style and is_file(path):
        beside = path.with_suffix(ENDING)
        return beside if is_file(beside) else _if_generator(path)
    return known_generators().get(short) or _if_generator(dict(_style_files(None)).get(short))


def known_generators() -> dict[str, Path]:
    """Return the generators by the names of their styles: exported ones (.onnx), else LoRAs of the bundled model."""
    return {**dict(_style_files(_bundled_generator_dirs())), **known_networks(generator_dirs())}


def _if_generator(path: Path | None) -> Path | None:
    """Return a style's file if it is the LoRA of a one-step generator."""
    try:
        return path if path and one_step_generator(read_header(path, error=StyleError).metadata) else None
    except StyleError:
        return None
