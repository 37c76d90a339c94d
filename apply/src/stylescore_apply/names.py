"""Reads the names that a user gives: paths, and networks by style, file or folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stylescore_apply.errors import ConfigError, ModelError, did_you_mean, quote

STYLES_VARIABLE = "STYLESCORE_STYLES"
ENDING = ".onnx"
SMALL_ENDING = "-mobile"
"""What follows the style's name in that of its small network."""
KEY = "stylescore.generator"
"""Name of the metadata entry with a network's facts, as JSON."""
BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the networks that come with this package."""


def parse_path(text: str | Path) -> Path:
    """Return a path that an option or argument gives.

    Raises:
        ConfigError: it is empty, as that of an unset variable of the shell, and would mean the working folder.
    """
    if not str(text):
        raise ConfigError("a file or folder must not be an empty text", hint="write . for the working folder")
    return Path(text)


def find_network(name: str, folders: Sequence[Path]) -> Path:
    """Return the file of a network.

    Args:
        name: a file, a folder with one ONNX file, or the name of a file in one of `folders` without its ending.
        folders: where names are looked for, the first that has one wins.

    Raises:
        ModelError: there is none, or a folder has several.
    """
    path = Path(name).expanduser() if name.startswith("~") else Path(name)
    known = known_networks(folders)
    if name in known and not path.is_file():
        return known[name]
    if name and path.is_dir():
        return _only_network(path)
    if name and (path.exists() or path.suffix or os.sep in name):
        return path
    place = f"put {name or 'NAME'}.onnx into {str(user_styles_dir())!r}"
    hint = did_you_mean(name, known) or f"give an ONNX file, or {place}"
    raise ModelError(f"there is no network of the style {quote(name)}", hint=hint)


def known_networks(folders: Sequence[Path]) -> Mapping[str, Path]:
    """Return the networks in some folders by name; of two with one name, the one in the earlier folder."""
    files = [path for folder in folders for path in sorted(folder.glob(f"*{ENDING}")) if not path.name.startswith(".")]
    return {path.stem: path for path in reversed(files)}


def small_networks() -> dict[str, Path]:
    """Return the small networks that come with this package, by style."""
    return {name.removesuffix(SMALL_ENDING): path for name, path in sorted(known_networks([BUNDLED]).items())}


def network_dirs() -> tuple[Path, ...]:
    """Return the folders in which networks are looked for by name: that of the bundled ones, then the user's own."""
    return BUNDLED, user_styles_dir()


def user_styles_dir() -> Path:
    """Return the user's style folder: `$STYLESCORE_STYLES`, or one in the platform's folder for application data."""
    chosen = os.environ.get(STYLES_VARIABLE)
    return Path(chosen).expanduser() if chosen else data_folder() / "styles"


def data_folder() -> Path:
    """Return this program's folder in the platform's folder for application data."""
    return _platform_folder() / "stylescore"


def _platform_folder() -> Path:
    match sys.platform:
        case "win32":
            return Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
        case "darwin":
            return Path.home() / "Library" / "Application Support"
        case _:
            return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")


def _only_network(folder: Path) -> Path:
    files = sorted(path for path in folder.glob(f"*{ENDING}") if not path.name.startswith("."))
    if len(files) != 1:
        hint = f"name one of them: {', '.join(path.name for path in files[:5])}" if files else "name an ONNX file"
        raise ModelError(f"the folder {str(folder)!r} has {len(files)} ONNX files, exactly one is needed", hint=hint)
    return files[0]
