"""Memory that is computed: of a small network it is what a real pass keeps, and the page tells what the file tells."""

from __future__ import annotations

import json

from benchmarks.steps.estimate import PAGE, PUBLISHED, estimate, page


def test_the_page_tells_the_figures_that_doctor_shows() -> None:
    rows = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    assert PAGE.read_text(encoding="utf-8") == page(rows)


def test_less_is_kept_in_low_memory_and_more_at_a_larger_size() -> None:
    usual, low = estimate("mini", 128, low=False), estimate("mini", 128, low=True)
    larger = estimate("mini", 256, low=False)
    assert 0 < low["kept_gb"] < usual["kept_gb"] < larger["kept_gb"]
    assert low["others_gb"] == 0
