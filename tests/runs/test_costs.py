"""What a run cost: parts are added up, a folder that does not say has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from stylescore.method.scores import PassCounter
from stylescore.runs.costs import NAME, Cost, Meter, read_cost, write_cost

COST = Cost(seconds=1.5, forward_passes=4, trained_passes=2, memory=10, device="cpu")


def test_a_cost_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_cost(tmp_path) is None
    write_cost(tmp_path, COST)
    assert read_cost(tmp_path) == COST
    for text in ("", "[]", "{}", '{"seconds": 1}'):
        (tmp_path / NAME).write_text(text, encoding="utf-8")
        assert read_cost(tmp_path) is None


def test_parts_of_an_interrupted_run_are_added() -> None:
    assert COST.after(None) == COST
    both = COST.after(replace(COST, seconds=2.0, memory=30))
    assert both == Cost(seconds=3.5, forward_passes=8, trained_passes=4, memory=30, device="cpu")
    assert COST.after(replace(COST, memory=None)).memory == 10


def test_a_batch_is_divided_among_its_pictures() -> None:
    counter = PassCounter(forward=100, trained=7)
    meter = Meter(torch.device("cpu"), counter)
    counter.forward += 12
    counter.trained += 4
    cost = meter.read(4)
    assert (cost.forward_passes, cost.trained_passes) == (3, 1)
    assert 0 <= cost.seconds < 60
    assert cost.memory is None or cost.memory > 2**20
