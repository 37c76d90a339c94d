"""What networks have found is kept: an interrupted measurement goes on, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.evaluation.conftest import draw, hed_file
from tests.evaluation.test_run import request

from stylescore.errors import OutputError
from stylescore.evaluation import keeping
from stylescore.evaluation.keeping import KeptRows
from stylescore.evaluation.run import Evaluation, Request, run_evaluations
from stylescore.metrics.trunks import Trunk

METRICS = ("lpips-alex", "lpips-grey", "histogram", "hed-structure", "hed-gram", "hed-neighbours")


@pytest.fixture
def asked(folders: Path, alexnet_files: dict[str, str]) -> Request:
    """Return a request in two folders whose rows are kept, two pairs in a batch."""
    weights = {**alexnet_files, "hed": hed_file(folders)}
    return request(folders, "near", "far", weights=weights, metrics=METRICS, batch=2, draws=0, kept=folders / "rows")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of pictures whenever a network sees some."""
    found: list[int] = []
    forward = Trunk.forward
    monkeypatch.setattr(Trunk, "forward", lambda self, x, taps: found.append(len(x)) or forward(self, x, taps))
    return found


def figures(asked: Request) -> dict[str, dict[str, tuple[float, ...]]]:
    """Evaluate, and return the figures of all pairs."""
    evaluation = Evaluation(asked)
    steps = list(evaluation)
    assert steps[-1].done == steps[-1].total
    return {
        folder: {name: score.values for name, score in scores.items()}
        for folder, scores in evaluation.report.scores.items()
    }


def test_a_second_evaluation_asks_no_network_and_finds_the_same_bits(asked: Request, seen: list[int]) -> None:
    plain = figures(replace(asked, kept=None))
    assert not (asked.kept or Path()).exists()
    first = figures(asked)
    assert first == plain
    seen.clear()
    assert figures(asked) == first
    assert seen == []


def test_an_interrupted_evaluation_goes_on(asked: Request, seen: list[int]) -> None:
    whole = figures(replace(asked, kept=None))
    count = len(seen)
    for done in (3, 11, 19):
        seen.clear()
        for step in run_evaluations([Evaluation(asked)]):
            if step.done >= done:
                break
    rest = len(seen)
    seen.clear()
    assert figures(asked) == whole
    assert 0 < len(seen) < count
    assert rest < count


def test_only_the_batch_of_a_changed_picture_is_seen_again(folders: Path, asked: Request, seen: list[int]) -> None:
    figures(asked)
    draw(99).save(folders / "near" / "p1.png")
    seen.clear()
    changed = figures(asked)
    lpips, hed, style = 2 * (2 + 2), 2 + 2, 4  # results and photos, in colour and grey; the network remembers the style
    assert sum(seen) == lpips + hed + style
    assert changed == figures(replace(asked, kept=None))


@pytest.mark.parametrize(
    "change",
    [
        lambda asked: replace(asked, size=64),
        lambda asked: replace(asked, style=asked.style[:2]),
        lambda asked: replace(asked, weights={**asked.weights, "hed": hed_file(Path(asked.weights["hed"]).parent, 3)}),
    ],
    ids=["size", "style", "weights"],
)
def test_rows_of_another_size_style_or_network_are_not_taken(
    folders: Path, asked: Request, change: Callable[[Request], Request]
) -> None:
    draw(5, (160, 128)).save(folders / "near" / "p0.png")
    first, changed = figures(asked), change(asked)
    found = figures(changed)
    assert found == figures(replace(changed, kept=None))
    assert found["near"]["hed-gram"] != first["near"]["hed-gram"]


def test_a_damaged_file_is_made_again(asked: Request) -> None:
    whole = figures(asked)
    assert asked.kept is not None
    files = sorted(asked.kept.iterdir())
    for number, file in enumerate(files):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if number % 2 else b"")
    assert figures(asked) == whole
    assert sorted(asked.kept.iterdir()) == files
    assert all(file.stat().st_size > 8 for file in files)


def test_texts_are_part_of_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "photo").write_bytes(b"photo")
    kept = KeptRows.of_network(tmp_path / "rows", "clip", [], (), 512, "cpu")
    values = iter(range(4))

    def rows(*texts: str) -> float:
        found = kept.rows([tmp_path / "photo"], texts, lambda: {"score": torch.tensor([float(next(values))])})
        return float(found["score"])

    assert [rows("a", "b"), rows("a", "b"), rows("b", "a"), rows("a\n'b'"), rows("b", "a")] == [0, 0, 1, 2, 1]


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    kept = KeptRows.of_network(None, "clip", ["0" * 64], ())
    assert kept.rows([tmp_path / "missing"], (), lambda: {"score": torch.ones(1)})["score"] == 1


def test_a_folder_that_is_a_file_is_one_line(folders: Path, asked: Request) -> None:
    (folders / "rows").write_bytes(b"")
    with pytest.raises(OutputError, match="rows"):
        figures(asked)


def test_rows_of_other_code_are_not_taken(asked: Request, seen: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, hashes = figures(asked), keeping._code_hashes()
    assert len(set(hashes)) == 3
    count = len(seen)
    monkeypatch.setattr(keeping, "_code_hashes", lambda: (*hashes[:2], "another"))
    seen.clear()
    assert figures(asked) == whole
    assert len(seen) == count
