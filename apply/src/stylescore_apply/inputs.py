"""From what a user names to pairs of input and output: files, folders, patterns and standard input."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylescore_apply.errors import OutputError, PictureError
from stylescore_apply.images.writing import ENDINGS, Format, format_of

STANDARD = Path("-")
"""Stands for standard input and standard output."""
PICTURES = frozenset(
    {*ENDINGS, ".jpe", ".jfif", ".mpo", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".ppm", ".psd"}
)
VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".3gp"})


@dataclass(frozen=True)
class Job:
    """One input and where its result is written.

    Attributes:
        source: a picture or video, or `STANDARD`.
        target: a file, or `STANDARD`.
    """

    source: Path
    target: Path

    @property
    def is_video(self) -> bool:
        """Whether the input is a video, by its name."""
        return self.source.suffix.lower() in VIDEOS

    @property
    def is_done(self) -> bool:
        """Whether the result is there and is not older than the input."""
        try:
            return self.target.stat().st_mtime >= self.source.stat().st_mtime
        except OSError:
            return False


@dataclass(frozen=True)
class _Found:
    """An input and its path below the output folder, still with the input's ending."""

    source: Path
    place: Path


def plan_jobs(inputs: Sequence[str], out: Path, *, recursive: bool, chosen: Format | None) -> list[Job]:
    """Return input and output of everything that the inputs name, in their order.

    Args:
        inputs: files, folders, patterns such as `*.jpg`, or `-` for standard input.
        out: folder for the results; for a single file also a file name with an ending that can be written, or `-`.
        recursive: whether folders are searched with all of their subfolders, whose layout is kept.
        chosen: format of the pictures, or `None` for that of the input, which is PNG if it cannot be written.

    Raises:
        PictureError: an input names nothing.
        OutputError: several results would be written into one file, or one over its input.
    """
    found = list(dict.fromkeys(each for text in inputs for each in _find(text, out, recursive)))
    if _is_file_name(out):
        return [_single_job(found, out)]
    standard = [Job(STANDARD, out / f"standard-input{_ending(STANDARD, chosen)}") for each in found if _is_std(each)]
    files = _apart([each for each in found if not _is_std(each)])
    return standard + [_job(each, out, chosen, twins) for each, twins in _with_twins(files, chosen)]


def _find(text: str, out: Path, recursive: bool) -> Iterator[_Found]:
    """Yield what one input names."""
    path = Path(text)
    if text == str(STANDARD):
        yield _Found(STANDARD, STANDARD)
    elif _mode(path, stat.S_ISDIR):
        yield from _in_folder(path, out, recursive)
    elif path.exists() or not glob.has_magic(text):
        yield _Found(path, Path(path.name))
    else:
        matches = sorted(glob.glob(text, recursive=True))
        if not matches:
            raise PictureError(f"no file matches {text!r}", hint=f"the working folder is {str(Path.cwd())!r}")
        yield from (_Found(Path(match), Path(Path(match).name)) for match in matches if not os.path.isdir(match))


def _mode(path: Path, test: object) -> bool:
    try:
        return bool(callable(test) and test(path.stat().st_mode))
    except (OSError, ValueError):
        return False


def _in_folder(folder: Path, out: Path, recursive: bool) -> Iterator[_Found]:
    """Yield the pictures and videos of a folder, without hidden files and those of the output folder."""
    found = [_Found(path, path.relative_to(folder)) for path in _files_below(folder, out.absolute(), recursive)]
    if not found:
        more = "" if recursive else ", or add --recursive for its subfolders"
        raise PictureError(f"the folder {str(folder)!r} holds no picture or video", hint=f"name another one{more}")
    yield from found


def _files_below(folder: Path, out: Path, recursive: bool) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        here = Path(place)
        visible = sorted(name for name in folders if not name.startswith(".") and (here / name).absolute() != out)
        folders[:] = visible if recursive else []
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES | VIDEOS:
                yield here / name


def _is_file_name(out: Path) -> bool:
    """Return whether `--out` names a file to write and not a folder."""
    return out == STANDARD or (not out.is_dir() and (format_of(out) is not None or out.suffix.lower() in VIDEOS))


def _single_job(found: Sequence[_Found], out: Path) -> Job:
    if len(found) != 1:
        where = "standard output" if out == STANDARD else repr(str(out))
        raise OutputError(f"{len(found)} results cannot be written to {where}", hint="name a folder with --out")
    return _checked(Job(found[0].source, out))


def _is_std(found: _Found) -> bool:
    return found.source == STANDARD


def _apart(found: Sequence[_Found]) -> list[_Found]:
    """Place files of one name from several folders below their common folder, so that their results differ."""
    places = Counter(each.place for each in found)
    if all(count == 1 for count in places.values()):
        return list(found)
    common = Path(os.path.commonpath([each.source.absolute().parent for each in found]))
    return [_Found(each.source, each.source.absolute().relative_to(common)) for each in found]


def _with_twins(found: Sequence[_Found], chosen: Format | None) -> Iterator[tuple[_Found, bool]]:
    """Yield each file, and whether another one would have the same result, such as `a.png` for `a.jpg`."""
    targets = Counter(_result_name(each, chosen) for each in found)
    return ((each, targets[_result_name(each, chosen)] > 1) for each in found)


def _result_name(found: _Found, chosen: Format | None) -> Path:
    return found.place.with_suffix(_ending(found.source, chosen))


def _job(found: _Found, out: Path, chosen: Format | None, twins: bool) -> Job:
    name = _result_name(found, chosen)
    if twins:
        name = found.place.with_name(found.place.name + name.suffix)
    return _checked(Job(found.source, out / name))


def _ending(source: Path, chosen: Format | None) -> str:
    """Return the ending of an input's result."""
    ending = source.suffix.lower()
    if ending in VIDEOS:
        return ".mp4" if ending in {".mp4", ".m4v", ".mov", ".3gp"} else ".mkv"
    own = ENDINGS.get(ending)
    wanted = chosen or own or ("jpeg" if ending in {".heic", ".heif", ".jpe", ".jfif", ".mpo"} else "png")
    return ending if wanted == own else {"jpeg": ".jpg"}.get(wanted, f".{wanted}")


def _checked(job: Job) -> Job:
    """Return a job, unless it would replace its own input."""
    same = os.path.realpath(job.source) == os.path.realpath(job.target)
    if job.source != STANDARD and job.target != STANDARD and same:
        raise OutputError(f"the result of {str(job.source)!r} would replace it", hint="choose another --out")
    return job
