"""`stylescore benchmark` on the command line: what it makes, what it leaves, what it refuses."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from tests.apply.tiny import build
from tests.baselines.networks import write_weights

from stylescore.runs.costs import read_cost
from stylescore_apply.networks import OnnxNetwork
from stylescore_apply.stylizing import Settings, stylize

QUICK = ("--size", "64", "--iterations", "2", "--metrics", "histogram,hed-gram", "--bootstrap", "20", "--device", "cpu")


@pytest.fixture
def place(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("photos", "pictures"):
        (tmp_path / name).mkdir()
    with Image.open(photo) as picture:
        picture.save(tmp_path / "photos" / "one.png")
        picture.rotate(90).save(tmp_path / "photos" / "two.png")
        picture.convert("L").save(tmp_path / "pictures" / "grey.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stylescore.catalog.places.find_spec", lambda _: None)
    return tmp_path


@pytest.fixture
def benchmark(program: Callable[..., Any], tiny: Path, style: Path, place: Path) -> Callable[..., Any]:
    def call(*arguments: object) -> Any:
        return program("benchmark", "photos", "--model", tiny, "--style", style, *QUICK, "--quiet", *arguments)

    return call


def test_a_grid_is_made_once_measured_and_gone_on_with(benchmark: Callable[..., Any], place: Path) -> None:
    grid = ("--methods", "sdedit,sms", "--ablations", "spectrum", "--knob", "0.5", "--style-pictures", "pictures")
    first = benchmark(*grid)
    assert (first.code, first.err) == (0, "")
    page = place / first.out.strip()
    assert page == place / "benchmark" / "report.html"
    folders = sorted((place / "benchmark" / "runs" / "style_lora_kohya").iterdir())
    assert [folder.name for folder in folders] == ["sdedit-0.5-seed0", "sms-0.5-seed0", "sms-spectrum-0.5-seed0"]
    run = folders[1] / "one-style_lora_kohya"
    assert tomllib.loads((run / "config.toml").read_text("utf-8"))["command"] == "stylize"
    cost = read_cost(run)
    assert cost is not None
    assert cost.seconds > 0
    assert cost.trained_passes == 2
    found = json.loads(page.with_name("results.json").read_text("utf-8"))["results"]["style_lora_kohya"]
    assert {key: entry["pairs"] for key, entry in found["folders"].items()} == {
        "sms-0.5": 2,
        "sms-spectrum-0.5": 2,
        "sdedit-0.5": 2,
    }
    assert set(found["folders"]["sms-0.5"]["metrics"]) == {"histogram"}
    assert [entry["metric"] for entry in found["skipped"]] == ["hed-gram"]
    assert found["differences"]["sdedit-0.5"]["histogram"]["photos"] == 2

    rows = {path: path.stat().st_mtime_ns for path in (place / "benchmark" / "measured").iterdir()}
    times = {path: path.stat().st_mtime_ns for path in (place / "benchmark" / "runs").rglob("picture.png")}
    lost = run / "picture.png"
    lost.unlink()
    before = page.with_name("tables.csv").read_bytes()
    assert benchmark(*grid).code == 0
    again = {path: path.stat().st_mtime_ns for path in (place / "benchmark" / "runs").rglob("picture.png")}
    assert {path for path in times if again[path] != times[path]} == {lost}
    assert {path: path.stat().st_mtime_ns for path in (place / "benchmark" / "measured").iterdir()} == rows
    without_costs = [line.split(",")[:-3] for line in before.decode().splitlines()]
    after = page.with_name("tables.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[:-3] for line in after] == without_costs


def test_measuring_goes_on_after_ctrl_c(
    benchmark: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore.evaluation.probes import HistogramProbe

    grid = ("--methods", "sdedit,vsd", "--knob", "0.5", "--style-pictures", "pictures")
    pair, asked = HistogramProbe.pair, []

    def interrupted(probe: HistogramProbe, *arguments: Any) -> Any:
        asked.append(probe)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return pair(probe, *arguments)

    monkeypatch.setattr(HistogramProbe, "pair", interrupted)
    outcome = benchmark(*grid)
    assert outcome.code == 130
    assert "the same command goes on, and writes the report when everything is made and measured" in outcome.err
    assert not (place / "benchmark" / "report.html").exists()
    assert benchmark(*grid).code == 0
    assert len(asked) == 3
    assert (place / "benchmark" / "report.html").exists()


def test_seeds_are_runs_of_their_own(benchmark: Callable[..., Any], place: Path) -> None:
    assert benchmark("--methods", "sdedit", "--knob", "0.5", "--seeds", "2", "--seed", "7").code == 0
    folder = place / "benchmark" / "runs" / "style_lora_kohya"
    assert sorted(path.name for path in folder.iterdir()) == ["sdedit-0.5-seed7", "sdedit-0.5-seed8"]
    found = json.loads((place / "benchmark" / "results.json").read_text("utf-8"))["results"]["style_lora_kohya"]
    assert found["folders"]["sdedit-0.5"]["pairs"] == 4


def test_a_broken_photo_is_reported_and_the_others_measured(benchmark: Callable[..., Any], place: Path) -> None:
    (place / "photos" / "three.png").write_bytes(b"no picture")
    outcome = benchmark("--methods", "sdedit", "--knob", "0.5")
    assert outcome.code == 1
    assert "not made: photos/three.png, sdedit-0.5, seed 0:" in outcome.err
    assert "error: 1 of 3 pictures were not made" in outcome.err
    assert "Not made: three.png" in (place / "benchmark" / "report.md").read_text("utf-8")


def test_rivals_that_take_a_picture_have_theirs(benchmark: Callable[..., Any], place: Path) -> None:
    weights = write_weights(place, "adain-encoder", "adain-decoder")
    given = [word for name, file in weights.items() for word in ("--weights", f"{name}={file}")]
    grid = ("--methods", "sdedit,styleid,adain", "--knob", "0.5,0.9", "--style-pictures", "pictures", *given)
    first = benchmark(*grid, "--memory", "low")
    assert (first.code, first.err) == (0, "")
    folder = place / "benchmark" / "runs" / "style_lora_kohya"
    made = {path.parent: path.read_bytes() for path in sorted(folder.rglob("picture.png"))}
    assert len(made) == 12
    record = tomllib.loads((folder / "adain-0.5-seed0" / "one-grey" / "config.toml").read_text("utf-8"))
    assert record["run"]["style_image"] == str(place / "pictures" / "grey.png")
    assert len(record["hashes"]["weights"]) == 2
    assert "model" not in record["hashes"]
    knob = [made[folder / f"adain-{content}-seed0" / "one-grey"] for content in ("0.5", "0.9")]
    assert knob[0] != knob[1]
    assert benchmark(*grid, "--memory", "low").code == 0
    assert {path.parent: path.read_bytes() for path in sorted(folder.rglob("picture.png"))} == made


def test_generators_are_rows_of_their_own(benchmark: Callable[..., Any], place: Path) -> None:
    """They are made once, made again when their file changes, and counted: one pass a picture."""
    onnx.save(build({"style": "blur"}), place / "blur.onnx")
    grid = ("--methods", "sdedit", "--knob", "0.5,0.25", "--style-pictures", "pictures", "--generator", "A=blur.onnx")
    first = benchmark(*grid, "--seeds", "2")
    assert (first.code, first.err) == (0, "")
    folder = place / "benchmark" / "runs" / "style_lora_kohya"
    assert sorted(path.name for path in folder.glob("generator*")) == ["generator-A-seed0", "generator-A-seed1"]
    made = {path: path.read_bytes() for path in folder.glob("generator-A-seed*/*/picture.png")}
    one, other = (folder / f"generator-A-seed{seed}" / "one" / "picture.png" for seed in (0, 1))
    assert len(made) == 4
    assert made[one] != made[other]
    cost = read_cost(one.parent)
    assert cost is not None
    assert (cost.forward_passes, cost.trained_passes) == (1, 0)
    with Image.open(place / "photos" / "one.png") as photo:
        applied = stylize(OnnxNetwork(place / "blur.onnx"), np.asarray(photo.convert("RGB")), Settings(seed=0))
    assert Image.open(one).tobytes() == Image.fromarray(applied).tobytes()
    report = (place / "benchmark" / "report.md").read_text("utf-8")
    assert "### Feed-forward, style_lora_kohya\n\n| method |" in report
    assert '"run.generator": "blur.onnx"' in report
    times = {path: path.stat().st_mtime_ns for path in made}
    assert benchmark(*grid, "--seeds", "2").code == 0
    assert {path: path.stat().st_mtime_ns for path in made} == times
    onnx.save(build({"style": "other"}), place / "blur.onnx")
    assert benchmark(*grid, "--seeds", "2").code == 0
    assert all(path.stat().st_mtime_ns != times[path] for path in made)


def test_generators_alone_make_a_report(benchmark: Callable[..., Any], place: Path) -> None:
    (place / "photos" / "three.png").write_bytes(b"no picture")
    onnx.save(build({"style": "blur"}), place / "blur.onnx")
    outcome = benchmark("--methods", "", "--generator", "blur.onnx")
    assert outcome.code == 1
    assert "not made: photos/three.png, generator-blur, seed 0:" in outcome.err
    found = json.loads((place / "benchmark" / "results.json").read_text("utf-8"))
    assert found["results"]["style_lora_kohya"]["folders"]["generator-blur"]["pairs"] == 2
    assert found["settings"]["generators"] == {"style_lora_kohya": {"blur": "blur.onnx"}}


def test_the_generators_of_the_style_itself(
    program: Callable[..., Any], tiny: Path, style: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found by its name in the user's folder, the small network by what follows the name there."""
    (place / "own").mkdir()
    shutil.copy(style, place / "own" / "oil.safetensors")
    monkeypatch.setenv("STYLESCORE_STYLES", str(place / "own"))
    onnx.save(build({"style": "blur"}), place / "own" / "oil-mobile.onnx")

    def benchmark(methods: str) -> Any:
        return program(
            "benchmark", "photos", "--model", tiny, "--style", "oil", *QUICK, "--quiet", "--methods", methods
        )

    refused = benchmark("generator,mobile")
    assert (refused.code, refused.complaint[0]) == (2, "there is no trained generator of the style 'oil'")
    assert refused.complaint[1].startswith("leave it out of --methods, or train one")
    assert benchmark("mobile").code == 0
    onnx.save(build({"style": "other"}), place / "own" / "oil.onnx")
    assert benchmark("generator,mobile").code == 0
    found = json.loads((place / "benchmark" / "results.json").read_text("utf-8"))
    assert set(found["results"]["oil"]["folders"]) == {"generator", "mobile"}
    assert found["settings"]["generators"] == {"oil": {"Generator": "oil.onnx", "Small network": "oil-mobile.onnx"}}


@pytest.mark.skipif(find_spec("ray") is None, reason="the extra 'ray' is not installed")
def test_a_cluster_makes_the_same_pictures_and_figures(benchmark: Callable[..., Any], place: Path) -> None:
    import ray

    grid = ("--methods", "sms,styleid", "--knob", "0.5", "--style-pictures", "pictures")
    assert benchmark(*grid, "--output", "alone").code == 0
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        spread = benchmark(*grid, "--output", "spread", "--workers", "ray:2")
    finally:
        ray.shutdown()
    assert spread.code == 0, spread.err
    pictures = [sorted((place / name / "runs").rglob("picture.png")) for name in ("alone", "spread")]
    assert len(pictures[0]) == 4
    for one, other in zip(*pictures, strict=True):
        assert one.relative_to(place / "alone") == other.relative_to(place / "spread")
        assert Image.open(one).tobytes() == Image.open(other).tobytes()
    tables = []
    for name in ("alone", "spread"):
        found = json.loads((place / name / "results.json").read_text("utf-8"))["results"]["style_lora_kohya"]
        tables.append({key: entry["metrics"] for key, entry in found["folders"].items()})
    assert tables[0] == tables[1]
    assert all(read_cost(path.parent) is not None for path in pictures[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "smss"), "a benchmark has no method 'smss'"),
        (("--methods", "dds", "--ablations", "all"), "ablations are of sms, which is not among the methods"),
        (("--knob", "much"), "--knob must be numbers from 0 to 1, not 'much'"),
        (("--seeds", "0"), "--seeds must be from 1 to 100, not 0"),
        (("--style-pictures", "other=pictures"), "--style-pictures must be NAME=DIR with the name of a --style, not"),
        (("--style-pictures", "nowhere"), "there is no folder 'nowhere'"),
        (("--style", "x/style_lora_kohya.safetensors"), "two styles of a benchmark are called 'style_lora_kohya'"),
        (("--metrics", "lpips"), "there is no metric 'lpips'"),
        (("--methods", "adain", "--style-pictures", "pictures"), "adain has no weights of AdaIN's normalised VGG19"),
        (("--methods", "gatys"), "gatys takes the style from a picture, and there is none of 'style_lora_kohya'"),
        (("--methods", "generator"), "there is no trained generator of the style"),
        (("--methods", "mobile"), "there is no trained generator of the style 'style_lora_kohya-mobile'"),
        (("--generator", ""), "a file or folder must not be an empty text"),
        (("--generator", "A="), "a file or folder must not be an empty text"),
        (("--generator", "A=none.onnx"), "there is no network 'none.onnx'"),
        (("--generator", "A=blur.onnx", "--generator", "A=blur.onnx"), "--generator needs labels that differ, not"),
        (("--generator", "blur.onnx", "--style", "other"), "--generator is for a benchmark of one style"),
        (("--generator", "blur.onnx", "--seed", str(2**32)), "seed must be a whole number between 0 and 4294967295"),
        (("photos/one.png", "again"), "two photos have the name 'one': 'one.png' and 'one.jpg'"),
        (("--set", "sdedit.strength=2"), "sdedit.strength must be between 0 and 1, not 2.0"),
    ],
)
def test_refusals(benchmark: Callable[..., Any], place: Path, arguments: tuple[str, ...], message: str) -> None:
    onnx.save(build({"style": "blur"}), place / "blur.onnx")
    (place / "again").mkdir()
    Image.new("RGB", (64, 64)).save(place / "again" / "one.jpg")
    outcome = benchmark(*arguments)
    assert outcome.code == 2
    assert outcome.complaint[0].startswith(message)
    assert not (place / "benchmark").exists()


def test_photos_and_a_style_are_needed(program: Callable[..., Any]) -> None:
    assert program("benchmark").complaint[0] == "benchmark needs at least one PHOTO"
    assert program("benchmark", "photos").code == 2
