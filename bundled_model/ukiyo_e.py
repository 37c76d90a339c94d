"""Stage 6, another source: square crops of nine ukiyo-e prints, with captions, for ``stylescore train-style``.

The prints, by Hokusai and Hiroshige and in the public domain, are jigsaw puzzles of the learning game GCompris:
``paintings.rcc`` of Debian's package ``gcompris-qt-data`` (3.1), GPL-3+.

Usage: ``python -m bundled_model.ukiyo_e --rcc FILE --out DIR``
"""

from __future__ import annotations

import argparse
import csv
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from math import ceil
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

SIDE = 256
SMALLEST = 200
"""No crop has a shorter side, in pixels of the print."""

DIRECTORY, ZLIB, ZSTD = 2, 1, 4

PIECE = re.compile(r'"pixmapfile"\s*:\s*"image/(\w+?)_(\w+\.webp)",\s*"x"\s*:\s*"([\d.]+)",\s*"y"\s*:\s*"([\d.]+)"')
BOARD = re.compile(r'"width"\s*:\s*(\d+),\s*"height"\s*:\s*(\d+)')

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Print:
    """What one print shows and where, as fractions of the trimmed print."""

    things: tuple[tuple[str, Box], ...]
    writing: tuple[Box, ...] = ()
    trim: tuple[int, int, int, int] = (4, 4, 4, 4)


PRINTS = {
    "EjiriSuruga": Print(
        (
            ("people", (0.12, 0.67, 0.23, 0.95)),
            ("people", (0.35, 0.66, 0.48, 0.94)),
            ("people", (0.48, 0.55, 0.66, 0.8)),
            ("people", (0.7, 0.56, 0.82, 0.72)),
            ("trees", (0.2, 0.0, 0.45, 0.55)),
            ("a mountain", (0.07, 0.2, 0.42, 0.42)),
            ("fields", (0.0, 0.48, 1.0, 1.0)),
        ),
        writing=((0.04, 0.03, 0.12, 0.32),),
        trim=(4, 4, 6, 4),
    ),
    "GreatWave": Print(
        (
            ("a wave", (0.1, 0.05, 0.6, 0.65)),
            ("a wave", (0.2, 0.55, 0.6, 1.0)),
            ("the sea", (0.0, 0.5, 1.0, 1.0)),
            ("a boat", (0.55, 0.52, 0.93, 0.78)),
            ("a boat", (0.4, 0.76, 0.83, 0.95)),
            ("a boat", (0.0, 0.48, 0.2, 0.73)),
            ("a mountain", (0.58, 0.63, 0.71, 0.77)),
        ),
        writing=((0.0, 0.03, 0.07, 0.3),),
    ),
    "HiroshigeHorsePrawns": Print(
        (
            ("fish", (0.18, 0.58, 0.96, 0.97)),
            ("fish", (0.18, 0.68, 0.4, 0.95)),
            ("fish", (0.35, 0.75, 0.65, 0.97)),
            ("fish", (0.5, 0.58, 0.85, 0.85)),
            ("prawns", (0.05, 0.1, 0.33, 0.36)),
            ("prawns", (0.05, 0.36, 0.35, 0.55)),
            ("leaves", (0.48, 0.3, 0.75, 0.62)),
        ),
        writing=((0.69, 0.08, 0.86, 0.37), (0.86, 0.04, 0.97, 0.5), (0.02, 0.62, 0.1, 0.9)),
    ),
    "HiroshigeInokashiraSnow": Print(
        (
            ("a temple", (0.25, 0.4, 0.5, 0.75)),
            ("trees in snow", (0.27, 0.12, 0.6, 0.45)),
            ("trees in snow", (0.0, 0.32, 0.2, 0.55)),
            ("trees in snow", (0.58, 0.4, 0.75, 0.7)),
            ("trees in snow", (0.85, 0.4, 1.0, 0.55)),
            ("a bridge", (0.2, 0.75, 0.62, 1.0)),
            ("a lake", (0.0, 0.55, 1.0, 1.0)),
        ),
        writing=((0.69, 0.03, 1.0, 0.42),),
        trim=(12, 12, 12, 12),
    ),
    "HokusaiBridge": Print(
        (
            ("a boat with people", (0.3, 0.5, 0.97, 0.92)),
            ("a boat with people", (0.3, 0.55, 0.65, 0.92)),
            ("a boat with people", (0.55, 0.5, 0.97, 0.92)),
            ("a river", (0.0, 0.5, 1.0, 1.0)),
            ("a bridge", (0.0, 0.4, 0.45, 0.58)),
            ("a roof", (0.0, 0.65, 0.22, 0.92)),
        ),
        writing=((0.05, 0.05, 0.14, 0.33),),
    ),
    "HokusaiOiranKamuro": Print(
        (
            ("a woman", (0.12, 0.1, 0.7, 0.5)),
            ("a woman", (0.2, 0.1, 0.52, 0.27)),
            ("a girl", (0.6, 0.27, 0.9, 0.5)),
            ("a kimono", (0.1, 0.28, 0.75, 0.97)),
            ("a kimono", (0.1, 0.6, 0.75, 0.97)),
        )
    ),
    "HokusaiPoppies": Print(
        (
            ("poppies", (0.3, 0.0, 0.62, 0.42)),
            ("poppies", (0.05, 0.13, 0.2, 0.38)),
            ("poppies", (0.7, 0.5, 0.87, 0.72)),
            ("poppies", (0.42, 0.74, 0.8, 1.0)),
            ("leaves", (0.0, 0.3, 0.35, 1.0)),
            ("leaves", (0.38, 0.48, 0.8, 0.75)),
        ),
        writing=((0.93, 0.52, 1.0, 0.92),),
    ),
    "HokusaiWomanHoldingFan": Print(
        (
            ("a woman", (0.05, 0.0, 0.9, 0.62)),
            ("a woman", (0.35, 0.2, 0.75, 0.55)),
            ("a kimono", (0.05, 0.5, 0.95, 1.0)),
            ("a fan", (0.0, 0.83, 0.65, 1.0)),
        ),
        trim=(14, 14, 21, 27),
    ),
    "KazusaSeaRoute": Print(
        (
            ("a ship", (0.08, 0.55, 0.93, 0.9)),
            ("a ship", (0.55, 0.45, 0.93, 0.8)),
            ("a sail", (0.4, 0.12, 0.7, 0.68)),
            ("a sail", (0.72, 0.33, 0.88, 0.55)),
            ("the sea", (0.0, 0.5, 1.0, 1.0)),
        ),
        writing=((0.04, 0.08, 0.14, 0.36),),
    ),
}
"""The ukiyo-e prints among the paintings, by the stem of their pieces' names."""


def read_resources(packed: bytes) -> Iterator[tuple[str, bytes]]:
    """The files in a Qt resource container: their paths and contents."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", packed)
    if magic != b"qres":
        raise ValueError(f"a Qt resource file starts with b'qres', this one with {magic!r}")
    size = 14 if version == 1 else 22
    waiting = [(0, "")]
    while waiting:
        index, parent = waiting.pop()
        node = tree + size * index
        name, flags, first, second = struct.unpack_from(">IHII", packed, node)
        path = f"{parent}/{name_at(packed, names + name)}" if index else ""
        if flags & DIRECTORY:
            waiting += [(child, path) for child in range(second, second + first)]
        else:
            (start,) = struct.unpack_from(">I", packed, node + 10)
            yield path, content_at(packed, data + start, flags)


def name_at(packed: bytes, start: int) -> str:
    """A name: its length, a hash, UTF-16."""
    (length,) = struct.unpack_from(">H", packed, start)
    return packed[start + 6 : start + 6 + 2 * length].decode("utf-16-be")


def content_at(packed: bytes, start: int, flags: int) -> bytes:
    """A file's bytes: their length, then the bytes, compressed or not."""
    (length,) = struct.unpack_from(">I", packed, start)
    content = packed[start + 4 : start + 4 + length]
    if flags & ZSTD:
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return zlib.decompress(content[4:]) if flags & ZLIB else content


def assemble(board: str, images: dict[str, bytes]) -> Image.Image:
    """Place a board's pieces at their centres, which are fractions of its size."""
    width, height = map(int, BOARD.search(board).groups())
    placed = []
    for stem, name, x, y in PIECE.findall(board):
        piece = Image.open(BytesIO(images[f"{stem}_{name}"])).convert("RGBA")
        left, top = float(x) * width - piece.width / 2, float(y) * height - piece.height / 2
        placed.append((piece, round(left), round(top)))
    left, top = min(x for _, x, _ in placed), min(y for _, _, y in placed)
    size = max(x + p.width for p, x, _ in placed) - left, max(y + p.height for p, _, y in placed) - top
    whole = Image.new("RGBA", size)
    for piece, x, y in placed:
        whole.alpha_composite(piece, (x - left, y - top))
    return without_holes(whole).convert("RGB")


def without_holes(picture: Image.Image) -> Image.Image:
    """Fill what no piece covers, a pixel here and there, with the colour around it."""
    filled = picture.reduce(4).resize(picture.size)
    filled.putalpha(255)
    filled.alpha_composite(picture)
    return filled


def read_prints(packed: bytes) -> dict[str, Image.Image]:
    """The ukiyo-e prints in ``paintings.rcc``, whole and without their borders."""
    files = {PurePosixPath(path).name: content for path, content in read_resources(packed)}
    boards = [content.decode("utf-8") for name, content in files.items() if name.startswith("board")]
    by_stem = {match[1]: board for board in boards if (match := PIECE.search(board))}
    return {stem: trimmed(assemble(by_stem[stem], files), shown.trim) for stem, shown in sorted(PRINTS.items())}


def trimmed(picture: Image.Image, trim: tuple[int, int, int, int]) -> Image.Image:
    """Cut so many pixels off the left, the top, the right and the bottom."""
    left, top, right, bottom = trim
    return picture.crop((left, top, picture.width - right, picture.height - bottom))


def squares(width: int, height: int) -> Iterator[Box]:
    """Squares of three sizes that overlap by half or more, the largest as high or wide as the print."""
    largest = min(width, height)
    smallest = max(largest / 2, SMALLEST)
    for side in np.geomspace(largest, smallest, 3).round():
        for top, left in product(starts(height, side), starts(width, side)):
            yield left, top, left + side, top + side


def starts(length: int, side: float) -> np.ndarray:
    """Where the squares begin along one edge."""
    return np.linspace(0, length - side, ceil((length - side) / (side / 2)) + 1).round()


def area(box: Box) -> float:
    """The area of a box; 0 if it is inside out."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def common(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def caption(shown: Print, crop: Box) -> str:
    """Name up to three things of which the crop shows much or that fill much of it."""
    seen = [name for name, box in shown.things if common(box, crop) > 0.4 * min(area(box), area(crop))]
    return ", ".join(list(dict.fromkeys(seen))[:3])


def crops(shown: Print, picture: Image.Image) -> Iterator[tuple[Image.Image, str]]:
    """Square crops and captions, without those that show nothing and smaller ones with writing."""
    width, height = picture.size
    for square in squares(width, height):
        crop = (square[0] / width, square[1] / height, square[2] / width, square[3] / height)
        written = any(common(box, crop) > 0.1 * area(box) for box in shown.writing)
        small = square[2] - square[0] < min(picture.size)
        said = caption(shown, crop)
        if said and not (written and small):
            yield picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=square), said


def unpack(rcc: Path, out: Path) -> int:
    """Write the crops as PNG files and their captions to ``captions.csv``; returns how many."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for stem, picture in read_prints(rcc.read_bytes()).items():
        for number, (crop, said) in enumerate(crops(PRINTS[stem], picture)):
            crop.save(out / f"{stem}-{number:02d}.png")
            rows.append((f"{stem}-{number:02d}.png", said))
    with (out / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])
    return len(rows)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rcc", type=Path, required=True, help="paintings.rcc of gcompris-qt-data")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(unpack(arguments.rcc, arguments.out), "pictures")


if __name__ == "__main__":
    main()
