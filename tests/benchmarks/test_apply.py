"""The benchmarks of applying run, and the measure of flicker is right where its value is known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from benchmarks.apply.flicker import contrast, enlarged, measure, moving_window, warped_difference
from tests.apply.tiny import build

from stylescore_apply.networks import OnnxNetwork

ROOT = Path(__file__).parents[2]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(build(), tmp_path / "blur.onnx")
    return tmp_path / "blur.onnx"


@pytest.fixture
def clip() -> list[np.ndarray]:
    return moving_window(enlarged(ROOT / "examples" / "chelsea.jpg", 6, 4), 6, 4)


def test_a_moving_photo_does_not_flicker(clip: list[np.ndarray]) -> None:
    assert warped_difference(clip, 4) == 0
    assert warped_difference(clip, 3) > 1  # another motion than theirs


def test_a_known_difference_is_measured(clip: list[np.ndarray]) -> None:
    darker = [np.minimum(picture, 245) + np.uint8(10 * (index % 2)) for index, picture in enumerate(clip)]
    assert warped_difference(darker, 4) == pytest.approx(10)


def test_one_noise_and_smoothing_flicker_less(network: Path, clip: list[np.ndarray]) -> None:
    rows = measure(OnnxNetwork(network, threads=1), [clip], 4)
    flicker = [row["flicker"] for row in rows]
    assert flicker[0] > flicker[1] > flicker[2] > flicker[3] > 0
    assert rows[1]["from_plain"] == 0


def test_contrast_is_the_difference_of_neighbours_in_a_row() -> None:
    stripes = np.tile(np.array([0, 10], dtype=np.uint8)[None, :, None], (4, 3, 3))
    assert contrast(stripes) == 10
    assert contrast(np.swapaxes(stripes, 0, 1)) == 0


def test_noise_that_moves_with_the_picture_flickers_less_than_one_that_stays(network: Path) -> None:
    photo = enlarged(ROOT / "examples" / "chelsea.jpg", 6, 8)
    clip = moving_window(photo, 6, 8)  # by a cell of the noise for each frame
    flicker = {row["way"]: row["flicker"] for row in measure(OnnxNetwork(network, threads=1), [clip], 8)}
    assert flicker["noise moved along the flow"] < 0.5 * flicker["one noise"]


def test_a_row_of_the_speed_is_measured(network: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.apply.row", str(network), "96x64", "1", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["size"], row["tile"]) == ("96x64", None)
    assert row["pictures_per_second"] > 0
    assert 10 < row["peak_mib"] < 2000
