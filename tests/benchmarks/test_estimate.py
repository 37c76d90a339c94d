"""Needs that are computed: passes and operations are those of real ones, and the page tells what the file tells."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.steps.estimate import PAGE, PUBLISHED, estimate, operations, page, passes_of
from PIL import Image

from stylescore import presets
from stylescore.api import as_photo
from stylescore.config import RunConfig, StyleChoice
from stylescore.fit import fit
from stylescore.stylizer import Stylizer


def test_the_page_tells_the_figures_that_doctor_shows() -> None:
    rows = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    assert PAGE.read_text(encoding="utf-8") == page(rows)


def test_less_is_kept_in_low_memory_and_more_at_a_larger_size() -> None:
    usual, low = estimate("mini", 128, low=False), estimate("mini", 128, low=True)
    larger = estimate("mini", 256, low=False)
    assert 0 < low["kept_gb"] < usual["kept_gb"] < larger["kept_gb"]
    assert low["texts_gb"] == low["codec_gb"] == 0
    assert low["tflop"]["swift"] > usual["tflop"]["swift"] > 0


@pytest.mark.parametrize("preset", ["balanced", "swift"])
def test_a_run_makes_the_passes_that_are_computed(preset: str) -> None:
    method = replace(presets.load(preset), iterations=2)
    stylizer = Stylizer(RunConfig(styles=(StyleChoice(name="watercolor"),), method=method, size=64, device="cpu"))
    fitting = stylizer.start([as_photo(Image.new("RGB", (64, 64)))])
    for _ in fit(fitting):
        pass
    assert fitting.counter.snapshot() == passes_of(method)


def test_operations_of_a_layer_and_of_attention() -> None:
    x, w = torch.ones(3, 5), torch.ones(5, 7, requires_grad=True)
    assert operations(lambda: x @ w) == (2 * 3 * 5 * 7, 2 * 2 * 3 * 5 * 7)
    q = torch.ones(1, 2, 4, 8, requires_grad=True)
    forward, both = operations(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert forward == 2 * (2 * 2 * 4 * 4 * 8)
    assert both == 3 * forward
