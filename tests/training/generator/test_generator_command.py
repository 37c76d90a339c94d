"""`stylescore train-generator`, as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from jaxtyping import config
from PIL import Image
from tests.apply.tiny import FACTS, build

from stylescore.generators import load_generator
from stylescore.images import Photo
from stylescore.training.generator.pairs import Pair, PairFolder, pair_noise
from stylescore.training.generator.teacher import Teacher, load_teacher
from stylescore_apply.networks import Array, parse_facts
from stylescore_apply.storage.files import sha256
from stylescore_apply.stylizing import Settings

PARITY = Path(__file__).parents[2] / "data" / "parity"
STYLE = PARITY / "style_lora_kohya.safetensors"
QUICK = (
    *("--size", "64", "--pairs", "6", "--steps", "2", "--matching-steps", "2", "--batch", "2", "--device", "cpu"),
    *("--samples-every", "0", "--checkpoint-every", "1", "--quiet"),
    *(
        f"--set={item}"
        for item in ("width=4", "blocks=1", "warmup=0", "held_out=2", "measure_every=2", "pairs.batch=2")
    ),
    *(f"--set={item}" for item in ("run.method.iterations=2", "matching.fake_steps=1", "file_dtype=float32")),
)

Program = Callable[..., Any]


@pytest.fixture
def train_generator(program: Program, photos: Path, tools: SimpleNamespace) -> Program:
    """Return the command on the tiny base, shortly; later options win over these."""

    def call(*arguments: object, folder: Path = photos) -> Any:
        fixed = ("--style", STYLE, "--name", "bands", "--model", tools.tiny, "--output", tools.out)
        return program("train-generator", folder, *fixed, *QUICK, *arguments)

    return call


def test_a_training_prints_the_path_of_its_generator(train_generator: Program, tools: SimpleNamespace) -> None:
    outcome = train_generator()
    assert (outcome.code, outcome.err) == (0, "")
    file = tools.out / "bands" / "bands.safetensors"
    assert outcome.out == f"{file}\n"
    assert load_generator(file)[1].training["pairs"] == 6
    assert len(tools.rows(tools.out / "bands")) == 6
    assert not (tools.out / "bands" / "state.safetensors").exists()


def test_as_json_it_prints_all_about_it(train_generator: Program) -> None:
    document = json.loads(train_generator("--json", "--network", "resnet9", "--licence", "CC0-1.0").out)
    assert (document["network"], document["licence"]) == ("resnet9", "CC0-1.0")
    assert Path(document["generator"]).parent == Path(document["folder"])


def test_pairs_can_be_made_beforehand_and_are_used_again(
    train_generator: Program, tmp_path: Path, tools: SimpleNamespace
) -> None:
    pairs = tmp_path / "pairs"
    assert train_generator("--pairs-only", "--pair-folder", pairs).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in pairs.glob("*.webp")}
    assert len(before) == 12
    assert not tools.out.joinpath("bands").exists()
    assert train_generator("--pair-folder", pairs).code == 0
    assert {path.name: path.stat().st_mtime_ns for path in pairs.glob("*.webp")} == before
    assert not (tools.out / "bands" / "pairs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", ""), "a generator's name must begin with a letter or digit"),
        (("--preset", "fast"), "has no preset 'fast'"),
        (("--network", "vit"), "network must be one of"),
        (("--set", "run.seed=3"), "sets the method's constants"),
        (("--set", "regression.rate=3"), "unknown setting 'regression.rate'"),
        (("--set", "run.method.colour=3"), "unknown setting 'run.method.colour'"),
        (("--pairs-only",), "--pairs-only needs a --pair-folder"),
        (("--size", "100"), "size must be a multiple of 8"),
        (("--batch", "3", "--accumulate", "2"), "regression.batch must be a multiple of accumulate times processes"),
        (("--pairs", "2"), "pairs.count must be 0 or at least 4"),
        (("--method", "gan"), "method must be one of"),
        (("--caption", "a", "--captions", "b.csv"), "--caption and --captions cannot be given together"),
    ],
)
def test_unusable_options_are_refused(train_generator: Program, arguments: tuple[str, ...], message: str) -> None:
    error, _ = train_generator(*arguments).complaint
    assert message in error


def test_photos_and_a_style_are_needed(program: Program, photos: Path) -> None:
    assert program("train-generator").complaint[0] == "train-generator needs PHOTOS"
    assert program("train-generator", photos).complaint[0] == "train-generator needs a --style"
    error, _ = program("train-generator", photos, "--resume", photos).complaint
    assert error.endswith("cannot be combined with PHOTOS")


def test_a_stopped_training_says_how_to_resume_and_ends_as_an_unbroken_one(
    train_generator: Program, program: Program, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore.training.generator import session

    assert train_generator().code == 0
    folder = tools.out / "bands"
    expected = (folder / "bands.safetensors").read_bytes()
    folder.rename(tools.out / "whole")
    written = session._Writer.write_step

    def fail(writer: Any, step: Any) -> None:
        written(writer, step)
        if step.index == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(session._Writer, "write_step", fail)
    outcome = train_generator()
    assert outcome.code == 130
    assert f"saved; resume with: stylescore train-generator --resume {folder}" in outcome.err
    monkeypatch.undo()
    monkeypatch.setenv("STYLESCORE_STYLES", str(tools.out / "styles"))
    assert program("train-generator", "--resume", folder, "--quiet").code == 0
    assert (folder / "bands.safetensors").read_bytes() == expected
    assert (folder / "steps.jsonl").read_bytes() == (tools.out / "whole" / "steps.jsonl").read_bytes()
    (folder / ".lock").touch()  # of a process that was killed at its very end
    assert program("train-generator", "--resume", folder).complaint[0].endswith("is finished")
    assert not (folder / ".lock").exists()


def test_two_processes_learn_what_one_learns_with_the_whole_batch(
    train_generator: Program, photos: Path, tools: SimpleNamespace, tmp_path: Path
) -> None:
    """Gradients are added up over processes, so losses and norms differ by the order of sums only."""
    more = ("--set", "regression.adversarial=0.5", "--set", "stability=0.5")
    assert train_generator(*more).code == 0
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    port = ("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "stylescore")
    call = ("train-generator", str(photos), "--style", str(STYLE), "--name", "two", "--model", str(tools.tiny))
    where = ("--output", str(tmp_path / "o"))
    done = subprocess.run(
        [sys.executable, *launch, *port, *call, *where, *QUICK, *more], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "o" / "two" / "two.safetensors")]
    one, two = tools.rows(tools.out / "bands"), tools.rows(tmp_path / "o" / "two")
    assert [row["t"] for row in two] == [row["t"] for row in one]
    assert [row["phase"] for row in one] == ["regression"] * 2 + ["fake"] * 2 + ["matching"] * 2
    assert [row["measure"] is None for row in one] == [True, False, True, True, True, False]
    assert [row["best"] is None for row in one] == [row["phase"] != "matching" for row in one]
    for key in ("loss", "gradient_norm", "best", "parts"):
        known = [(row, other) for row, other in zip(one, two, strict=True) if row[key] is not None]
        assert [other[key] for _, other in known] == [pytest.approx(row[key], rel=1e-3) for row, _ in known]


def bands(tools: SimpleNamespace, name: str = "bands") -> Path:
    """Return the file that a training has written."""
    return Path(tools.out / name / "bands.safetensors")


def test_a_training_goes_on_from_a_generator(train_generator: Program, tools: SimpleNamespace) -> None:
    train_generator()
    at_rest = ("--steps", "1", "--matching-steps", "0", "--set", "regression.learning_rate=1e-12")
    assert train_generator("--from", bands(tools).parent, *at_rest).code == 0
    before, after = (load_generator(bands(tools, name)) for name in ("bands", "bands-2"))
    for name, weight in after[0].state_dict().items():
        assert torch.allclose(weight, before[0].state_dict()[name], atol=1e-6), name
    assert set(after[1].training["hashes"]) - set(before[1].training["hashes"]) == {"starting_generator"}


def test_passes_are_those_of_the_start_where_its_pictures_are_matched_only(
    train_generator: Program, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_generator("--set", "passes=2", "--set", "strength=0.75")
    monkeypatch.setattr(f"{__name__}.QUICK", [word for word in QUICK if word != "--quiet"])
    matched = ("--from", bands(tools), "--pairs", "0", "--steps", "0", "--matching-steps", "1")
    for name, words, stated, said in (
        ("bands-2", matched, (2, 0.75), ", for 2 passes at a strength of 0.75\n"),
        ("bands-3", (*matched, "--set", "passes=3"), (3, 1.0), ", for 3 passes\n"),
        ("bands-4", ("--from", bands(tools), "--matching-steps", "0"), (1, 1.0), "0 steps, on cpu\n"),
    ):
        outcome = train_generator(*words)
        facts = load_generator(bands(tools, name))[1]
        assert (facts.passes, facts.strength) == stated
        assert said in outcome.err


@pytest.mark.parametrize("by_name", [False, True], ids=["file", "name"])
def test_a_training_goes_on_from_an_exported_generator(
    train_generator: Program,
    program: Program,
    tools: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_name: bool,
) -> None:
    """Named by its file, or by its name in the user's folder; an interrupted training needs it no more."""
    train_generator()
    exported = tmp_path / "own" / "bands-mobile.onnx"
    exported.parent.mkdir()
    monkeypatch.setattr(config, "jaxtyping_disable", True)
    assert program("export", bands(tools), "--out", exported, "--precision", "float32").code == 0
    monkeypatch.setenv("STYLESCORE_STYLES", str(exported.parent))
    assert train_generator("--from", bands(tools)).code == 0
    with monkeypatch.context() as patched:
        patched.setattr("stylescore.training.generator.session.train", interrupted)
        assert train_generator("--from", "bands-mobile" if by_name else exported).code == 130
    record = (tools.out / "bands-3" / "config.toml").read_text("utf-8")
    assert f'start = "{exported}"' in record
    exported.unlink()
    outcome = program("train-generator", "--resume", tools.out / "bands-3", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    first, other = (load_generator(bands(tools, name))[0].state_dict() for name in ("bands-2", "bands-3"))
    assert all(torch.equal(first[name], weight) for name, weight in other.items())


def interrupted(trainer: object) -> Iterator[object]:
    """End a training before its first step."""
    raise KeyboardInterrupt
    yield trainer


def test_a_training_that_goes_on_is_resumed_though_the_first_file_is_gone(
    train_generator: Program, program: Program, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_generator()
    first = bands(tools)
    assert train_generator("--from", first).code == 0
    expected = bands(tools, "bands-2").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("stylescore.training.generator.session.train", interrupted)
        assert train_generator("--from", first).code == 130
    first.unlink()
    outcome = program("train-generator", "--resume", tools.out / "bands-3", "--quiet")
    assert (outcome.code, outcome.err) == (0, "")
    assert bands(tools, "bands-3").read_bytes() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--network", "resnet9"), "network 'resnet9' contradicts"),
        (("--set", "width=8"), "width 8 contradicts"),
    ],
)
def test_a_generator_that_is_another_network_is_refused(
    train_generator: Program, tools: SimpleNamespace, options: tuple[str, ...], message: str
) -> None:
    train_generator("--matching-steps", "0")
    outcome = train_generator("--from", bands(tools), *options)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tools.out / "bands-2").exists()


def test_the_noise_of_a_generator_can_be_left_out_and_not_come_back(
    train_generator: Program, tools: SimpleNamespace
) -> None:
    train_generator("--matching-steps", "0")
    at_rest = ("--steps", "1", "--matching-steps", "0", "--set", "regression.learning_rate=1e-12")
    assert train_generator("--from", bands(tools), "--set", "noise=false", *at_rest).code == 0
    before, after = (load_generator(bands(tools, name)) for name in ("bands", "bands-2"))
    assert (before[1].noise_channels > 0, after[1].noise_channels) == (True, 0)
    for name, weight in after[0].state_dict().items():
        assert torch.allclose(weight, before[0].state_dict()[name], atol=1e-6), name
    outcome = train_generator("--from", bands(tools, "bands-2"), "--set", "noise=true")
    assert outcome.code == 2
    assert "noise True contradicts" in outcome.err


def test_what_is_no_generator_is_refused(train_generator: Program, tools: SimpleNamespace) -> None:
    outcome = train_generator("--from", STYLE)
    assert outcome.code == 2
    assert "is not a generator" in outcome.err
    assert not tools.out.exists()


def test_pairs_are_made_by_an_exported_generator(
    train_generator: Program, tools: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by its name, and is as good as any other."""
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path))
    onnx.save(build({"style": "darker"}), tmp_path / "darker.onnx")
    pairs = PairFolder(tmp_path / "pairs")
    outcome = train_generator("--teacher", "darker", "--pair-folder", pairs.path, "--pairs-only")
    assert (outcome.code, outcome.err) == (0, "")
    taught = load_teacher(tmp_path / "darker.onnx", str(tools.tiny), torch.device("cpu"))
    with Image.open(pairs.photo_file(3)) as photo, Image.open(pairs.picture_file(3)) as picture:
        (expected,) = taught.paint([Photo(Path("photo.png"), photo.convert("RGB"))], [pairs.read()[3]])
        assert picture.convert("RGB").tobytes() == expected.tobytes()
    outcome = train_generator("--teacher", "dorker")
    assert outcome.code == 2
    assert outcome.complaint[1] == "did you mean 'darker'?"


@pytest.mark.parametrize("network", ["mobile", "lora"])
def test_pairs_are_made_by_a_trained_generator(
    train_generator: Program, program: Program, tools: SimpleNamespace, tmp_path: Path, network: str
) -> None:
    own = ("--network", "lora", "--set", "width=0", "--set", "blocks=0") if network == "lora" else ()
    train_generator("--matching-steps", "0", "--set", "measure_every=0", *own)
    pairs = PairFolder(tmp_path / "pairs")
    outcome = train_generator("--teacher", bands(tools).parent, "--pair-folder", pairs.path)
    assert (outcome.code, outcome.err) == (0, "")
    pair = pairs.read()[3]
    taught = load_teacher(bands(tools), str(tools.tiny), torch.device("cpu"))
    with Image.open(pairs.photo_file(3)) as photo, Image.open(pairs.picture_file(3)) as picture:
        (expected,) = taught.paint([Photo(Path("photo.png"), photo.convert("RGB"))], [pair])
        assert picture.convert("RGB").tobytes() == expected.tobytes()
        assert picture.tobytes() != photo.tobytes()
    facts = load_generator(bands(tools, "bands-2"))[1]
    assert facts.training["hashes"]["teacher"] == sha256(bands(tools))


def test_pairs_of_runs_and_of_a_teacher_are_not_mixed(
    train_generator: Program, tools: SimpleNamespace, tmp_path: Path
) -> None:
    first = ("--pair-folder", tmp_path / "pairs", "--matching-steps", "0")
    train_generator(*first)
    outcome = train_generator(*first, "--teacher", bands(tools))
    assert outcome.code == 2
    assert "were made with another teacher" in outcome.err
    second = ("--pair-folder", tmp_path / "taught", "--matching-steps", "0")
    assert train_generator(*second, "--teacher", bands(tools)).code == 0
    outcome = train_generator(*second)
    assert outcome.code == 2
    assert "were made with another" in outcome.err
    outcome = train_generator(*second, "--teacher", bands(tools), "--set", "pairs.teacher_passes=2")
    assert outcome.code == 2
    assert "were made with another teacher's passes" in outcome.err


def test_settings_of_a_teacher_without_one_are_refused(train_generator: Program, tools: SimpleNamespace) -> None:
    outcome = train_generator("--set", "pairs.teacher_strength=0.5")
    assert outcome.code == 2
    assert "pairs.teacher_strength is of a --teacher, and there is none" in outcome.err
    assert not tools.out.exists()


def test_a_teacher_is_applied_to_its_own_picture() -> None:
    """A network that halves what it sees, under the pair's noise: three passes and a mixture with the photo."""
    expected = pair_noise(5, (2, 2, 2))[None].numpy()

    class Halves:
        facts = parse_facts(FACTS)

        def __call__(self, photo: Array, noise: Array | None) -> Array:
            assert noise is not None
            assert np.array_equal(noise, expected)
            return photo * np.float32(0.5)

    photo = Image.new("RGB", (16, 16), (200, 80, 40))
    plan = Pair(number=0, photo=0, seed=5, mirrored=False, caption="", width=16, height=16)
    (picture,) = Teacher(Halves(), Settings(passes=3, strength=0.5)).paint([Photo(Path("photo.png"), photo)], [plan])
    assert picture.getpixel((3, 3)) == (112, 45, 22)  # 200 -> 25, 80 -> 10, 40 -> 5, then halfway back
