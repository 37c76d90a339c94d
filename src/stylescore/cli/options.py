"""Converts option texts to values, and checks them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_type_hints

from typer.models import OptionInfo

from stylescore.config.run import EmbeddingChoice, StyleChoice
from stylescore.config.toml import merge_tables, parse_toml
from stylescore.errors import ConfigError, quote

BUNDLED_STYLES: Mapping[str, str] = {
    "flat-illustration": "few even colours",
    "ink-drawing": "black on white",
    "oil-painting": "dabs of paint",
    "pencil-sketch": "graphite on paper",
    "pixel-art": "large squares",
    "stained-glass": "panes between lead",
    "ukiyo-e": "woodblock prints",
    "van-gogh": "swirling strokes",
    "watercolor": "pale washes",
}
"""What the bundled styles look like, in few words."""
_LIKE_A_NUMBER = re.compile(r"[+-]*[.,]?\d[\d.,_/%eE+-]*")


def parse_names(text: str) -> list[str]:
    """Return the names of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_styles(texts: Sequence[str]) -> tuple[StyleChoice, ...]:
    """Parse texts of the form `NAME` or `NAME=WEIGHT`; a text that is an existing file is a name as a whole."""
    return tuple(_parse_style(text) for text in texts)


def parse_embeddings(texts: Sequence[str]) -> tuple[EmbeddingChoice, ...]:
    """Parse texts of the form `NAME=FILE`; of a file without a name, the file's name is the word for prompts."""
    return tuple(_parse_embedding(text) for text in texts)


def _parse_embedding(text: str) -> EmbeddingChoice:
    name, equals, file = text.partition("=")
    if equals and not Path(text).exists():
        return EmbeddingChoice(token=name, file=file)
    return EmbeddingChoice(token=Path(text.rpartition(":")[2]).stem, file=text)


def parse_weights(texts: Sequence[str]) -> dict[str, str]:
    """Parse texts of the form `NAME=PLACE`.

    Raises:
        ConfigError: a text has another form, or a name stands twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            raise ConfigError(
                f"--weights must be NAME=FILE or NAME=HUB_ID, not {quote(text)}",
                hint="for example --weights vgg19=vgg19.safetensors",
            )
        if name in found:
            raise ConfigError(f"--weights {name} is given twice", hint="leave one of them out")
        found[name] = place
    return found


def require_style(styles: Sequence[StyleChoice], command: str = "stylize") -> None:
    """Raise `ConfigError` that lists the styles unless at least one is given."""
    if styles:
        return
    from stylescore.catalog.registry import list_styles

    known = (_describe_style(entry.name, entry.bundled) for entry in list_styles())
    raise ConfigError(
        f"{command} needs a --style", hint=f"add --style NAME, where NAME is one of {', '.join(known)}; or a LoRA file"
    )


def _describe_style(name: str, bundled: bool) -> str:
    about = BUNDLED_STYLES.get(name) if bundled else "yours"
    return f"{name} ({about})" if about else name


def with_folders_apart(photos: Sequence[Path], output: Path) -> dict[Path, Path]:
    """Return the folder for the run folder of each photo: `output`, or one below it.

    Run folders are named after their photos. Photos of one name in several folders get a folder below `output` that
    has the name of theirs, so that `a/same.jpg` and `b/same.jpg` can be told apart.
    """
    absolute = {photo: photo.absolute() for photo in photos}
    folders: dict[str, set[Path]] = {}
    for path in absolute.values():
        folders.setdefault(path.stem, set()).add(path.parent)
    return {photo: output / _distinguish(path, folders[path.stem]) for photo, path in absolute.items()}


def _distinguish(photo: Path, folders: Collection[Path]) -> Path:
    """Return a photo's folder relative to the one it shares with all photos of its name; none if it has its name.

    Args:
        photo: its absolute path.
        folders: those of all photos of its name.
    """
    if len(folders) == 1:
        return Path()
    try:
        return photo.parent.relative_to(os.path.commonpath(folders))
    except ValueError:  # on two drives, no folder is shared
        return Path(photo.parent.name)


def _parse_style(text: str) -> StyleChoice:
    name, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return StyleChoice(name=text)
    try:
        return StyleChoice(name=name, weight=float(weight))
    except ValueError as error:
        raise ConfigError(
            f"a style's weight must be a number, not {weight!r}", hint="write --style NAME=0.7"
        ) from error


def parse_settings(texts: Sequence[str], **direct: Any) -> dict[str, Any]:
    """Parse texts of the form `KEY=VALUE` into nested tables; keys are dotted, values written as in TOML.

    Args:
        texts: as given to `--set`.
        direct: settings with an option of their own; `None` stands for an option that was not given.

    Raises:
        ConfigError: a text without a key, or a value that is neither a number nor another TOML value nor a text.
    """
    given = {key: value for key, value in direct.items() if value is not None}
    return reduce(merge_tables, map(_parse_setting, texts), given)


def _parse_setting(text: str) -> dict[str, Any]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set needs KEY=VALUE, not {text!r}", hint="for example --set spectrum.weight=2e-4")
    try:
        return parse_toml(f"{key} = {value}")
    except ValueError:
        return _nest(key.split("."), _parse_value(key, value))


def _parse_value(key: str, value: str) -> int | float | str:
    """Parse a value that is not TOML: a number in another spelling, such as `.5`, `5.` or `007`, else a text."""
    if not _LIKE_A_NUMBER.fullmatch(value):
        return value
    try:
        return int(value) if value.lstrip("+-").isdecimal() else float(value)
    except ValueError:
        raise ConfigError(
            f"{key} must be a number or a text in quotes, not {value[:40]}",
            hint="write numbers as 300, 0.5 or 5e-4",
        ) from None


def _nest(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return `value` at the end of a path of keys."""
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def first_given(command: Callable[..., None], given: Mapping[str, Any], *, besides: Collection[str]) -> str | None:
    """Return the first option or argument that was given, as it is written on the command line; `None` for none.

    Args:
        command: the command's function; its signature declares the options.
        given: the value of each of its parameters.
        besides: parameters that do not count.
    """
    declared = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        if name not in besides and given[name] not in (parameter.default, []):
            return _spell(parameter, declared[name].__metadata__[0])
    return None


def _spell(parameter: Parameter, declaration: Any) -> str:
    """Return a parameter as it is written on the command line: `--compile`, `--set`, `PHOTO`."""
    if not isinstance(declaration, OptionInfo):
        return str(declaration.metavar or parameter.name).rstrip(".")
    declared = (declaration.default, *(declaration.param_decls or ()))  # in `Annotated`, the first one is the default
    spellings = [text for text in declared if isinstance(text, str) and text.startswith("--")]
    return spellings[0] if spellings else f"--{parameter.name.replace('_', '-')}"
