"""The names of run folders: a pattern that is filled in with photo, style and settings."""

from __future__ import annotations

import re
import string
from pathlib import Path

from stylescore.config.ranges import check_texts
from stylescore.config.run import RunConfig
from stylescore.errors import ConfigError, quote

DEFAULT = "{photo}-{style}"
FIELDS = ("photo", "folder", "style", "model", "method", "seed", "content", "size", "iterations")
LONGEST_NAME = 200
"""Bytes of a folder's name; file systems accept 255, and a number may be added."""

_FORBIDDEN = re.compile(r'[/\\\x00-\x1f<>:"|?*]')
"""What some system does not accept in a name."""


def check_pattern(pattern: str) -> str:
    """Return a pattern for names if it can be filled in and makes names in any case.

    Raises:
        ConfigError: it has other fields, formats or conversions, letters that separate folders, or too many, or is not
            Unicode text.
    """
    check_texts({"--name": pattern})
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError:
        parts = [("", "", "", None)]
    if any(field is not None and (field not in FIELDS or spec or way) for _, field, spec, way in parts):
        raise ConfigError(
            f"--name must only use {', '.join('{' + field + '}' for field in FIELDS)}, not {quote(pattern)}",
            hint="write {{ and }} for literal braces",
        )
    literal = "".join(text for text, *_ in parts)
    if _FORBIDDEN.search(literal) or pattern.startswith(".") or not pattern.strip():
        raise ConfigError(
            f"--name must be a name without slashes and other special letters, not {quote(pattern)}",
            hint="name the folder above with --output",
        )
    if len(literal.encode()) > LONGEST_NAME:
        raise ConfigError(
            f"--name must have at most {LONGEST_NAME} letters of its own, not {len(literal):,}", hint="shorten it"
        )
    return pattern


def _style_names(run: RunConfig) -> list[str]:
    """Return what the style comes from: adapters, or a picture."""
    return [style.name for style in run.styles] or [run.style_image or ""]


def folder_name(pattern: str, photo: Path, run: RunConfig) -> str:
    """Return the name of a run's folder, cut to what file systems accept.

    Args:
        pattern: as `check_pattern` returns it.
        photo: path of the photo.
        run: the configuration, with its names as they were given.
    """
    values = {
        "photo": photo.stem,
        "folder": photo.absolute().parent.name,
        "style": "+".join(Path(name).stem for name in _style_names(run)),
        "model": Path(run.model).stem,
        "method": run.method.method,
        "seed": run.seed,
        "content": f"{run.content:g}",
        "size": run.size or "auto",
        "iterations": run.method.iterations,
    }
    name = pattern.format(**{key: _FORBIDDEN.sub("_", str(value)) for key, value in values.items()})
    return name.encode(errors="surrogateescape")[:LONGEST_NAME].decode(errors="ignore").rstrip(". ") or "picture"
