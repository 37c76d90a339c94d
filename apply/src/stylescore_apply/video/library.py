"""The optional libraries of videos, and what their errors become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from stylescore_apply.errors import ConfigError, OutputError, PictureError, StylescoreError


def require_av() -> Any:
    """Return PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    return _require("av", "videos need PyAV, which is not installed", "video")


def require_cv2() -> Any:
    """Return OpenCV.

    Raises:
        ConfigError: it is not installed.
    """
    return _require("cv2", "--smooth and --noise moved need OpenCV, which is not installed", "flow")


def _require(module: str, message: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(message, hint=f"pip install 'stylescore-apply[{extra}]'") from error


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors inside the block into a `PictureError` about the file that is read."""
    av = require_av()
    try:
        yield
    except StylescoreError:
        raise
    except FileNotFoundError as error:
        hint = f"check the spelling; the working folder is {str(Path.cwd())!r}"
        raise PictureError(f"there is no file {str(path)!r}", hint=hint) from error
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(
            f"the video {str(path)!r} is damaged or of an unknown format: {reason}", hint="try to play it"
        ) from error


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors inside the block into an `OutputError` about the file that is written."""
    av = require_av()
    try:
        yield
    except StylescoreError:
        raise
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"the video {str(path)!r} cannot be written: {reason}", hint="check the folder and the free space"
        ) from error
