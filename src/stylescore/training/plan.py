"""A training's request and its pictures, checked as far as that is possible without loading a model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylescore.catalog.registry import list_styles, resolve_model, user_styles_dir
from stylescore.config.ranges import check_texts
from stylescore.errors import OutputError, StyleError
from stylescore.images.captions import CaptionSource, read_captions
from stylescore.training.config import FAMILIES, resolve
from stylescore.training.metadata import data_hash
from stylescore.training.pictures import Dataset, TrainingPicture, read_dataset
from stylescore.training.prompts import choose_sheet_captions, make_prompt


@dataclass(frozen=True, kw_only=True)
class Request:
    """The settings that a user has given for a training.

    Attributes:
        pictures: the folder.
        given: fields of `StyleTrainingConfig` by name; the others follow the base's family.
        captions: where captions come from.
        strict: whether a picture that cannot be used stops the training.
        replace: whether an older style of this name is replaced.
    """

    pictures: Path
    given: Mapping[str, Any]
    captions: CaptionSource
    strict: bool = False
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request whose pictures have been read.

    Attributes:
        request: what the user has given.
        dataset: the pictures.
        prompts: trigger words and caption, one per picture.
        sheet_prompts: prompts of the sample sheets.
        caption_summary: one line on where the captions were found.
    """

    request: Request
    dataset: Dataset
    prompts: tuple[str, ...]
    sheet_prompts: tuple[str, ...]
    caption_summary: str

    @property
    def examples(self) -> list[tuple[TrainingPicture, str]]:
        """Each picture with its prompt."""
        return list(zip(self.dataset.pictures, self.prompts, strict=True))

    @property
    def data_sha256(self) -> str:
        """Hash of pictures and prompts."""
        return data_hash(self.examples)


def make_plan(request: Request, sheets: int, *, resumed: bool = False) -> Plan:
    """Check a request and read its pictures and captions.

    Args:
        request: what the user has given.
        sheets: number of different prompts on a sample sheet.
        resumed: whether the style may be there already, written by the same training before it was killed.

    Raises:
        InputError: a part of it that cannot be used.
    """
    config = resolve(request.given, next(iter(FAMILIES)))
    check_texts({"PICTURES": str(request.pictures.absolute()), "caption": request.captions.caption})
    check_texts({"captions": str(request.captions.table)})
    resolve_model(config.model)
    if not resumed:
        require_free_name(config.name, replace=request.replace, hint="choose another --name, or give --replace")
    dataset = read_dataset(request.pictures, strict=request.strict)
    paths = [picture.path for picture in dataset.pictures]
    captions = read_captions(paths, request.captions, folder=request.pictures, strict=request.strict)
    sheet = choose_sheet_captions(captions.texts, sheets)
    return Plan(
        request=request,
        dataset=dataset,
        prompts=tuple(make_prompt(config.trigger, caption) for caption in captions.texts.values()),
        sheet_prompts=tuple(make_prompt(config.trigger, caption) for caption in sheet),
        caption_summary=captions.summary,
    )


def style_file(name: str) -> Path:
    """Return the file of a style of this name in the user's style folder."""
    return user_styles_dir() / f"{name}.safetensors"


def require_free_name(name: str, *, replace: bool, hint: str) -> None:
    """Raise `StyleError` if a style's name is that of a bundled one, or of another that is not to be replaced."""
    path = style_file(name)
    if any(entry.name == name and entry.bundled for entry in list_styles()):
        raise StyleError(f"the name {name!r} belongs to a bundled style", hint="choose another --name")
    if path.exists() and not replace:
        raise StyleError(f"there is a style {name!r} already: {str(path)!r}", hint=hint)


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
