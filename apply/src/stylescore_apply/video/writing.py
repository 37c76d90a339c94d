"""Writes a video that can be played however far it was written, and copies the sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from stylescore_apply.errors import ConfigError
from stylescore_apply.stylizing import Pixels
from stylescore_apply.video.library import require_av, writing_errors
from stylescore_apply.video.reading import Frame, VideoReader

ENDINGS = (".mp4", ".mkv")
MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "flac", "alac", "mp2"})
"""Codecs of sound that MP4 files can hold."""
DEFAULT_CRF = 18
"""Quality of H.264, where 0 loses nothing and 51 is worst; at 18 hardly any difference is seen."""
KEYFRAME_EVERY = 48
"""Frames from one key frame to the next. A cut-off file ends with the last of these parts."""
_OPTIONS = {
    ".mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof", "flush_packets": "1"},
    ".mkv": {"flush_packets": "1", "cluster_time_limit": "1000"},
}


class VideoWriter:
    """A video that is being written."""

    def __init__(self, path: Path, container: Any, source: VideoReader, first: Pixels, crf: int) -> None:
        self._path, self._container, self._source = path, container, source
        self._size = first.shape[1] & ~1, first.shape[0] & ~1
        self._stream = self._add_pictures(crf)
        self._sound = {stream.index: container.add_stream_from_template(stream) for stream in source.sound}
        self._last = -1

    def _add_pictures(self, crf: int) -> Any:
        """Add the stream of pictures, with the colours and the time base of the source."""
        source, (width, height) = self._source.stream, self._size
        options = {"crf": str(crf), "g": str(KEYFRAME_EVERY), "preset": "medium"}
        stream = self._container.add_stream("libx264", rate=source.average_rate or Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = source.time_base
        context, colours = stream.codec_context, self._source.colours
        context.time_base = source.time_base
        context.sample_aspect_ratio = self._source.pixel_aspect
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        context.colorspace, context.color_range = colours.matrix, 1
        return stream

    def write(self, frame: Frame) -> None:
        """Encode a frame at its time; a time that the file does not say, or says twice, is the next free one."""
        av = require_av()
        width, height = self._size
        colours = self._source.colours
        picture = av.VideoFrame.from_ndarray(frame.pixels[:height, :width], format="rgb24")
        encoded = picture.reformat(format="yuv420p", dst_colorspace=colours.matrix)
        self._last = max(self._last + 1, frame.time) if frame.time is not None else self._last + 1
        encoded.pts, encoded.time_base = self._last, self._source.stream.time_base
        encoded.colorspace, encoded.color_range = colours.matrix, 1
        self._mux(self._stream.encode(encoded))

    def copy(self, packet: Any) -> None:
        """Copy a packet of sound."""
        packet.stream = self._sound[packet.stream.index]
        self._mux([packet])

    def finish(self) -> None:
        """Write what the encoder still holds."""
        self._mux(self._stream.encode(None))

    def _mux(self, packets: Any) -> None:
        with writing_errors(self._path):
            self._container.mux(packets)


def check_target(path: Path, source: VideoReader) -> None:
    """Raise `ConfigError` unless a file can hold the video and its sound."""
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(f"videos are written as .mp4 or .mkv, not {path.suffix!r}", hint="change --out")
    sound = [stream.codec_context.name for stream in source.sound]
    unfit = [name for name in sound if name not in MP4_SOUND]
    if path.suffix.lower() == ".mp4" and unfit:
        raise ConfigError(
            f"an MP4 file cannot hold sound as {unfit[0]}, which {str(source.path)!r} has",
            hint=f"write MKV: --out {path.with_suffix('.mkv')}",
        )


@contextmanager
def create_video(path: Path, source: VideoReader, first: Pixels, crf: int = DEFAULT_CRF) -> Iterator[VideoWriter]:
    """Create a video with the times, colours and sound of another one; its end is written also after an exception.

    Args:
        path: the file, with one of `ENDINGS`.
        source: the video it is made from, after its first frame was read.
        first: the first stylized frame; of an odd side, the last row or column is left out.
        crf: quality of H.264, 0 to 51.

    Raises:
        OutputError: it cannot be written.
    """
    av = require_av()
    with writing_errors(path):
        container = av.open(str(path), "w", options=_OPTIONS[path.suffix.lower()])
    try:
        writer = VideoWriter(path, container, source, first, crf)
        try:
            yield writer
        finally:
            writer.finish()
    finally:
        with writing_errors(path):
            container.close()
