"""How the finished picture of a run is written; nothing here changes its pixels, but for what a format loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["png", "jpeg", "webp"]
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The file of the picture.

    Attributes:
        format: png, which loses nothing, jpeg or webp.
        quality: of jpeg and webp, 1 to 100.
        keep_location: whether the place where the photo was taken stays in the EXIF data.
    """

    format: Format = "png"
    quality: int = 90
    keep_location: bool = False

    @property
    def suffix(self) -> str:
        """The ending of the file's name."""
        return SUFFIXES[self.format]
