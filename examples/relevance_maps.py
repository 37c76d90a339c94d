"""Shows relevance maps: photos in the first row, below them their maps, bright where the style acts.

Run it with `python examples/relevance_maps.py photo.jpg --style pencil-sketch`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.config.presets import preset_for
from stylescore.config.toml import overlay
from stylescore.images import Photo, contact_sheet
from stylescore.method.fit import fit

HERE = Path(__file__).parent
PHOTOS = tuple(HERE / f"{name}.jpg" for name in ("coffee", "chelsea", "astronaut", "rocket", "face", "lamps"))
DRAWS = 16
WITHOUT_CHANGE = {
    "relevance": {"strength": 1.0},
    "timesteps": {"sampler": "uniform"},
    "optimiser": {"name": "sgd", "lr": 1e-9},
    "refine": {"factor": 1.0},
}
"""Settings for the full map over all timesteps, while the picture stays the photo."""


def average_maps(stylizer: Stylizer, photo: Photo) -> Image.Image:
    """Return the mean of a run's relevance maps, enlarged to the photo's size."""
    maps = torch.stack([iteration.step.relevance[0, 0] for iteration in fit(stylizer.start([photo]))])
    gray = Image.fromarray((255 * maps.mean(0)).round().byte().cpu().numpy())
    return gray.resize(photo.picture.size, Image.Resampling.BICUBIC).convert("RGB")


def main(
    paths: Sequence[Path] = PHOTOS,
    style: str = "pencil-sketch",
    target: Path = Path("maps.png"),
    model: str = "mini",
    draws: int = DRAWS,
) -> Image.Image:
    """Write a sheet to `target`: the photos, and below each photo its map."""
    method = overlay(preset_for(model, None, "sms"), {"iterations": draws, **WITHOUT_CHANGE})
    stylizer = Stylizer(RunConfig(styles=(StyleChoice(name=style),), model=model, method=method))
    photos = [read_photo(path) for path in paths]
    sheet = contact_sheet([[photo.picture for photo in photos], [average_maps(stylizer, photo) for photo in photos]])
    sheet.save(target, quality=88)
    return sheet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="*", default=list(PHOTOS))
    parser.add_argument("--style", default="pencil-sketch")
    parser.add_argument("--target", type=Path, default=Path("maps.png"))
    arguments = parser.parse_args()
    main(arguments.photos, arguments.style, arguments.target)
