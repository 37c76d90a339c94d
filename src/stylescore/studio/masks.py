"""The masks that are painted on the page: checked, stored beside their photo, and found again."""

from __future__ import annotations

import io
from hashlib import sha256
from pathlib import Path

from PIL import Image

from stylescore.errors import ConfigError, PictureError
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import JobStore, StoredPhoto, UnknownError
from stylescore.studio.settings import MASK_ID
from stylescore_apply.images.opening import open_picture
from stylescore_apply.storage.files import atomic

MOST_UNUSED = 8
"""Masks of one photo that no picture has and that are kept: every stroke on the page sends one."""


def save_mask(folder: StudioFolder, store: JobStore, photo: StoredPhoto, file: Path) -> str:
    """Store a mask at its photo's size, and return its id; the oldest ones that no picture has are removed.

    Args:
        folder: of the studio.
        store: knows which masks pictures have.
        photo: the photo that it is for.
        file: as it was sent, white where the photo is stylized and black where it stays; not more pixels than the
            photo, and of its aspect ratio.

    Raises:
        PictureError: it is no picture, or has another aspect ratio or more pixels than its photo.
    """
    with open_picture(file) as image:
        _require_size(image.size, photo)
        grey = image.convert("L").resize((photo.width, photo.height), Image.Resampling.BILINEAR)
    target = io.BytesIO()
    grey.save(target, format="PNG")
    key = sha256(target.getvalue()).hexdigest()[:16]
    with atomic(folder.mask(photo.id, key)) as temporary:
        temporary.write_bytes(target.getvalue())
    _remove_unused(folder, photo.id, {*store.masks(photo.id), key})
    return key


def find_mask(folder: StudioFolder, photo: StoredPhoto, key: str) -> Path:
    """Return the file of a photo's mask.

    Raises:
        UnknownError: the photo has none of this id.
    """
    path = folder.mask(photo.id, key)
    if MASK_ID.fullmatch(key) and path.is_file():
        return path
    raise UnknownError(f"the photo {photo.name!r} has no such mask", hint="paint it again")


def require_something_to_stylize(path: Path, photo: StoredPhoto) -> None:
    """Raise `ConfigError` if a mask is black everywhere."""
    with Image.open(path) as mask:
        _, most = mask.getextrema()
    if most == 0:
        raise ConfigError(f"the mask of {photo.name!r} leaves nothing to stylize", hint="invert it, or clear it")


def _require_size(size: tuple[int, int], photo: StoredPhoto) -> None:
    """Raise `PictureError` unless a size is the photo's, or smaller and the same but for one pixel of rounding."""
    scale = max(size) / max(photo.width, photo.height)
    rounded = (abs(size[0] - scale * photo.width) <= 1, abs(size[1] - scale * photo.height) <= 1)
    if scale > 1 or not all(rounded):
        raise PictureError(
            f"a mask must be as large as its photo, or smaller with its aspect ratio, not {size[0]} x {size[1]} for "
            f"{photo.width} x {photo.height}",
            hint="paint it on the page",
        )


def _remove_unused(folder: StudioFolder, photo: str, used: set[str]) -> None:
    masks = [path for path in folder.photo(photo).glob("mask-*.png") if path.stem.removeprefix("mask-") not in used]
    for path in sorted(masks, key=lambda path: path.stat().st_mtime)[:-MOST_UNUSED]:
        path.unlink(missing_ok=True)
