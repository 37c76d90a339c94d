"""Needs that are computed: passes and operations are those of real ones, and the page tells what the file tells."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.steps.estimate import PAGE, PUBLISHED, SETTINGS, at_most, estimate, operations, page, passes_of
from benchmarks.steps.living import most_bytes
from PIL import Image
from torch import Tensor

from stylescore.assembly.stylizer import Stylizer
from stylescore.config import presets
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.images import as_photo
from stylescore.method.fit import fit


def test_the_page_tells_the_figures_that_doctor_shows() -> None:
    rows = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    assert PAGE.read_text(encoding="utf-8") == page(rows)


def test_less_is_kept_in_low_memory_and_more_at_a_larger_size() -> None:
    usual, low, away = (estimate("mini", 128, setting) for setting in SETTINGS)
    larger = estimate("mini", 256, "normal")
    assert 0 < low["iteration_gb"] < usual["iteration_gb"] < larger["iteration_gb"]
    assert away["denoiser_gb"] < 0.2 * low["denoiser_gb"] == 0.2 * usual["denoiser_gb"]
    assert low["tflop"]["swift"] > usual["tflop"]["swift"] > 0
    assert away["moved_tb"]["balanced"] > usual["moved_tb"]["balanced"] == 0


def test_the_most_that_is_there_at_one_time() -> None:
    parts = {"denoiser": 100.0, "iteration": 7.0, "ends": 2.0, "texts": 3.0, "codec": 1.0}
    assert at_most(parts, saves=False) == 100 + 1 + 7
    assert at_most({**parts, "texts": 30.0}, saves=False) == 100 + 1 + 30
    assert at_most({**parts, "ends": 20.0}, saves=False) == 100 + 1 + 20
    assert at_most(parts, saves=True) == 100 + 7
    assert at_most({**parts, "ends": 20.0, "texts": 90.0}, saves=True) == 100 + 1 + 20


def test_memory_is_counted_while_it_is_there() -> None:
    def work() -> Tensor:
        first = torch.ones(1000)
        second = first + 1  # two there
        del first
        return second.view(10, 100) * 2  # two again

    assert most_bytes(work) == 2 * 4000
    weight = torch.ones(1000, requires_grad=True)
    assert most_bytes(lambda: (weight * 2).exp().sum().backward()) >= 2 * 4000


def test_memory_that_is_counted_is_memory_that_is_taken() -> None:
    """A chain of layers: without gradient two tensors at once, with gradient what every layer keeps."""
    layers = torch.nn.Sequential(*[part for _ in range(5) for part in (torch.nn.Linear(64, 64), torch.nn.Tanh())])
    x, one = torch.ones(100, 64), 4 * 6400
    with torch.no_grad():
        assert most_bytes(lambda: layers(x)) == 2 * one
    kept = most_bytes(lambda: layers(x))
    assert 5 * one <= kept <= 7 * one


@pytest.mark.parametrize("preset", ["balanced", "swift"])
def test_a_run_makes_the_passes_that_are_computed(preset: str) -> None:
    method = replace(presets.load(preset), iterations=2)
    stylizer = Stylizer(RunConfig(styles=(StyleChoice(name="watercolor"),), method=method, size=64))
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
