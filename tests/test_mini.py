"""The bundled model and its styles, as somebody meets them who has just installed the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stylescore import stylize
from stylescore.catalog.registry import BUNDLED, list_styles
from stylescore.cli.main import exit_code
from stylescore.config.presets import preset_for
from stylescore.lora.report import describe

MINI = BUNDLED / "mini"
PHOTO = Path(__file__).parent / "data" / "parity" / "input_128x128.png"


def bundled() -> list[str]:
    return [entry.name for entry in list_styles() if entry.bundled]


def test_there_are_styles() -> None:
    assert len(bundled()) >= 8


@pytest.mark.parametrize("entry", [entry for entry in list_styles() if entry.bundled], ids=lambda entry: entry.name)
def test_every_style_is_sound_and_tells_what_it_is(entry: object) -> None:
    report = describe(entry.path)  # type: ignore[attr-defined]

    assert report.usable, report.reason
    assert report.unet.total > 0
    assert report.trigger_words
    assert report.base_model


def test_its_preset_is_sound() -> None:
    from stylescore.config.ranges import check_method

    assert check_method(preset_for("mini", None, None)).iterations > 0


def test_the_shortest_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["stylize", str(PHOTO), "--style", bundled()[0], "--output", str(tmp_path), "--iterations", "2"]

    assert exit_code([*arguments, "--quiet"]) == 0
    out, err = capfd.readouterr()
    picture = Image.open(out.strip())
    assert err == ""
    assert picture.size == (128, 128)
    assert np.asarray(picture).std() > 5


def test_styles_differ() -> None:
    first, second = (
        np.asarray(stylize(PHOTO, name, size=64, settings={"iterations": 6}).picture).astype(int)
        for name in bundled()[:2]
    )

    assert np.abs(first - second).mean() > 0.5


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Return brightness in 16 x 16 pixel means, as one row."""
    gray = pixels.mean(-1)
    rows, columns = (size // 16 for size in gray.shape)
    return gray[: 16 * rows, : 16 * columns].reshape(rows, 16, columns, 16).mean((1, 3)).ravel()


def test_a_pencil_sketch_has_no_colour_and_still_shows_the_photo() -> None:
    photo = Path(__file__).parents[1] / "examples" / "coffee.jpg"

    result = stylize(photo, "pencil-sketch", size=128)

    before, after = (np.asarray(p).astype(float) for p in (result.photo.picture, result.picture))
    colour = [float(np.ptp(pixels, axis=-1).mean()) for pixels in (before, after)]
    assert colour[1] < 0.35 * colour[0]
    assert np.corrcoef(luminance(before), luminance(after))[0, 1] > 0.7


def test_without_a_step_the_picture_is_still_the_photo() -> None:
    """The autoencoder alone brings the photo back, roughly."""
    settings = {"iterations": 1, "optimiser": {"lr": 1e-9, "warmup": 0}}

    result = stylize(PHOTO, bundled()[0], settings=settings)

    difference = np.asarray(result.picture).astype(float) - np.asarray(result.photo.picture).astype(float)
    assert np.sqrt((difference**2).mean()) < 32
