"""How much the studio accepts, and the error for what is more."""

from __future__ import annotations

from dataclasses import dataclass

from stylescore.errors import InputError

MIB = 2**20


class LimitError(InputError):
    """A request for more than the studio accepts.

    Attributes:
        status: HTTP status of the response.
    """

    def __init__(self, message: str, *, hint: str | None = None, status: int = 429) -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one studio accepts.

    Attributes:
        upload_bytes: size of one uploaded file.
        mask_bytes: size of one mask that is sent.
        request_bytes: size of the body of any other request.
        pixels: of one photo, stated by its header.
        photos: uploaded photos of one session.
        jobs: unfinished jobs of one session.
        queue: unfinished jobs of all sessions.
        storage_bytes: size of the studio's folder; above it nothing is uploaded or begun.
        decoders: uploads that are decoded at the same time; each may take 7 bytes per pixel, and Pillow has settings
            that all threads share.
        streams: open event streams of one session; a browser has one per tab that is seen.
    """

    upload_bytes: int = 64 * MIB
    mask_bytes: int = 8 * MIB
    request_bytes: int = 256 * 2**10
    pixels: int = 100_000_000
    photos: int = 1000
    jobs: int = 500
    queue: int = 2000
    storage_bytes: int = 10_240 * MIB
    decoders: int = 1
    streams: int = 16
