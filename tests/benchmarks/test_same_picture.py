"""Differences of pictures, and that every way is a run that can be had."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.same_picture import ALL_PASSES, PLAINEST, WAYS, difference, made, table
from PIL import Image

from stylescore.config.presets import preset_for
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.config.toml import overlay
from stylescore.images import as_photo


def test_differences_in_closed_form() -> None:
    black = np.zeros((2, 2, 3), dtype=np.uint8)
    spot = black.copy()
    spot[0, 0, 0] = 255
    assert difference(black, black) == {"largest": 0, "mean": 0, "psnr_db": None}
    assert difference(spot, black) == {"largest": 255, "mean": 21.25, "psnr_db": pytest.approx(10.8)}


def test_the_table_shows_the_worst_picture_of_a_way() -> None:
    rows = [{"way": "fast", "largest": n, "mean": n / 10, "psnr_db": 50.0 - n} for n in (3, 7)]
    assert table(rows).splitlines()[2:] == ["| fast | 7 | 0.70 | 43.0 |"]
    exact = {"way": "exact", "largest": 0, "mean": 0, "psnr_db": None}
    assert table([exact]).splitlines()[2:] == ["| exact | 0 | 0.00 | the same |"]
    assert table([{**exact, "psnr_db": 70.0}, exact]).splitlines()[2:] == ["| exact | 0 | 0.00 | 70.0 |"]


def test_scores_in_one_call_give_the_same_picture_and_another_seed_does_not() -> None:
    method = overlay(preset_for("mini", None, None), {**ALL_PASSES, "iterations": 3})
    run = RunConfig(styles=(StyleChoice(name="oil-painting"),), method=method, size=64)
    photo = as_photo(Image.linear_gradient("L").convert("RGB").resize((64, 64)))
    plain = made(run, WAYS[PLAINEST].batched, photo)
    assert difference(made(run, WAYS["scores in one call"].batched, photo), plain)["largest"] <= 1
    assert difference(made(RunConfig(**{**vars(run), "seed": 1}), False, photo), plain)["largest"] > 1
