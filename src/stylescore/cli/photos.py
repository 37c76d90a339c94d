"""From what the user names to the photos of a call: their captions, masks and folders, checked before a model loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stylescore.cli.options import with_folders_apart
from stylescore.cli.output import say
from stylescore.errors import ConfigError, PictureError, StylescoreError

if TYPE_CHECKING:
    from stylescore.config.output import OutputConfig
    from stylescore.config.run import RunConfig
    from stylescore.diffusion.captioner import CaptionModel
    from stylescore.images.finding import FoundPhoto
    from stylescore.runs.job import Task

SHORTEST_SIDE = 64
"""Any short side tells whether a photo is too elongated for a model."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the user has named, as it was written.

    Attributes:
        names: photos, folders and patterns.
        lists: files with more of them.
        recursive: whether folders are searched to any depth.
        prompt: a caption for all photos; empty for none.
        caption: where captions come from without one: files, auto or none.
        captions: a table of captions.
        caption_model: what writes captions.
        mask: a mask for all photos, or a folder with one for each.
        output: parent of the run folders.
        pattern: of their names.
    """

    names: tuple[str, ...]
    lists: tuple[Path, ...]
    recursive: bool
    prompt: str
    caption: str
    captions: Path | None
    caption_model: str | None
    mask: Path | None
    output: Path
    pattern: str


def require_writable_names(paths: Iterable[str | Path]) -> None:
    """Raise `PictureError` for a name that cannot be written into the run's record."""
    from stylescore.config.ranges import has_stray_bytes

    for path in paths:
        if has_stray_bytes(str(Path(path).absolute())):
            raise PictureError(f"the path {str(path)!r} is not valid Unicode", hint="rename the file or folder")


def make_tasks(inputs: Inputs, *, quiet: bool) -> tuple[list[Task], CaptionModel | None]:
    """Return the photos of a call, and what writes captions for those that have none.

    Raises:
        ConfigError: an option or a table that cannot be used.
        PictureError: a photo or a mask is missing.
    """
    from stylescore.images.finding import find_mask, find_photos, read_list
    from stylescore.runs.job import Task
    from stylescore.runs.names import check_pattern

    check_pattern(inputs.pattern)
    names = [*inputs.names, *(name for file in inputs.lists for name in read_list(file))]
    apart = [inputs.output, *([] if inputs.mask is None else [inputs.mask])]
    found = find_photos(names, recursive=inputs.recursive, without=apart)
    if found.left_out:
        say(f"note: left out, no pictures: {', '.join(map(str, found.left_out))}", quiet=quiet)
    photos = [photo.path for photo in found.photos]
    require_writable_names(photos)
    parents = _find_parents(found.photos, inputs.output)
    captions = _find_captions(photos, inputs, quiet=quiet)
    captioner = _find_captioner(inputs, quiet=quiet) if inputs.caption == "auto" and not inputs.prompt else None
    tasks = [
        Task(
            photo=photo,
            parent=parents[photo],
            pattern=inputs.pattern,
            caption=captions[photo][0],
            caption_source=captions[photo][1],
            mask=None if inputs.mask is None else find_mask(inputs.mask, photo),
        )
        for photo in photos
    ]
    return tasks if captioner is None else [_without_caption(task) for task in tasks], captioner


def _without_caption(task: Task) -> Task:
    """Leave the caption open where there is none, for a model to write."""
    from stylescore.runs.plan import AUTOMATIC

    return task if task.caption else replace(task, caption=None, caption_source=AUTOMATIC)


def _find_parents(photos: Sequence[FoundPhoto], output: Path) -> dict[Path, Path]:
    """Return the parent of each photo's run folder: a folder that is searched to its depth is mirrored."""
    deep = {photo.path: output / photo.below for photo in photos if photo.below not in (None, Path())}
    return with_folders_apart([photo.path for photo in photos if photo.path not in deep], output) | deep


def _find_captions(photos: Sequence[Path], inputs: Inputs, *, quiet: bool) -> dict[Path, tuple[str, str]]:
    """Return the caption of each photo, and where it comes from."""
    from stylescore.config.toml import check_choice
    from stylescore.images.captions import CaptionSource, read_captions

    check_choice(inputs.caption, ("files", "auto", "none"), "--caption")
    if inputs.caption_model is not None and inputs.caption != "auto":
        raise ConfigError("--caption-model needs --caption auto", hint="add --caption auto, or leave it out")
    if inputs.prompt or (inputs.caption == "none" and inputs.captions is None):
        return dict.fromkeys(photos, (inputs.prompt, "--prompt" if inputs.prompt else ""))
    folders = [Path(name) for name in inputs.names if Path(name).is_dir()]
    read = read_captions(photos, CaptionSource(table=inputs.captions), folder=folders[0] if len(folders) == 1 else None)
    if any(read.texts.values()):
        say(read.summary, quiet=quiet)
    return {photo: (text, "file" if text else "") for photo, text in read.texts.items()}


def _find_captioner(inputs: Inputs, *, quiet: bool) -> CaptionModel | None:
    """Return the model that writes captions, or `None` after a line that says why there is none."""
    from stylescore.diffusion.captioner import find_caption_model

    try:
        return find_caption_model(inputs.caption_model)
    except StylescoreError as error:
        if inputs.caption_model is not None:
            raise
        say(f"note: no automatic captions: {error}; {error.hint}", quiet=quiet)
        return None


def check_headers(
    tasks: Sequence[Task], run: RunConfig, output: OutputConfig
) -> tuple[dict[Path, tuple[int, int]], dict[Path, StylescoreError]]:
    """Return the sizes of the photos, and why some cannot be used; the pixels of a photo alone are decoded too.

    Raises:
        PictureError: the only photo cannot be used.
    """
    sizes: dict[Path, tuple[int, int]] = {}
    failures: dict[Path, StylescoreError] = {}
    for task in tasks:
        try:
            sizes[task.photo] = _read_usable_size(task.photo, output)
            if len(tasks) == 1:
                task.open(run.mask_feather)
        except PictureError as error:
            if len(tasks) == 1:
                raise
            failures[task.photo] = error
    return sizes, failures


def _read_usable_size(photo: Path, output: OutputConfig) -> tuple[int, int]:
    from stylescore.images import fitted_size, read_size
    from stylescore.images.writing import check_side

    size = read_size(photo)
    check_side(output, size)
    try:
        fitted_size(*size, SHORTEST_SIDE)
    except PictureError as error:
        raise PictureError(f"{str(photo)!r} is {error}", hint=error.hint) from error
    return size


def hash_photos(names: Sequence[str]) -> Mapping[str, Path]:
    """Return photos by the SHA-256 of their files, to find those of runs."""
    from stylescore.images.finding import find_photos
    from stylescore_apply.storage.files import sha256

    return {sha256(photo.path): photo.path for photo in find_photos(names).photos}
