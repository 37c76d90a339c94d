"""Finds the models and styles a user names: bundled ones, own files, or ones on a hub.

Neither torch nor diffusers is loaded here, so that names can be listed and checked at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stylescore.catalog.hub import TINY_FILES, download_style
from stylescore.catalog.metadata import base_model, suggested_words
from stylescore.errors import ModelError, StyleError, did_you_mean
from stylescore.storage.safetensors_header import read_header

BUNDLED = Path(__file__).parent / "bundled"
BUNDLED_MODELS = ("mini",)
STYLES_VARIABLE = "STYLESCORE_STYLES"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TINY_FOLDER = f"give a folder with {' and '.join(TINY_FILES)}"
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model is to be had.

    Attributes:
        name: what to call it.
        kind: a folder, a single file, or an id to be fetched from the hub.
        location: the path, or the hub id.
        bundled: whether it came with the package.
    """

    name: str
    kind: Literal["folder", "file", "hub"]
    location: Path | str
    bundled: bool = False


@dataclass(frozen=True, kw_only=True)
class StyleSource:
    """A style's file and what to call it."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class StyleEntry:
    """One line of the list of styles.

    Attributes:
        name: what to type.
        path: its file.
        bundled: whether it came with the package.
        trigger: the word that calls it, or `None` when the file does not tell.
        base: the model it says it was trained on, or `None`.
    """

    name: str
    path: Path
    bundled: bool
    trigger: str | None
    base: str | None


def resolve_model(name: str) -> ModelSource:
    """Find a model by bundled name, path or hub id.

    Raises:
        ModelError: when it is neither; a hub id is not looked up yet.
    """
    path = Path(name).expanduser()
    if name in BUNDLED_MODELS:
        return _bundled_model(name)
    if name and path.is_dir():
        return ModelSource(name=path.resolve().name, kind="folder", location=path)
    if name and path.is_file():
        return ModelSource(name=path.stem, kind="file", location=path)
    if _looks_like_hub_id(name):
        return ModelSource(name=name, kind="hub", location=name)
    hint = did_you_mean(name, BUNDLED_MODELS)
    raise ModelError(
        f"there is no model {name!r}",
        hint=f"{hint} Else give a folder, a .safetensors file or a hub id owner/name",
    )


def resolve_preview_model(name: str) -> ModelSource:
    """Find a tiny autoencoder by folder or hub id.

    Raises:
        ModelError: when it is neither; a folder is not looked into and a hub id not looked up yet.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return ModelSource(name=path.resolve().name, kind="folder", location=path)
    if name and path.is_file():
        raise ModelError(f"the preview model {name!r} is a file, a folder is needed", hint=TINY_FOLDER)
    if _looks_like_hub_id(name):
        return ModelSource(name=name, kind="hub", location=name)
    raise ModelError(f"there is no preview model {name!r}", hint=f"{TINY_FOLDER}, or a hub id owner/name")


def _bundled_model(name: str) -> ModelSource:
    folder = BUNDLED / name
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"the bundled model {name!r} is not installed", hint="install stylescore again")
    return ModelSource(name=name, kind="folder", location=folder, bundled=True)


def _looks_like_hub_id(name: str) -> bool:
    return HUB_ID.fullmatch(name) is not None and not name.endswith(WEIGHTS)


def resolve_style(name: str, styles_dirs: Sequence[Path] | None = None) -> StyleSource:
    """Find a style by name, path, or hub id `owner/name` or `owner/name:file.safetensors`.

    Args:
        name: what the user typed.
        styles_dirs: folders to search for names; by default the bundled one, then the user's own.

    Raises:
        StyleError: when there is none, or the hub cannot deliver it.
    """
    known = dict(_style_files(styles_dirs))
    path = Path(name).expanduser()
    if name in known:
        return StyleSource(path=known[name], name=name)
    if name and path.is_file():
        return StyleSource(path=path, name=path.stem)
    owner, _, file = name.partition(":")
    if _looks_like_hub_id(owner):
        fetched = download_style(owner, file or None)
        return StyleSource(path=fetched, name=fetched.stem if file else owner.split("/")[1])
    raise StyleError(f"there is no style {name!r}", hint=did_you_mean(name, known) or _where_to_put(name))


def bundled_style(name: str) -> Path | None:
    """Return the file of a style that comes with the package, or `None` where the name means another one or none."""
    path = dict(_style_files(None)).get(name)
    return path if path is not None and path.is_relative_to(BUNDLED) else None


def _where_to_put(name: str) -> str:
    return f"put {name or 'name'}.safetensors into {str(user_styles_dir())!r}, or give the path of a LoRA file"


def list_styles(styles_dirs: Sequence[Path] | None = None) -> list[StyleEntry]:
    """List all styles by name, bundled ones first; only headers are read, and unsound files are left out."""
    entries = (_entry(name, path) for name, path in _style_files(styles_dirs))
    found = [entry for entry in entries if entry is not None]
    return sorted(found, key=lambda entry: (not entry.bundled, entry.name))


def _entry(name: str, path: Path) -> StyleEntry | None:
    try:
        header = read_header(path, error=StyleError)
    except StyleError:
        return None
    words = suggested_words(header)
    return StyleEntry(
        name=name,
        path=path,
        bundled=path.is_relative_to(BUNDLED),
        trigger=words[0] if words else None,
        base=base_model(header.metadata),
    )


def _style_files(styles_dirs: Sequence[Path] | None) -> Iterator[tuple[str, Path]]:
    """Yield every style once: of two files with one name, the one in the earlier folder."""
    seen: set[str] = set()
    for folder in default_styles_dirs() if styles_dirs is None else styles_dirs:
        for path in sorted(folder.glob("*.safetensors")):
            if path.stem not in seen:
                seen.add(path.stem)
                yield path.stem, path


def default_styles_dirs() -> tuple[Path, ...]:
    """Return the folders searched for styles: those of the bundled models, then the user's own."""
    return (*(BUNDLED / model / "styles" for model in BUNDLED_MODELS), user_styles_dir())


def user_styles_dir() -> Path:
    """Return the user's style folder: `$STYLESCORE_STYLES`, or the platform's place for such data."""
    chosen = os.environ.get(STYLES_VARIABLE)
    return Path(chosen).expanduser() if chosen else _data_home() / "stylescore" / "styles"


def _data_home() -> Path:
    match sys.platform:
        case "win32":
            return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
        case "darwin":
            return Path.home() / "Library" / "Application Support"
        case _:
            return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
