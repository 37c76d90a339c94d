"""Takes uploaded files: photos, and finished pictures that bring their recipe."""

from __future__ import annotations

import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from stylescore.errors import PictureError
from stylescore.images.writing import read_metadata
from stylescore.studio.folder import StudioFolder, safe_name
from stylescore.studio.jobs import JobStore, StoredPhoto
from stylescore.studio.limits import Limits
from stylescore.studio.settings import RECORD_KEY
from stylescore_apply.images.opening import open_picture
from stylescore_apply.images.reading import Photo, read_photo
from stylescore_apply.storage.files import atomic, partial_path, sha256

THUMBNAIL_SIDE = 320
LARGEST_VIEW = 8192
"""Longest side in pixels of what the page shows; browsers decode no larger pictures on small machines."""
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded and looked at.

    Attributes:
        photo: as it is stored; `None` for a finished picture.
        record: of a finished picture, as TOML; `None` for a photo.
    """

    photo: StoredPhoto | None = None
    record: str | None = None


class Uploads:
    """Turns uploaded files into photos of the studio."""

    def __init__(self, folder: StudioFolder, store: JobStore, limits: Limits) -> None:
        self._folder, self._store, self._limits = folder, store, limits

    def new_file(self) -> Path:
        """Return a hidden path at which an upload is written."""
        return partial_path(self._folder.photos)

    def take(self, session: str, file: Path, name: str, *, as_photo: bool = False) -> Upload:
        """Store an uploaded file as a photo, or return the record that it holds; the file is gone afterwards.

        Not for several threads at once, as Pillow's limits are shared.

        Args:
            session: whose it is.
            file: from `new_file`.
            name: as the user's machine calls it.
            as_photo: whether a finished picture is taken as a photo, too.

        Raises:
            PictureError: it is no picture, is damaged or too large; the message names the file as the user does.
            LimitError: the session has too many photos.
        """
        key = secrets.token_hex(8)
        place = self._folder.photo(key)
        place.mkdir(mode=0o700)
        try:
            path = place / safe_name(name)
            file.replace(path)
            return self._look_at(session, key, path, name, as_photo=as_photo)
        except PictureError as error:
            _remove(place)
            raise PictureError(str(error).replace(repr(str(path)), repr(path.name)), hint=error.hint) from error
        except BaseException:
            _remove(place)
            raise
        finally:
            file.unlink(missing_ok=True)

    def _look_at(self, session: str, key: str, path: Path, name: str, *, as_photo: bool) -> Upload:
        self._check_pixels(path)
        record = None if as_photo else read_metadata(path).get(RECORD_KEY)
        if record is not None:
            _remove(path.parent)
            return Upload(record=record)
        digest = sha256(path)
        known = self._store.find_photo(session, digest)
        if known is not None:
            _remove(path.parent)
            return Upload(photo=known if known.listed else self._store.list_photo(session, known.id))
        photo = read_photo(path)
        save_views(photo.picture if photo.alpha is None else _with_alpha(photo), path.parent)
        stored = StoredPhoto(
            id=key,
            session=session,
            name=Path(safe_name(name)).name,
            file=path.name,
            width=photo.picture.width,
            height=photo.picture.height,
            sha256=digest,
            notes=photo.notes,
            created=time.time(),
        )
        self._store.add_photo(stored)
        return Upload(photo=stored)

    def _check_pixels(self, path: Path) -> None:
        """Raise `PictureError` for a picture whose header states too many pixels, before they are decoded."""
        with open_picture(path) as image:
            width, height = image.size
        if width * height > self._limits.pixels:
            raise PictureError(
                f"{path.name!r} has {width} x {height} pixels; the studio takes at most {self._limits.pixels:,}",
                hint="scale it down first",
            )


def save_views(picture: Image.Image, folder: Path) -> None:
    """Write what the page shows of a picture: `view` at its own size, and a small `thumb`."""
    view = picture
    if max(picture.size) > LARGEST_VIEW:
        view = picture.copy()
        view.thumbnail((LARGEST_VIEW, LARGEST_VIEW), Image.Resampling.LANCZOS)
    if picture.mode == "RGBA":
        _save(view, folder / "view.png", format="PNG")
    else:
        _save(view.convert("RGB"), folder / "view.jpg", format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    small = picture.convert("RGBA" if picture.mode == "RGBA" else "RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    _save(small, folder / "thumb.webp", format="WEBP", quality=82)


def view_of(folder: Path) -> Path:
    """Return the file of a folder's `view`, which is a PNG if the picture is transparent."""
    png = folder / "view.png"
    return png if png.is_file() else folder / "view.jpg"


def _save(picture: Image.Image, path: Path, **options: object) -> None:
    with atomic(path) as temporary:
        picture.save(temporary, **options)  # type: ignore[arg-type]


def _with_alpha(photo: Photo) -> Image.Image:
    picture = photo.picture.copy()
    assert photo.alpha is not None
    picture.putalpha(photo.alpha)
    return picture


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
