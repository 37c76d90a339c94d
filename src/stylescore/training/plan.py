"""What is asked for, checked as far as that goes without loading a model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylescore.catalog.registry import list_styles, resolve_model, user_styles_dir
from stylescore.config.ranges import check_texts
from stylescore.errors import OutputError, StyleError
from stylescore.training.captions import Words, captions, prompt, sheet_captions
from stylescore.training.config import FAMILIES, resolve
from stylescore.training.metadata import data_hash
from stylescore.training.pictures import Survey, TrainingPicture, survey


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        pictures: the folder.
        given: settings that were given, fields of `StyleTrainingConfig`.
        words: where captions come from.
        strict: whether a picture that cannot be used stops the training.
        replace: whether an older style of this name is replaced.
    """

    pictures: Path
    given: Mapping[str, Any]
    words: Words
    strict: bool = False
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request whose pictures have been read.

    Attributes:
        request: what was asked for.
        survey: the pictures.
        prompts: what the network will read, one per picture.
        sheet_prompts: prompts of the sample sheets.
    """

    request: Request
    survey: Survey
    prompts: tuple[str, ...]
    sheet_prompts: tuple[str, ...]

    @property
    def examples(self) -> list[tuple[TrainingPicture, str]]:
        """Each picture with its prompt."""
        return list(zip(self.survey.pictures, self.prompts, strict=True))

    @property
    def data_sha256(self) -> str:
        """Hash of pictures and prompts."""
        return data_hash(self.examples)


def make_plan(request: Request, sheets: int) -> Plan:
    """Check a request and read its pictures and captions.

    Args:
        request: what was asked for.
        sheets: number of different prompts on a sample sheet.

    Raises:
        InputError: whatever of it cannot be used.
    """
    config = resolve(request.given, next(iter(FAMILIES)))
    check_texts({"PICTURES": str(request.pictures.absolute()), "caption": request.words.caption})
    check_texts({"captions": str(request.words.table)})
    resolve_model(config.model)
    style_file(config.name, replace=request.replace)
    found = survey(request.pictures, strict=request.strict)
    known = captions([picture.path for picture in found.pictures], request.words, strict=request.strict)
    return Plan(
        request=request,
        survey=found,
        prompts=tuple(prompt(config.trigger, caption) for caption in known.values()),
        sheet_prompts=tuple(prompt(config.trigger, caption) for caption in sheet_captions(known, sheets)),
    )


def style_file(name: str, *, replace: bool) -> Path:
    """Return where a style of this name is written, in the user's style folder.

    Raises:
        StyleError: the name is taken.
    """
    path = user_styles_dir() / f"{name}.safetensors"
    if any(entry.name == name and entry.bundled for entry in list_styles()):
        raise StyleError(f"the name {name!r} belongs to a bundled style", hint="choose another --name")
    if path.exists() and not replace:
        raise StyleError(
            f"there is a style {name!r} already: {str(path)!r}", hint="choose another --name, or give --replace"
        )
    return path


def require_space(folder: Path, size: int) -> None:
    """Make a folder and raise `OutputError` unless its disk has room for `size` bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}", hint="choose a folder you may write to"
        ) from error
    if free < size:
        raise OutputError(
            f"the disk of {str(folder)!r} needs {size / 1e6:.0f} MB free, it has {free / 1e6:.0f} MB",
            hint="free some space, or lower --rank",
        )
