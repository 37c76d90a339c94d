"""Whole evaluations with random weights: figures, missing weights, unequal numbers, batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.evaluation.conftest import draw, hed_file

from stylescore.catalog import places
from stylescore.errors import ConfigError, ModelError
from stylescore.evaluation.catalogue import Sampling
from stylescore.evaluation.differences import compare_to_first
from stylescore.evaluation.pairs import Pairing, list_pictures, list_results, make_pairs
from stylescore.evaluation.reading import read_source, read_style, read_stylized
from stylescore.evaluation.run import Evaluation, Prompts, Request, run_evaluations
from stylescore.metrics import Lpips, colour_histogram, hellinger_distance
from stylescore.metrics.states import read_state
from stylescore.metrics.trunks import Trunk


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(places, "find_spec", lambda _: None)


def pairings(folders: Path, *names: str) -> dict[str, Pairing]:
    photos = list_pictures(folders / "photos")
    return {name: make_pairs(photos, list_results(folders / name)) for name in names}


def request(folders: Path, *names: str, **changes: Any) -> Request:
    base = Request(folders=pairings(folders, *names or ("near",)), style=list_pictures(folders / "style"), draws=50)
    return replace(base, **changes)


def run(asked: Request) -> Evaluation:
    evaluation = Evaluation(asked)
    steps = list(evaluation)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    return evaluation


def reasons(evaluation: Evaluation) -> Mapping[str, str]:
    return {entry.metric: entry.reason for entry in evaluation.report.skipped}


def test_figures_are_those_of_the_pure_functions(folders: Path, alexnet_files: dict[str, str]) -> None:
    evaluation = run(request(folders, weights=alexnet_files, metrics=("lpips-alex", "histogram")))
    pairs = pairings(folders, "near")["near"].pairs
    lpips = Lpips.with_alexnet(
        read_state(Path(alexnet_files["alexnet"])), read_state(Path(alexnet_files["lpips-alex"]))
    )
    read = [read_stylized(pair, 512) for pair in pairs]
    expected = torch.cat([lpips(read_source(result), result.picture) for result in read])
    scores = evaluation.report.scores["near"]
    assert scores["lpips-alex"].value == pytest.approx(float(expected.mean()), rel=1e-4)
    assert scores["lpips-alex"].values == pytest.approx(expected.tolist(), rel=1e-4)
    results, style = (
        torch.cat([colour_histogram(picture).flatten(1) for picture in pictures])
        for pictures in (
            [result.picture for result in read],
            [read_style(path, 512) for path in list_pictures(folders / "style")],
        )
    )
    assert scores["histogram"].value == pytest.approx(float(hellinger_distance(results, style).mean()), rel=1e-4)
    assert evaluation.report.weights["alexnet"].path == Path(alexnet_files["alexnet"])


def add_seeds(folders: Path) -> None:
    """Give two photos a second result in `near`, and one a result of another size."""
    for n in range(2):
        draw(70 + n).save(folders / "near" / f"p{n}-seed1.png")
    draw(80, (160, 128)).save(folders / "near" / "p3.png")


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_photo_goes_through_a_network_once_for_all_its_results_and_figures_stay(
    folders: Path, alexnet_files: dict[str, str], monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """The networks count the pictures they see; the figures are those of every folder and style by itself."""
    add_seeds(folders)
    weights = {**alexnet_files, "hed": hed_file(folders)}
    names = ("lpips-alex", "lpips-grey", "hed-structure", "hed-gram", "hed-neighbours")
    base = request(folders, "near", "far", weights=weights, metrics=names, batch=batch, draws=0)
    others = replace(base, style=list_pictures(folders / "photos")[:2])
    alone = [
        run(replace(asked, folders={name: pairing})).report.scores[name]
        for asked in (base, others)
        for name, pairing in asked.folders.items()
    ]
    seen: list[int] = []
    forward = Trunk.forward
    monkeypatch.setattr(Trunk, "forward", lambda self, x, taps: seen.append(len(x)) or forward(self, x, taps))
    together = [Evaluation(base), Evaluation(others)]
    steps = list(run_evaluations(together))
    assert (steps[-1].done, steps[-1].total) == (2 * (2 * 10 + 4 + 2), 2 * (2 * 10 + 4 + 2))
    results, sources, style = 2 * (6 + 4), 4 + 1, 4 + 2  # p3 is compared at two sizes
    assert sum(seen) == 2 * (results + sources) + results + sources + style
    for found, expected in zip([s for e in together for s in e.report.scores.values()], alone, strict=True):
        assert {name: score.values for name, score in found.items()} == {
            name: pytest.approx(score.values, rel=1e-4) for name, score in expected.items()
        }


def test_a_photo_that_one_evaluation_cannot_use_leaves_the_other(folders: Path, alexnet_files: dict[str, str]) -> None:
    base = request(folders, weights=alexnet_files, metrics=("lpips-alex",))
    Image.new("RGB", (40, 32)).save(folders / "photos" / "tiny.png")
    Image.new("RGB", (40, 32)).save(folders / "near" / "tiny.png")
    both = [Evaluation(base), Evaluation(replace(base, folders=pairings(folders, "near")))]
    list(run_evaluations(both))
    assert [set(each.report.scores["near"]) for each in both] == [{"lpips-alex"}, set()]
    assert "at least 35" in reasons(both[1])["lpips-alex"]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_does_not_matter(folders: Path, alexnet_files: dict[str, str], batch: int) -> None:
    names = ("lpips-alex", "lpips-grey", "histogram")
    base = request(folders, weights=alexnet_files, metrics=names)
    first, second = (run(replace(base, batch=size)).report.scores["near"] for size in (8, batch))
    for name in names:
        assert first[name].values == pytest.approx(second[name].values, rel=1e-4)


def test_photos_themselves_are_at_distance_zero(folders: Path, alexnet_files: dict[str, str]) -> None:
    evaluation = run(request(folders, "photos", weights=alexnet_files, metrics=("lpips-alex", "lpips-grey")))
    assert [score.value for score in evaluation.report.scores["photos"].values()] == [0, 0]


def test_a_missing_weight_leaves_out_its_metrics_and_no_others(folders: Path, st_lpips_file: str) -> None:
    evaluation = run(request(folders, weights={"st-lpips": st_lpips_file}))
    assert set(evaluation.report.scores["near"]) == {"st-lpips", "histogram"}
    found = reasons(evaluation)
    assert found["lpips-alex"] == found["artfid"] == "no weights of torchvision's AlexNet"
    assert found["pickscore"] == "no prompt"
    hints = {entry.metric: entry.hint for entry in evaluation.report.skipped}
    assert hints["cfsd"] == "--weights vgg19=timm/vgg19.tv_in1k:model.safetensors downloads them"


def test_without_pictures_of_the_style_content_is_still_measured(folders: Path, st_lpips_file: str) -> None:
    evaluation = run(request(folders, style=(), weights={"st-lpips": st_lpips_file}))
    assert set(evaluation.report.scores["near"]) == {"st-lpips"}
    assert reasons(evaluation)["histogram"] == "no pictures of the style"


def test_given_weights_of_another_network_stop_everything(folders: Path, st_lpips_file: str) -> None:
    with pytest.raises(ModelError, match="Inception v3 lack"):
        run(request(folders, weights={"inception": st_lpips_file}))


def test_installed_weights_that_cannot_be_read_leave_out_their_metrics(
    folders: Path, tmp_path: Path, st_lpips_file: str
) -> None:
    path = tmp_path / "torch" / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    evaluation = run(request(folders, weights={"st-lpips": st_lpips_file}, metrics=("cfsd", "st-lpips")))
    assert set(evaluation.report.scores["near"]) == {"st-lpips"}
    assert "cannot be read" in reasons(evaluation)["cfsd"]


def test_pictures_too_small_for_a_network_leave_out_its_metrics(folders: Path, alexnet_files: dict[str, str]) -> None:
    Image.new("RGB", (40, 32)).save(folders / "photos" / "tiny.png")
    Image.new("RGB", (40, 32)).save(folders / "near" / "tiny.png")
    evaluation = run(request(folders, weights=alexnet_files, metrics=("lpips-alex", "histogram")))
    assert set(evaluation.report.scores["near"]) == {"histogram"}
    assert "at least 35" in reasons(evaluation)["lpips-alex"]


def test_biased_distances_of_unequal_numbers_are_not_compared_unless_told(folders: Path, tmp_path: Path) -> None:
    (folders / "far" / "p3-watercolor.png").unlink()
    from stylescore.metrics.mobilenet import MobileNetFeatures

    path = tmp_path / "mobilenet.safetensors"
    save_file(MobileNetFeatures().state_dict(), path)
    both = request(folders, "near", "far", weights={"mobilenet": str(path)}, draws=20)
    names = ("mobilenet-frechet", "mobilenet-kernel")
    evaluation = run(replace(both, metrics=names))
    assert set(evaluation.report.scores["far"]) == {"mobilenet-kernel"}
    assert "different numbers of pictures (3, 4)" in reasons(evaluation)["mobilenet-frechet"]
    told = run(replace(both, metrics=names, unequal=True))
    assert set(told.report.scores["far"]) == set(names)
    shared = {name: pairing.only({"p0", "p1", "p2"}) for name, pairing in both.folders.items()}
    assert set(run(replace(both, folders=shared, metrics=names)).report.scores["near"]) == set(names)


def test_differences_are_taken_photo_by_photo(folders: Path, st_lpips_file: str) -> None:
    (folders / "far" / "p3-watercolor.png").unlink()
    asked = request(folders, "near", "far", weights={"st-lpips": st_lpips_file}, metrics=("st-lpips", "histogram"))
    report = run(asked).report
    found = compare_to_first(report.scores, asked.folders, Sampling(50, 0))["far"]["st-lpips"]
    near, far = (report.scores[name]["st-lpips"].values for name in ("near", "far"))
    assert found["photos"] == 3
    assert found["p"] == 2 / 2**3
    assert found["value"] == pytest.approx(sum(b - a for a, b in zip(near, far, strict=False)) / 3, rel=1e-4)
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert found["is_better"] is False


def test_prompts_take_the_captions_of_their_photos() -> None:
    pairing = Pairing((), (), ())
    prompts = Prompts(after="an oil painting, {caption}", before="{caption}", captions={"a": "a cat"})
    pair = make_pairs([Path("a.jpg"), Path("b.jpg")], list_named("a", "b")).pairs
    texts = prompts.of(pair)
    assert texts.after == ("an oil painting, a cat", "an oil painting")
    assert texts.before == ("a cat", "")
    assert prompts.of(pairing.pairs).after == ()


def list_named(*names: str) -> list[Any]:
    from stylescore.evaluation.pairs import Result

    return [Result(Path(f"{name}.png"), name) for name in names]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ("lpisp",)}, "there is no metric 'lpisp'"),
        ({"size": 63}, "--size must be 0 or from 64 to 4096, not 63"),
        ({"size": 5000}, "--size must be"),
        ({"batch": 0}, "--batch must be from 1 to 10000, not 0"),
        ({"batch": 10_001}, "--batch must be from 1 to 10000, not 10001"),
        ({"seed": -1}, r"--seed must be between 0 and 2\^63 - 1, not -1"),
        ({"seed": 2**63}, r"--seed must be between 0 and 2\^63 - 1, not 9223372036854775808"),
        ({"draws": 19}, "--bootstrap must be 0 or from 20"),
        ({"draws": -1}, "--bootstrap must be"),
        ({"weights": {"x": "y"}}, "there are no weights called 'x'"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(folders: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Evaluation(request(folders, **changes))
