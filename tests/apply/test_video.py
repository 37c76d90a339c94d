"""Videos: times, sound, rotation and colours are kept; what was written before a cut can be played."""

from __future__ import annotations

import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stylescore_apply.cli import exit_code
from stylescore_apply.errors import ConfigError, PictureError
from stylescore_apply.networks import Array, Facts, OnnxNetwork
from stylescore_apply.noise import noise_field
from stylescore_apply.stylizing import Settings, stylize, tile_side
from stylescore_apply.video.noise import MovingNoise
from stylescore_apply.video.reading import BT601, BT709, Frame, open_video
from stylescore_apply.video.stylizing import stylize_video, unfinished_path

SIZE = (64, 48)
COLOURS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)]


class Unchanged:
    """A network that returns its photo, and remembers its noise."""

    facts = Facts(
        network="same", style="same", noise_channels=1, noise_scale=8, multiple=8, context=0, bytes_per_pixel=1
    )

    def __init__(self) -> None:
        self.noises: list[Array] = []

    def __call__(self, photo: Array, noise: Array | None) -> Array:
        assert noise is not None
        self.noises.append(noise)
        return photo


def patches(size: tuple[int, int] = SIZE, shift: int = 0) -> NDArray[np.uint8]:
    """Return four large patches of known colours."""
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    colours = COLOURS[shift % 4 :] + COLOURS[: shift % 4]
    for index, colour in enumerate(colours):
        row, column = divmod(index, 2)
        picture[row * height // 2 : (row + 1) * height // 2, column * width // 2 : (column + 1) * width // 2] = colour
    return picture


def write_video(
    path: Path,
    times: list[int],
    *,
    sound: str | None = None,
    size: tuple[int, int] = SIZE,
    matrix: int = BT601,
    transfer: int = 2,
    rate: int = 25,
) -> Path:
    """Write a video with frames at `times`, in hundredths of a second, and a second of sound."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        stream.codec_context.colorspace, stream.codec_context.color_trc = matrix, transfer
        tone = out.add_stream(sound, rate=48000) if sound else None
        for index, moment in enumerate(times):
            frame = av.VideoFrame.from_ndarray(patches(size, index), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=matrix)
            frame.pts, frame.time_base, frame.colorspace, frame.color_trc = moment, Fraction(1, 100), matrix, transfer
            out.mux(stream.encode(frame))
        if tone is not None:
            for start in range(0, 48000, 1024):
                wave = np.sin(np.arange(start, start + 1024) / 20)[None].astype(np.float32)
                chunk = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
                chunk.pts, chunk.rate, chunk.time_base = start, 48000, Fraction(1, 48000)
                out.mux(tone.encode(chunk))
            out.mux(tone.encode(None))
        out.mux(stream.encode(None))
    return path


def frames(path: Path) -> list[Frame]:
    with open_video(path) as video:
        return [item for item in video.items() if isinstance(item, Frame)]


def seconds(path: Path) -> list[float]:
    with open_video(path) as video:
        return [float(each.time * video.stream.time_base) for each in video.items() if isinstance(each, Frame)]


def first_time(path: Path) -> float:
    return seconds(path)[0]


def sound(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.audio[0])
        return [(float(each.pts * each.time_base), bytes(each)) for each in packets if each.dts is not None]


def run(source: Path, target: Path, **options: Any) -> list[tuple[int, int | None]]:
    return list(stylize_video(Unchanged(), source, target, Settings(), **options))


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_irregular_times_are_kept(tmp_path: Path, ending: str) -> None:
    times = [0, 4, 8, 30, 33, 71, 100]
    source = write_video(tmp_path / "in.mp4", times)
    assert run(source, tmp_path / f"out{ending}")[-1] == (7, 7)
    assert seconds(tmp_path / f"out{ending}") == pytest.approx([each / 100 for each in times], abs=0.0011)


@pytest.mark.parametrize(("source", "target"), [("in.mp4", "out.mp4"), ("in.mkv", "out.mkv"), ("in.mp4", "out.mkv")])
def test_the_sound_is_copied_bit_by_bit(tmp_path: Path, source: str, target: str) -> None:
    write_video(tmp_path / source, list(range(0, 100, 4)), sound="aac")
    run(tmp_path / source, tmp_path / target)
    before, after = sound(tmp_path / source), sound(tmp_path / target)
    assert [content for _, content in after] == [content for _, content in before]
    shift = first_time(tmp_path / target) - first_time(tmp_path / source)
    assert [at - shift for at, _ in after] == pytest.approx([at for at, _ in before], abs=0.0021)


def test_sound_that_mp4_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mkv", [0, 4], sound="pcm_s16le")
    with pytest.raises(ConfigError, match="an MP4 file cannot hold sound as pcm_s16le") as caught:
        run(source, tmp_path / "out.mp4")
    assert "out.mkv" in (caught.value.hint or "")
    assert [each.name for each in tmp_path.iterdir()] == ["in.mkv"]
    run(source, tmp_path / "out.mkv")
    assert sound(tmp_path / "out.mkv") == sound(source)


@pytest.mark.parametrize(("matrix", "size"), [(BT601, SIZE), (BT709, SIZE)])
def test_colours_are_kept(tmp_path: Path, matrix: int, size: tuple[int, int]) -> None:
    source = write_video(tmp_path / "in.mp4", [0, 4], matrix=matrix, size=size)
    run(source, tmp_path / "out.mp4", crf=1)
    for path in (source, tmp_path / "out.mp4"):
        first = frames(path)[0].pixels.astype(int)
        for index, colour in enumerate(COLOURS):
            row, column = divmod(index, 2)
            middle = first[12 + 24 * row, 16 + 32 * column]
            assert np.abs(middle - colour).max() <= 4, (path.name, index)
    with open_video(tmp_path / "out.mp4") as video:
        next(video.items())
        assert video.colours.matrix == matrix


def test_the_flag_of_high_dynamic_range_is_kept(tmp_path: Path, network_file: Callable[..., Path]) -> None:
    source = write_video(tmp_path / "in.mp4", [0, 4], transfer=18, matrix=9)
    run(source, tmp_path / "out.mp4")
    with open_video(tmp_path / "out.mp4") as video:
        next(video.items())
        assert video.colours.is_hdr
        assert (video.colours.transfer, video.colours.matrix) == (18, 9)


def turn(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a rotation into the header of an MP4's track."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)


ONE = 1 << 16
QUARTERS = {
    90: (0, ONE, 0, -ONE, 0, 0, SIZE[1] * ONE, 0, 1 << 30),
    180: (-ONE, 0, 0, 0, -ONE, 0, SIZE[0] * ONE, SIZE[1] * ONE, 1 << 30),
    270: (0, -ONE, 0, ONE, 0, 0, 0, SIZE[0] * ONE, 1 << 30),
}


@pytest.mark.parametrize(("clockwise", "matrix"), QUARTERS.items())
def test_rotated_videos_become_upright(tmp_path: Path, clockwise: int, matrix: tuple[int, ...]) -> None:
    source = write_video(tmp_path / "in.mp4", [0, 4])
    turn(source, matrix)
    run(source, tmp_path / "out.mp4", crf=1)
    wanted = np.rot90(patches(), -clockwise // 90).astype(int)
    with open_video(tmp_path / "out.mp4") as video:
        first = next(each for each in video.items() if isinstance(each, Frame))
        assert video.quarter_turns == 0
    assert first.pixels.shape == wanted.shape
    assert np.abs(first.pixels - wanted).mean() < 5


def test_all_frames_have_one_noise_field(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", [0, 4, 8, 12])
    network = Unchanged()
    list(stylize_video(network, source, tmp_path / "out.mp4", Settings(seed=3)))
    assert len(network.noises) == 4
    for noise in network.noises[1:]:
        np.testing.assert_array_equal(noise, network.noises[0])


def test_frames_of_an_odd_size_lose_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 63, 47, "bgr0"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(patches((63, 47)), format="rgb24")))
        out.mux(stream.encode(None))
    run(source, tmp_path / "out.mp4")
    assert frames(tmp_path / "out.mp4")[0].pixels.shape == (46, 62, 3)


def test_a_run_that_is_stopped_leaves_a_video_that_can_be_played(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", list(range(0, 400, 4)), sound="aac")
    target = tmp_path / "out.mp4"
    events = stylize_video(Unchanged(), source, target, Settings())
    list(itertools.islice(events, 60))
    events.close()
    assert not target.exists()
    assert len(frames(unfinished_path(target))) == 60
    assert sound(unfinished_path(target))


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_killed_run_leaves_a_video_that_can_be_played(
    tmp_path: Path, network_file: Callable[..., Path], ending: str
) -> None:
    import stylescore_apply

    network, source = network_file(), write_video(tmp_path / "in.mp4", list(range(0, 1600, 4)), size=(320, 240))
    target = tmp_path / f"out{ending}"
    paths = {"PYTHONPATH": str(Path(stylescore_apply.__file__).parents[1])}
    command = [sys.executable, "-m", "stylescore_apply", str(network), str(source), "--out", str(target), "-q"]
    process = subprocess.Popen(command, env=os.environ | paths)
    unfinished = unfinished_path(target)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (unfinished.exists() and unfinished.stat().st_size > 30_000):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    with av.open(str(unfinished)) as container:
        shown = []
        try:
            for frame in container.decode(video=0):
                shown.append(frame.pts)
        except av.FFmpegError:
            pass  # the last part may be cut in its middle
    assert len(shown) >= 20


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"rubbish" * 100)
    with pytest.raises(PictureError, match="is damaged or of an unknown format"):
        run(tmp_path / "a.mp4", tmp_path / "out.mp4")
    with pytest.raises(PictureError, match="there is no file"):
        run(tmp_path / "b.mp4", tmp_path / "out.mp4")
    with av.open(str(tmp_path / "c.mp4"), "w") as out:
        tone = out.add_stream("aac", rate=48000)
        chunk = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        chunk.rate = 48000
        out.mux(tone.encode(chunk))
        out.mux(tone.encode(None))
    with pytest.raises(PictureError, match="has no pictures, only sound"):
        run(tmp_path / "c.mp4", tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_the_command_stylizes_a_video_beside_pictures(
    tmp_path: Path, network_file: Callable[..., Path], photo_file: Callable[..., Path], capsys: Any, monkeypatch: Any
) -> None:
    network = network_file()
    monkeypatch.chdir(tmp_path)
    photo_file("in/a.png")
    write_video(tmp_path / "in" / "b.mp4", [0, 4, 8], sound="aac", transfer=16)
    assert exit_code([str(network), "in", "--out", "made", "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert [entry["status"] for entry in report["results"]] == ["made", "made"]
    assert report["results"][1]["frames"] == 3
    assert "high dynamic range" in printed.err
    assert len(frames(Path("made/b.mp4"))) == 3
    assert exit_code([str(network), "in", "--out", "made"]) == 0
    assert "2 skipped" in capsys.readouterr().err


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match="videos need PyAV, which is not installed") as caught:
        run(tmp_path / "a.mp4", tmp_path / "out.mp4")
    assert caught.value.hint == "pip install 'stylescore-apply[video]'"
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="--smooth and --noise moved need OpenCV"):
        run(tmp_path / "a.mp4", tmp_path / "out.mp4", smooth=0.5)


def panning(length: int, step: int) -> list[NDArray[np.uint8]]:
    """Return frames of a camera that moves over a smooth random picture."""
    import cv2

    large = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    scene = cv2.resize(large, (400, 160), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(scene[:, step * k : step * k + 240]) for k in range(length)]


def test_smoothing_lowers_the_flicker_of_moving_pictures() -> None:
    """Pictures with noise that changes from frame to frame: along the motion, the smoothed ones differ less."""
    from stylescore_apply.video.flow import Smoother

    step, rng = 3, np.random.default_rng(1)
    clip = panning(10, step)
    noisy = [np.clip(each + rng.normal(0, 12, each.shape), 0, 255).astype(np.uint8) for each in clip]
    smoother = Smoother(0.7)
    smooth = [smoother(photo, picture) for photo, picture in zip(clip, noisy, strict=True)]

    def flicker(pictures: list[NDArray[np.uint8]]) -> float:
        pairs = itertools.pairwise(each.astype(int) for each in pictures)
        return float(np.mean([np.abs(second[:, :-step] - first[:, step:]).mean() for first, second in pairs]))

    assert flicker(smooth) < 0.5 * flicker(noisy)
    assert np.abs(smooth[-1].astype(int) - clip[-1]).mean() < np.abs(noisy[-1].astype(int) - clip[-1]).mean()


def test_a_cut_to_another_scene_is_not_mixed() -> None:
    from stylescore_apply.video.flow import Smoother

    smoother = Smoother(0.9)
    dark, light = np.full((48, 64, 3), 20, np.uint8), np.full((48, 64, 3), 230, np.uint8)
    smoother(dark, dark)
    np.testing.assert_array_equal(smoother(light, light), light)


def test_the_network_of_a_video_is_run_by_onnxruntime(tmp_path: Path, network_file: Callable[..., Path]) -> None:
    source = write_video(tmp_path / "in.mp4", [0, 4])
    events = stylize_video(OnnxNetwork(network_file()), source, tmp_path / "out.mp4", Settings())
    assert [done for done, _ in events] == [1, 2]
    changed = np.abs(frames(tmp_path / "out.mp4")[0].pixels.astype(int) - frames(source)[0].pixels)
    assert changed.max() > 20


@pytest.fixture
def facts(network: OnnxNetwork) -> Facts:
    return network.facts


def textured(height: int, width: int) -> Any:
    """Return a picture of soft blobs, whose motion can be seen everywhere."""
    small = np.random.default_rng(1).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("step", [8, 2])
def test_noise_moves_with_a_pan_and_motion_within_a_cell_adds_up(facts: Facts, step: int) -> None:
    photo, frames = textured(96, 320), 9
    moving = MovingNoise(facts, 5)
    fields = [moving(np.ascontiguousarray(photo[:, step * k : step * k + 160])) for k in range(frames)]
    shift = step * (frames - 1) // 8
    np.testing.assert_array_equal(fields[0], noise_field(5, 2, (0, 12), (0, 20)))
    seen = 20 - shift  # the other columns came into sight later
    assert (fields[-1][..., :seen] == noise_field(5, 2, (0, 12), (shift, 20))).mean() > 0.95
    assert (fields[-1] == fields[0]).mean() < 0.1


def test_a_still_frame_keeps_its_noise_and_a_cut_begins_anew(facts: Facts) -> None:
    first, other = textured(96, 160), 255 - textured(96, 320)[:, 160:]
    moving = MovingNoise(facts, 5)
    own = moving(first)
    np.testing.assert_array_equal(moving(first), own)
    assert (moving(other) == own).mean() > 0.9


def test_tiles_take_their_part_of_a_given_noise(network_file: Callable[..., Path]) -> None:
    network = OnnxNetwork(network_file(facts={"bytes_per_pixel": 600}), threads=1)
    photo = textured(300, 402)
    noise = noise_field(9, 2, (0, 38), (0, 51))
    whole = stylize(network, photo, Settings(memory_limit=4096), noise)
    tiled = stylize(network, photo, Settings(memory_limit=64), noise)
    assert tile_side(network.facts, 300, 402, Settings(memory_limit=64)) is not None
    assert np.abs(whole.astype(int) - tiled).max() <= 1
    np.testing.assert_array_equal(whole, stylize(network, photo, Settings(seed=9)))
