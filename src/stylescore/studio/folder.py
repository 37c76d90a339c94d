"""Where the studio keeps photos, runs and its queue."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from stylescore.catalog.registry import data_folder
from stylescore.errors import OutputError
from stylescore.storage.texts import user_path
from stylescore_apply.storage.files import remove_any

STUDIO_VARIABLE = "STYLESCORE_STUDIO"
LONGEST_NAME = 100
_UNSAFE = re.compile(r"[^\w .,()+=@-]+")


def default_folder() -> Path:
    """Return the studio's folder: `$STYLESCORE_STUDIO`, or one in the platform's folder for application data."""
    chosen = os.environ.get(STUDIO_VARIABLE)
    return user_path(chosen) if chosen else data_folder() / "studio"


def safe_name(name: str) -> str:
    """Return an uploaded file's name as one that every file system accepts, without folders."""
    base = re.split(r"[\\/]", name)[-1]
    stem, dot, ending = _UNSAFE.sub("_", base).strip(" .").rpartition(".")
    if not dot:
        stem, ending = ending, ""
    short = stem.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .") or "photo"
    return f"{short}.{ending[:8]}" if ending else short


@dataclass(frozen=True)
class StudioFolder:
    """The studio's folder. Names below it are ids that the studio drew, never texts of a request.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    def make(cls, path: Path) -> StudioFolder:
        """Make the folder and its subfolders, readable by this user only.

        Raises:
            OutputError: the system refuses.
        """
        folder = cls(path)
        try:
            for each in (path, folder.photos, folder.runs, folder.workers):
                each.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(
                f"the studio's folder {str(path)!r} cannot be made: {reason}", hint="choose another one with --data"
            ) from error
        return folder

    @property
    def database(self) -> Path:
        """The queue and the history."""
        return self.path / "studio.sqlite"

    @property
    def photos(self) -> Path:
        """One folder for each uploaded photo."""
        return self.path / "photos"

    @property
    def runs(self) -> Path:
        """One folder for each job."""
        return self.path / "runs"

    @property
    def workers(self) -> Path:
        """One folder for each device: the lock and the log of its worker."""
        return self.path / "workers"

    @property
    def server(self) -> Path:
        """The folder whose lock the server holds."""
        return self.path / "server"

    def photo(self, key: str) -> Path:
        """The folder of an uploaded photo."""
        return self.photos / key

    def mask(self, photo: str, key: str) -> Path:
        """The file of a mask of a photo."""
        return self.photo(photo) / f"mask-{key}.png"

    def run(self, key: str) -> Path:
        """The folder of a job: what the page shows of it, and the folder of its run."""
        return self.runs / key

    def worker(self, device: str) -> Path:
        """The folder of a device's worker."""
        return self.workers / device.replace(":", "-")

    def size(self) -> int:
        """Return how many bytes the photos and runs have."""
        return sum(_sizes(self.photos)) + sum(_sizes(self.runs))

    def keep_only(self, photos: Collection[str], runs: Collection[str]) -> None:
        """Remove what killed processes left behind: folders of photos and jobs that nobody knows."""
        for parent, known in ((self.photos, photos), (self.runs, runs)):
            for path in parent.iterdir():
                if path.name not in known:
                    remove_any(path)

    def remove_photo(self, key: str) -> None:
        """Remove what is kept of a photo."""
        shutil.rmtree(self.photo(key), ignore_errors=True)

    def remove_run(self, key: str) -> None:
        """Remove what is kept of a job."""
        shutil.rmtree(self.run(key), ignore_errors=True)


def _sizes(folder: Path) -> Iterator[int]:
    """Yield the sizes of all files; what is removed meanwhile counts nothing."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                yield os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
