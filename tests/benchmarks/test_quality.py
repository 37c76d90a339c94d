"""The quality benchmark without its networks: the split, the work, the judge and the page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.quality import __main__ as command
from benchmarks.quality import page, weights, work
from benchmarks.quality.judging import LEAST_GRAIN, Artefacts, Judge, average
from benchmarks.quality.methods import MAIN, ONE_STEP, ROWS, SMALL, Row, Studio, select_methods
from benchmarks.quality.split import SIZES, Photos, read_part, split_rows
from PIL import Image
from torch import Tensor

from stylescore.assembly.one_step import load_one_step
from stylescore.catalog import places
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import ConfigError, ModelError
from stylescore_apply.stylizing import Settings
from stylescore_apply.stylizing import stylize as apply_network

FOLDERS = ("scenes", "flowers", "weather")


def records(count: int = 600) -> list[dict[str, Any]]:
    """Return records of photos, most of them of the first folder, every third held out."""
    return [
        {"folder": FOLDERS[(n % 7) // 3], "thing": f"thing {n}", "held_out": n % 3 == 0, "name": str(n)}
        for n in range(count)
    ]


def photos(count: int = 5, side: int = 8) -> Photos:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Photos(tuple(range(count)), ("",) * count, pixels)


def test_the_parts_are_disjoint_and_hold_all_photos_that_were_held_out() -> None:
    found = split_rows(records())
    rows = [row for part in found.values() for row in part]
    assert [len(found[part]) for part in SIZES] == [40, 24]
    assert sorted(rows) == [n for n in range(600) if n % 3 == 0]


def test_the_parts_are_the_same_every_time() -> None:
    assert split_rows(records()) == split_rows(records())
    assert split_rows(records())["test"][:3] == [459, 93, 27]


@pytest.mark.parametrize("part", ["test", "validation"])
def test_every_part_begins_with_photos_of_all_folders(part: str) -> None:
    table = records()
    rows = split_rows(table)[part]
    assert {table[row]["folder"] for row in rows[:3]} == set(FOLDERS)


def test_a_part_is_read_with_captions(tmp_path: Path) -> None:
    table = records(300)
    pixels = np.arange(300, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "photos.npy", pixels)
    (tmp_path / "photos.json").write_text(json.dumps(table), encoding="utf-8")
    read = read_part(tmp_path, "test", 2)
    assert read.rows == tuple(split_rows(table)["test"][:2])
    assert read.captions == tuple(f"a photo of thing {row}" for row in read.rows)
    assert (read.pixels[1] == read.rows[1] % 256).all()


def test_a_photo_goes_through_everything_before_the_next_one() -> None:
    jobs = work.plan(3, 2, ["ink", "oil"], ["a", "b"])
    assert [job.numbers for job in jobs] == [(0, 1)] * 4 + [(2,)] * 4
    assert [(job.style, job.method) for job in jobs[:4]] == [("ink", "a"), ("ink", "b"), ("oil", "a"), ("oil", "b")]


def test_shares_are_disjoint_and_together_the_whole() -> None:
    jobs = work.plan(4, 1, ["ink"], ["a", "b", "c"])
    shares = [work.select_share(jobs, f"{n}/5") for n in range(1, 6)]
    assert sum(map(len, shares)) == len(jobs)
    assert {job for share in shares for job in share} == set(jobs)


@pytest.mark.parametrize("share", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigError, match="I/N"):
        work.select_share([], share)


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Put two quick methods in the place of all; return a list of what they were asked for."""
    asked: list[tuple[str, int]] = []

    def make(studio: Any, style: str, some: Photos) -> list[Image.Image]:
        asked.extend((style, row) for row in some.rows)
        return [Image.fromarray(pixels) for pixels in some.pixels]

    monkeypatch.setattr(work, "ROWS", {name: Row(name, make) for name in ("a", "b")})
    return asked


def do(folder: Path, jobs: Sequence[work.Job], minutes: float = 1.0) -> int:
    studio: Any = None
    return len(list(work.run_jobs(folder, studio, photos(), jobs, minutes)))


def test_pictures_are_made_once_and_only_those_that_are_missing(tmp_path: Path, painted: list[Any]) -> None:
    jobs = work.plan(5, 2, ["ink"], ["a", "b"])
    assert do(tmp_path, jobs) == 6
    assert do(tmp_path, jobs) == 0
    painted.clear()
    work.picture_path(tmp_path, "b", "ink", 2).unlink()
    assert do(tmp_path, jobs) == 1
    assert painted == [("ink", 2)]
    assert np.array_equal(work.read_pictures(tmp_path, "b", "ink", 5), photos().pixels)


def test_only_photos_that_have_been_through_everything_count(tmp_path: Path, painted: list[Any]) -> None:
    assert work.count_complete(tmp_path, 5, ["ink"], ["a", "b"]) == 0
    do(tmp_path, work.plan(5, 1, ["ink"], ["a", "b"]))
    work.picture_path(tmp_path, "b", "ink", 3).unlink()
    assert work.count_complete(tmp_path, 5, ["ink"], ["a", "b"]) == 3
    assert work.count_complete(tmp_path, 5, ["ink"], ["a"]) == 5


def test_no_time_makes_no_picture(tmp_path: Path, painted: list[Any]) -> None:
    assert do(tmp_path, work.plan(5, 1, ["ink"], ["a"]), minutes=-1) == 0
    assert not painted


def test_pictures_of_another_model_are_not_mixed_in(tmp_path: Path) -> None:
    work.check_same_settings(tmp_path, {"model_sha256": "1", "seed": 0})
    work.check_same_settings(tmp_path, {"model_sha256": "1", "seed": 0})
    with pytest.raises(ConfigError, match="another model_sha256"):
        work.check_same_settings(tmp_path, {"model_sha256": "2", "seed": 0})


def colours(pictures: Tensor) -> Tensor:
    """Stand in for the network: features are the pictures' small copies."""
    return torch.nn.functional.adaptive_avg_pool2d(pictures, 4).flatten(1)


def apart(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().mean(dim=(1, 2, 3))


def tinted(seed: int, colour: tuple[int, int, int], count: int = 40) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 40, (count, 16, 16, 3))
    return (noise + np.array(colour)).astype(np.uint8)


RED, BLUE, GREY = (200, 20, 20), (20, 20, 200), (100, 100, 100)


def judge() -> Judge:
    drawn = {"red": tinted(1, RED), "blue": tinted(2, BLUE), "photo": tinted(3, GREY)}
    return Judge.train(apart, colours, drawn)


def test_the_judge_prefers_pictures_of_the_style() -> None:
    trained, sources = judge(), tinted(4, GREY)
    right = trained("red", tinted(5, RED), sources)
    wrong = trained("red", tinted(6, BLUE), sources)
    nothing = trained("red", sources, sources)
    assert trained.accuracy == 1
    assert (right["recognised"], wrong["recognised"], nothing["recognised"]) == (1, 0, 0)
    assert right["frechet"] < nothing["frechet"] < wrong["frechet"]  # type: ignore[operator]
    assert right["kernel"] == pytest.approx(0, abs=1e-3)
    assert nothing["content"] == 0
    assert right["both"] == pytest.approx((1 + right["content"]) * (1 + right["frechet"]))  # type: ignore[operator]


def test_pictures_of_the_style_have_no_artefacts() -> None:
    figures = judge()("red", tinted(5, RED), tinted(4, GREY))
    assert [figures[key] for key in ("overshoot", "grid", "grain")] == pytest.approx([0, 0, 0], abs=0.05)


def test_the_judge_sees_overshoot_grid_and_grain() -> None:
    trained, sources, right = judge(), tinted(4, GREY), tinted(5, RED)
    burnt, striped = right.copy(), right.copy()
    burnt[:, :4] = 255
    striped[:, ::8] += 15
    smooth = np.broadcast_to(right.mean(axis=(1, 2), keepdims=True), right.shape).astype(np.uint8)
    assert trained("red", burnt, sources)["overshoot"] == pytest.approx(0.25, abs=0.03)
    assert trained("red", striped, sources)["grid"] > 0.5  # type: ignore[operator]
    assert trained("red", smooth, sources)["grain"] > 5  # type: ignore[operator]


def test_artefacts_are_compared_with_the_styles_own() -> None:
    own = Artefacts(0.3, 2.0, 4.0)
    assert Artefacts(0.4, 8.0, 1.0).compare(own) == pytest.approx({"overshoot": 0.1, "grid": 2.0, "grain": 2.0})
    assert Artefacts(0.1, 1.0, 16.0).compare(own) == {"overshoot": 0.0, "grid": 0.0, "grain": 2.0}


def test_a_style_with_less_than_no_grid_asks_for_no_less_than_none() -> None:
    assert Artefacts(0.1, 0.9, 4.0).compare(Artefacts(0.1, 0.002, 4.0))["grid"] == 0
    assert Artefacts(0.1, 2.0, 4.0).compare(Artefacts(0.1, 0.002, 4.0))["grid"] == 1


def test_flat_pictures_have_artefacts_too() -> None:
    assert Artefacts.measure(np.full((2, 16, 24, 3), 100, dtype=np.uint8)) == Artefacts(
        0.0, pytest.approx(1), LEAST_GRAIN
    )


def test_one_picture_has_no_distances_of_sets() -> None:
    figures = judge()("red", tinted(5, RED, 1), tinted(4, GREY, 1))
    assert [key for key, value in figures.items() if value is None] == ["frechet", "kernel", "both"]
    assert "–" in page.format_cells(figures)


def test_an_average_of_what_is_not_known_is_not_known() -> None:
    assert average([{"a": 1.0, "b": None}, {"a": 2.0, "b": 3.0}]) == {"a": 1.5, "b": None}


def figures() -> dict[str, Any]:
    """Return what the command keeps, with figures that tell their place."""
    keys = list(page.COLUMNS)
    methods = {}
    for place, (name, row) in enumerate(ROWS.items()):
        values = (place / 100, place, place / 10, 0.5, place / 1000, 0.25, 1.5, 2.0 * place)
        one = dict(zip(keys, values, strict=True))
        methods[name] = {"words": row.label, "mean": one, "styles": {"ink": one, "oil": one}}
    return {
        "machine": {"torch": "2.9", "gpu": None, "processor": "a processor"},
        "model_sha256": "0123456789abcdef" * 4,
        "split": "test",
        "photos": 40,
        "styles": ["ink", "oil"],
        "seed": 0,
        "references": 120,
        "axes": {"count": 32, "share": 0.81},
        "classifier_accuracy": 0.97,
        "methods": methods,
    }


def test_the_page_holds_every_method_and_how_it_was_measured() -> None:
    text = page.render(figures())
    assert "| SMS without spectrum | 0.120 | 12.0 | 1.200 | 50% | 1.2% | 0.25 | 1.50 | 24.0 |" in text
    assert all(f"| {row.label} | " in text for row in ROWS.values())
    assert "| full | 0.326 | 0.140 | 18.7 | 28.0 |" in text
    assert "40 photos" in text
    assert "right for 97% of" in text
    assert "`0123456789abcdef`" in text
    assert max(map(len, page.HEAD.splitlines())) <= 120


def test_the_page_of_an_older_run_has_a_dash_for_what_it_lacks() -> None:
    older = figures()
    for entry in older["methods"].values():
        for some in (entry["mean"], *entry["styles"].values()):
            for key in ("overshoot", "grid", "grain"):
                some.pop(key, None)
    text = page.render(older)
    assert "| SMS without spectrum | 0.120 | 12.0 | 1.200 | 50% | – | – | – | 24.0 |" in text
    assert "| full | 0.326 | 0.140 | 18.7 | 28.0 |" in text


def test_the_page_of_few_methods_leaves_out_what_it_cannot_tell() -> None:
    few = figures()
    few["methods"] = {name: few["methods"][name] for name in ("source", "vsd")}
    assert "ablation" not in page.render(few)
    assert "Style by style" not in page.render(few)


def test_main_methods_may_have_more_photos_than_all_have() -> None:
    two = figures()
    two["photos"] = 8
    two["main"] = {"photos": 40, "methods": {name: two["methods"][name] for name in ("source", "sms-0.50")}}
    first, rest = page.render(two).split("## All methods")
    assert "| VSD |" not in first
    assert "| VSD |" in rest
    assert "first 8 of these photos" in rest
    assert "* 40 photos" in rest
    assert set(MAIN) < set(ROWS)


def test_all_methods_may_have_a_run_of_their_own() -> None:
    main, every = figures(), figures()
    main["methods"] = {name: main["methods"][name] for name in ("source", "sms-0.50")}
    every |= {"photos": 20, "remark": "One preset for all styles.", "machine": {"torch": "2.8", "gpu": "a GPU"}}
    first, rest = page.render(main, every=every).split("## All methods")
    assert "| VSD |" not in first
    assert "| VSD |" in rest
    assert "first 20 of these photos. One preset for all styles. Torch 2.8, a GPU.\n" in rest
    assert "The paper's ablation" in rest
    assert "* 40 photos" in rest
    own = main["model_sha256"]
    assert page.STALE not in page.render(main, own, every)
    assert page.STALE in page.render(main, own, {**every, "model_sha256": "another"})


@pytest.mark.usefixtures("painted")
def test_methods_are_compared_over_the_photos_that_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ROWS", work.ROWS)
    some = photos()
    for method, numbers in (("a", (0, 1, 2, 3)), ("b", (0, 1))):
        do(tmp_path, [work.Job(method, "red", numbers)])

    class Counting:
        def __call__(self, style: str, results: np.ndarray, shown: np.ndarray) -> dict[str, float | None]:
            return {"content": float(len(results)), "shown": float(len(shown))}

    for methods, count in ((["a", "b"], 2), (["a"], 4)):
        assert work.count_complete(tmp_path, 5, ["red"], methods) == count
        found = command.judge_methods(Counting(), tmp_path, some, ["red"], methods, count)  # type: ignore[arg-type]
        assert found["photos"] == count
        assert {name: entry["mean"] for name, entry in found["methods"].items()} == {
            name: {"content": count, "shown": count} for name in methods
        }


def test_the_documentations_page_is_made_from_the_saved_figures() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render_current()


def test_figures_of_another_model_are_marked() -> None:
    assert page.STALE in page.render(figures(), "another")
    assert page.STALE not in page.render(figures(), figures()["model_sha256"])


def options(*words: str) -> argparse.Namespace:
    return command.make_parser().parse_args(["--data", "data", "--out", "out", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "iterations=3"], "validation photos only"),
        (["--publish", "--split", "validation"], "are published"),
        (["--publish", "--share", "1/2"], "are published"),
        (["--figures-only", "--share", "1/2"], "--figures-only none"),
    ],
)
def test_the_test_photos_are_kept_for_the_table(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.check_options(options(*words))


def test_pictures_with_other_constants_lie_apart() -> None:
    validation = options("--split", "validation")
    folders = {
        str(command.picture_folder(validation, settings)) for settings in ({}, {"iterations": 3}, {"iterations": 4})
    }
    assert len(folders) == 3
    assert str(command.picture_folder(options(), {})) == str(Path("out/pictures"))


def test_methods_keep_the_tables_order() -> None:
    assert select_methods(["vsd", "source"]) == ["source", "vsd"]
    assert select_methods(None) == list(ROWS)


def test_generators_are_in_the_table_where_every_style_has_one() -> None:
    missing = {**dict.fromkeys(ONE_STEP, ("oil-painting",)), SMALL: ()}
    assert select_methods(None, missing) == [name for name in ROWS if name not in ONE_STEP]
    assert select_methods([*ONE_STEP, "dds"], dict.fromkeys(ONE_STEP, ())) == ["dds", *ONE_STEP]
    with pytest.raises(ConfigError, match="no one-step generator of oil-painting"):
        select_methods(ONE_STEP[:1], missing)
    with pytest.raises(ConfigError, match="no small network of van-gogh"):
        select_methods([SMALL], {SMALL: ("van-gogh",)})


def test_a_generator_of_the_table_is_applied_as_by_the_program() -> None:
    files = command.find_generators("mini")
    run = RunConfig(styles=(StyleChoice(name="van-gogh"),))
    studio = Studio(run, {}, {}, files)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 72, 3), dtype=np.uint8)
    network = load_one_step(files["van-gogh"])
    for passes, name in zip((1, 2, None), ONE_STEP, strict=True):
        (made,) = ROWS[name].make(studio, "van-gogh", Photos((0,), ("",), pixels))
        assert np.array_equal(np.asarray(made), apply_network(network, pixels[0], Settings(passes=passes)))
        assert made.size == (72, 64)


def test_the_page_has_the_small_networks_beside_the_others() -> None:
    cells = dict.fromkeys(page.COLUMNS, 0.5)
    methods = {name: {"words": name, "mean": cells, "styles": {"ink": cells}} for name in ("generator", "mobile")}
    small = {"styles": ["ink"], "methods": methods, "model_sha256": "m"}
    rows = [line for line in page.render_small(small).splitlines() if line.startswith("| ink")]
    assert [row.split("|")[2].strip() for row in rows] == list(page.BESIDE_SMALL.values())[1:]


def test_missing_weights_name_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="the weights 'st-lpips' are not installed") as caught:
        weights.load_networks(torch.device("cpu"))
    assert caught.value.hint == "pip install --no-deps stlpips-pytorch, or --weights st-lpips=FILE"
