"""How much a stylized video flickers: the difference of a frame and the last one after their known motion.

    python -m benchmarks.apply.flicker NETWORK.onnx [--photos examples/*.jpg] [--frames 24] [--step 3] [--single-pass]

A clip is a window that moves over a photo by whole pixels, so the motion of its frames is known exactly, and for the
photo itself the measure is 0. It is the mean absolute difference, in levels of 0 to 255, of a picture and the last one
moved by the step, over the part that both show. Six ways are compared: a new noise for each frame, one noise for the
whole clip, that with --smooth 0.5 and 0.8, and --noise moved with and without --smooth 0.5. The second column says how
far the pictures are from those of one noise without smoothing, the third one their contrast (the mean absolute
difference of neighbours in a row), since a clip of one colour would not flicker either. The network is applied as its
file states; `--single-pass` measures one whole pass instead.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measuring import save_results
from stylescore_apply.images.reading import read_photo
from stylescore_apply.networks import Network, OnnxNetwork
from stylescore_apply.stylizing import Pixels, Settings, stylize
from stylescore_apply.video.flow import Smoother
from stylescore_apply.video.noise import MovingNoise

WINDOW = 256, 192
"""Width and height of the clips."""
PLAIN = "one noise"
"""The way that the others are compared with."""
WAYS: dict[str, tuple[str, float]] = {
    "a new noise for each frame": ("new", 0.0),
    PLAIN: ("fixed", 0.0),
    "one noise, --smooth 0.5": ("fixed", 0.5),
    "one noise, --smooth 0.8": ("fixed", 0.8),
    "noise moved along the flow": ("moved", 0.0),
    "noise moved along the flow, --smooth 0.5": ("moved", 0.5),
}
"""What becomes of the noise, and how much is smoothed."""
AS_STATED = Settings()


def moving_window(photo: Pixels, frames: int, step: int) -> list[Pixels]:
    """Return a clip in which the camera moves to the right by `step` pixels a frame.

    Args:
        photo: at least as high as `WINDOW`, and wide enough for all frames.
        frames: length of the clip.
        step: whole pixels.
    """
    width, height = WINDOW
    top = (photo.shape[0] - height) // 2
    return [np.ascontiguousarray(photo[top : top + height, step * k : step * k + width]) for k in range(frames)]


def enlarged(path: Path, frames: int, step: int) -> Pixels:
    """Return a photo in the size that a clip needs."""
    picture = read_photo(path).picture
    width, height = WINDOW[0] + step * (frames - 1), WINDOW[1]
    scale = max(width / picture.width, height / picture.height, 1.0)
    size = round(picture.width * scale), round(picture.height * scale)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC))


def warped_difference(pictures: list[Pixels], step: int) -> float:
    """Return the mean absolute difference of neighbours after a motion of `step` pixels to the right, in levels."""
    pairs = itertools.pairwise(picture.astype(np.int16) for picture in pictures)
    return float(np.mean([np.abs(second[:, :-step] - first[:, step:]).mean() for first, second in pairs]))


def contrast(picture: Pixels) -> float:
    """Return the mean absolute difference of neighbours in a row, in levels."""
    return float(np.abs(np.diff(picture.astype(np.int16), axis=1)).mean())


def paint(
    network: Network, clip: list[Pixels], motion: str, smooth: float, settings: Settings = AS_STATED
) -> Iterator[Pixels]:
    """Yield the stylized frames of a clip."""
    smoother: Callable[[Pixels, Pixels], Pixels] = Smoother(smooth) if smooth else lambda photo, picture: picture
    moving = MovingNoise(network.facts, 0) if motion == "moved" else None
    for index, photo in enumerate(clip):
        drawn = replace(settings, seed=index if motion == "new" else 0)
        yield smoother(photo, stylize(network, photo, drawn, None if moving is None else moving(photo)))


def measure(
    network: Network, clips: list[list[Pixels]], step: int, settings: Settings = AS_STATED
) -> list[dict[str, Any]]:
    """Return a row for each way: its flicker, its distance from the pictures without smoothing, and its contrast."""
    painted = {name: [list(paint(network, clip, *way, settings)) for clip in clips] for name, way in WAYS.items()}
    plain, rows = painted[PLAIN], []
    for name, made in painted.items():
        pairs = zip(itertools.chain(*made), itertools.chain(*plain), strict=True)
        far = [np.abs(first.astype(int) - second).mean() for first, second in pairs]
        flicker = float(np.mean([warped_difference(each, step) for each in made]))
        mean_contrast = float(np.mean([contrast(picture) for picture in itertools.chain(*made)]))
        figures = {"flicker": flicker, "from_plain": float(np.mean(far)), "contrast": mean_contrast}
        rows.append({"way": name, **{key: round(value, 3) for key, value in figures.items()}})
    return rows


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--photos", nargs="+", type=Path, default=sorted(Path("examples").glob("*.jpg")))
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--step", type=int, default=3)
    parser.add_argument("--single-pass", action="store_true")
    given = parser.parse_args()
    network = OnnxNetwork(given.network)
    clips = [moving_window(enlarged(path, given.frames, given.step), given.frames, given.step) for path in given.photos]
    settings = Settings(passes=1, strength=1.0) if given.single_pass else AS_STATED
    rows = measure(network, clips, given.step, settings)
    for row in rows:
        print(f"{row['way']:<40} {row['flicker']:8.3f} {row['from_plain']:8.3f} {row['contrast']:8.3f}")
    facts = {"style": network.facts.style, "network": network.facts.network, "photos": len(clips)}
    name = "flicker_single_pass" if given.single_pass else "flicker"
    print(save_results(name, {**facts, "frames": given.frames, "step": given.step, "rows": rows}))


if __name__ == "__main__":
    main()
