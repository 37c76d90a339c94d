"""The command: results, resuming, and one line and a hint for everything that cannot be used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

Program = Callable[..., Any]


def test_a_style_is_found_by_its_name_afterwards(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, tmp_path: Path
) -> None:
    done = train_style()
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [str(own_styles / "discs.safetensors")]
    run = ("--model", tools.tiny, "--size", 64, "--iterations", 2, "--output", tmp_path / "runs", "--quiet")
    painted = program("stylize", tools.tiny.parent / "input_128x128.png", "--style", "discs", *run)
    assert painted.code == 0, painted.err
    assert 'style_prompt = "discs"' in next((tmp_path / "runs").rglob("config.toml")).read_text()


def test_json_tells_what_was_made(train_style: Program, tools: SimpleNamespace, pictures: Path) -> None:
    (pictures / "bad.png").write_text("no picture")
    table = json.loads(train_style("--json", "--trigger", "inky discs").out)
    assert (table["name"], table["trigger"], table["steps"], table["pictures"]) == ("discs", "inky discs", 3, 4)
    assert table["left_out"][0].startswith("bad.png: ")
    rows = tools.rows(Path(table["folder"]))
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert rows[-1]["loss"] == table["loss"]


def test_without_quiet_it_speaks_on_stderr_only(program: Program, pictures: Path, tools: SimpleNamespace) -> None:
    (pictures / "bad.png").write_text("no picture")
    settings = ("--steps", 1, "--resolution", 64, "--batch", 1, "--device", "cpu", "--output", tools.out)
    done = program("train-style", pictures, "--name", "discs", "--model", tools.tiny, *settings)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1
    assert "warning: left out bad.png" in done.err
    assert f"stylescore stylize PHOTO --style discs --model {tools.tiny}" in done.err


def test_an_interrupted_training_goes_on_to_the_same_file(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_style("--steps", 4)
    expected = (own_styles / "discs.safetensors").read_bytes()
    (own_styles / "discs.safetensors").unlink()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        stopped = train_style("--steps", 4)
    folder = tools.out / "discs-2"
    assert stopped.code == 130
    assert f"train-style --resume {folder}" in stopped.err
    resumed = program("train-style", "--quiet", "--resume", folder)
    assert resumed.code == 0, resumed.err
    assert (own_styles / "discs.safetensors").read_bytes() == expected
    assert (folder / "steps.jsonl").read_bytes() == (tools.out / "discs" / "steps.jsonl").read_bytes()
    error, hint = program("train-style", "--quiet", "--resume", folder, "--json").complaint
    assert "is finished" in error
    assert "--style discs" in hint


def interrupt_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Send the signal of Ctrl-C when so many steps are done."""
    import signal

    from stylescore.training import session

    original = session.step_row

    def step_row(step: Any) -> Any:
        if step.index + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step)

    patch.setattr(session, "step_row", step_row)


def test_what_has_changed_cannot_be_gone_on_with(
    train_style: Program, program: Program, pictures: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        train_style()
    (pictures / "p1.txt").write_text("something else")
    error, _ = program("train-style", "--quiet", "--resume", tools.out / "discs").complaint
    assert error == "the pictures or captions changed after the run began"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--rank", 0), "rank must be between 1 and 512, not 0"),
        (("--targets", "text"), "targets must be one of attention, attention+conv, b-lora, from, not 'text'"),
        (("--name", "my/style"), "a style's name must begin with a letter or digit"),
        (("--resolution", 100), "resolution must be a multiple of 16 for this base, not 100"),
        (("--model", "nowhere"), "there is no model 'nowhere'"),
        (("--device", "cuda:99"), "this machine has no device 'cuda:99'"),
        (("--dtype", "float16"), "--dtype 'float16' needs a GPU, the device is 'cpu'"),
        (("--caption", "a", "--captions", "b.csv"), "--caption and --captions cannot be given together"),
        (("--captions", "none.csv"), "the captions 'none.csv' cannot be read"),
        (("--set", "colour=1"), "unknown setting 'colour'"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_leaves_nothing(
    train_style: Program, tools: SimpleNamespace, own_styles: Path, arguments: tuple[Any, ...], error: str
) -> None:
    assert train_style(*arguments).complaint[0].startswith(error)
    assert not tools.out.exists()
    assert not own_styles.exists()


def test_pictures_that_cannot_be_used_are_one_line(train_style: Program, pictures: Path, tmp_path: Path) -> None:
    assert "does not exist" in train_style(folder=tmp_path / "none").complaint[0]
    (tmp_path / "empty").mkdir()
    assert "there are no pictures in" in train_style(folder=tmp_path / "empty").complaint[0]
    (pictures / "bad.png").write_text("no picture")
    assert "is a text file, not a picture" in train_style("--strict").complaint[0]
    shutil.copy(pictures / "p0.png", tmp_path / "empty" / "one.png")
    assert "at least 3 usable pictures" in train_style(folder=tmp_path / "empty").complaint[0]


def test_bytes_that_are_no_letters_are_refused(train_style: Program) -> None:
    assert train_style("--caption", "a\udcff").complaint[0].startswith("caption must be Unicode text")
    assert train_style("--trigger", "a\udcff").complaint[0].startswith("trigger must be Unicode text")
    assert train_style("--output", "a\udcff").complaint[0].startswith("--output must be Unicode text")
    assert train_style("--from", "a\udcff").complaint[0].startswith("--from must be Unicode text")


def test_prompts_that_are_cut_are_told(program: Program, pictures: Path, tools: SimpleNamespace) -> None:
    settings = ("--steps", 1, "--resolution", 64, "--batch", 1, "--device", "cpu", "--output", tools.out)
    long = ("--caption", "disc " * 100, "--samples-every", 1)
    done = program("train-style", pictures, "--name", "discs", "--model", tools.tiny, *settings, *long)
    assert "warning: 1 prompts are longer than the text encoder reads" in done.err


def test_pictures_and_a_name_are_needed(program: Program, pictures: Path) -> None:
    assert program("train-style").complaint[0] == "train-style needs a folder of PICTURES"
    assert program("train-style", pictures).complaint[0] == "train-style needs a --name for the style"


def test_a_name_that_is_taken_is_refused_unless_it_is_replaced(train_style: Program, own_styles: Path) -> None:
    own_styles.mkdir()
    (own_styles / "discs.safetensors").write_bytes(b"older")
    error, hint = train_style().complaint
    assert error.startswith("there is a style 'discs' already")
    assert "--replace" in hint
    assert (own_styles / "discs.safetensors").read_bytes() == b"older"
    assert train_style("--replace").code == 0
    assert (own_styles / "discs.safetensors").stat().st_size > 1000


def test_a_bundled_name_is_refused(train_style: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stylescore.catalog import registry

    folder = tmp_path / "bundled" / "mini" / "styles"
    folder.mkdir(parents=True)
    shutil.copy(
        Path(__file__).parents[1] / "data" / "parity" / "style_lora_kohya.safetensors", folder / "ink.safetensors"
    )
    monkeypatch.setattr(registry, "BUNDLED", tmp_path / "bundled")
    assert train_style(name="ink").complaint[0] == "the name 'ink' belongs to a bundled style"


def test_a_base_that_cannot_be_trained_is_refused(train_style: Program, tools: SimpleNamespace, tmp_path: Path) -> None:
    inpainting = tmp_path / "inpainting"
    shutil.copytree(tools.tiny, inpainting)
    index = json.loads((inpainting / "model_index.json").read_text())
    (inpainting / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionInpaintPipeline"}))
    assert "which is not supported" in train_style("--model", inpainting).complaint[0]


def test_a_network_without_attention_cannot_be_trained() -> None:
    import torch

    from stylescore.errors import ModelError
    from stylescore.training.lora import target_layers

    with pytest.raises(ModelError, match="needs attention layers"):
        target_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)), "attention")


def test_a_full_disk_is_told_before_the_training(
    train_style: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    error, hint = train_style().complaint
    assert "MB free, it has 0 MB" in error
    assert hint == "free some space, or lower --rank"
    assert not list(tools.out.glob("*"))


def test_a_disk_that_fills_up_at_the_end_leaves_no_half_file(
    train_style: Program, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        if path.parent == own_styles:
            original(path, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    done = train_style()
    assert done.code == 2
    assert "No space left on device" in done.err
    assert "train-style --resume" in done.err
    assert list(own_styles.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(train_style: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot write to" in train_style("--output", tmp_path / "file" / "deep").complaint[0]


def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    train_style: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore.training import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "accelerate" else object())
    assert train_style().complaint == (
        "train-style needs accelerate, which is not installed",
        "pip install 'stylescore[train]'",
    )


@pytest.mark.parametrize("name", ["samples", "tensorboard", "steps.jsonl"])
def test_what_stands_in_the_way_of_a_resumed_training_is_told(
    train_style: Program, program: Program, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        train_style()
    place = tools.out / "discs" / name
    if name == "steps.jsonl":
        place.unlink()
        place.mkdir()
    else:
        shutil.rmtree(place, ignore_errors=True)
        place.write_text("mine")
    error, hint = program("train-style", "--quiet", "--resume", tools.out / "discs").complaint
    assert error.startswith(f"{str(place)!r} is ")
    assert hint == "move it away"


def test_a_training_that_was_killed_before_its_style_was_written_is_not_finished(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path
) -> None:
    train_style()
    expected = (own_styles / "discs.safetensors").read_bytes()
    (own_styles / "discs.safetensors").unlink()
    resumed = program("train-style", "--quiet", "--resume", tools.out / "discs")
    assert resumed.code == 0, resumed.err
    assert (own_styles / "discs.safetensors").read_bytes() == expected
    assert len(tools.rows(tools.out / "discs")) == 3


def test_a_training_that_was_killed_after_its_style_was_written_ends(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a style of this name now, and it is its own."""
    from stylescore.training.folder import TrainingFolder

    def killed(folder: TrainingFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "keep_state", killed)
        assert train_style().code == 130
    style, folder = own_styles / "discs.safetensors", tools.out / "discs"
    expected = style.read_bytes()
    assert (folder / "state.safetensors").is_file()
    resumed = program("train-style", "--quiet", "--resume", folder)
    assert (resumed.code, resumed.out, resumed.err) == (0, f"{style}\n", "")
    assert style.read_bytes() == expected
    assert not (folder / "state.safetensors").exists()
    assert len(tools.rows(folder)) == 3
    (folder / ".lock").touch()  # of a process that was killed at its very end
    assert "is finished" in program("train-style", "--quiet", "--resume", folder).complaint[0]
    assert not (folder / ".lock").exists()


def test_a_training_that_was_killed_while_its_last_sheet_was_drawn_ends(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines of the log are there, and no style is."""
    from stylescore.training import session

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "sample_sheet", killed)
        assert train_style("--samples-every", 3).code == 130
    folder = tools.out / "discs"
    assert len(tools.rows(folder)) == 3
    assert not list(own_styles.glob("*.safetensors"))
    assert program("train-style", "--quiet", "--resume", folder).code == 0
    assert (folder / "samples" / "step-000003.png").is_file()
    assert [path.name for path in own_styles.iterdir()] == ["discs.safetensors"]


def test_another_style_that_took_the_name_is_not_replaced(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        train_style()
    folder, style = tools.out / "discs", own_styles / "discs.safetensors"
    own_styles.mkdir(exist_ok=True)
    style.write_bytes(b"another")
    error, hint = program("train-style", "--quiet", "--resume", folder).complaint
    assert error.startswith("there is a style 'discs' already")
    assert hint == "move it away, or set another name in config.toml; then resume"
    assert style.read_bytes() == b"another"
    config = folder / "config.toml"
    config.write_text(config.read_text("utf-8").replace('name = "discs"', 'name = "rings"'), encoding="utf-8")
    assert program("train-style", "--quiet", "--resume", folder).code == 0
    assert sorted(path.name for path in own_styles.iterdir()) == ["discs.safetensors", "rings.safetensors"]


def test_a_training_in_use_or_with_edited_settings_is_refused(
    train_style: Program, program: Program, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore.runs.lock import hold

    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        train_style()
    folder = tools.out / "discs"
    with hold(folder):
        error, _ = program("train-style", "--quiet", "--resume", folder).complaint
    assert error == f"the run in {str(folder)!r} is in use by another process"
    config = folder / "config.toml"
    text = config.read_text("utf-8")
    config.write_text(text.replace("rank = 16", "rank = 8").replace("seed = 0", "seed = 1"), encoding="utf-8")
    error, hint = program("train-style", "--quiet", "--resume", folder).complaint
    assert error == "config.toml changed after the run began: config.rank is 8, was 16; config.seed is 1, was 0"
    assert "begin a new run" in hint
    config.write_text(text.replace("checkpoint_every = 0", "checkpoint_every = 1"), encoding="utf-8")
    assert program("train-style", "--quiet", "--resume", folder).code == 0


def test_a_style_that_is_half_written_is_not_listed(
    train_style: Program, program: Program, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []
    original = Path.write_bytes

    def write_bytes(path: Path, data: bytes) -> int:
        written = original(path, data)
        if path.parent == own_styles:
            listed.append(json.loads(program("styles", "--json").out)["styles"])
        return written

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert train_style().code == 0
    assert not [style for style in listed[0] if not style["bundled"]]


def test_resume_takes_nothing_else(program: Program, tmp_path: Path) -> None:
    error, _ = program("train-style", "--resume", tmp_path, "--rank", 4).complaint
    assert error.endswith("cannot be combined with --rank")
    for option in (("--set", "warmup=1"), ("--gradient-checkpointing",), ("--captions", "a.csv"), ("--output", "b")):
        error, _ = program("train-style", "--resume", tmp_path, *option).complaint
        assert error.endswith(f"cannot be combined with {option[0]}")
    error, _ = program("train-style", tmp_path, "--resume", tmp_path).complaint
    assert error.endswith("cannot be combined with PICTURES")
    assert program("train-style", "--resume", tmp_path, "--json").complaint[0].endswith("No such file or directory")


def test_the_command_line_needs_no_torch() -> None:
    code = "import sys, stylescore.cli.main, stylescore.training.plan; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_two_processes_learn_what_one_learns(
    train_style: Program, pictures: Path, tools: SimpleNamespace, own_styles: Path, tmp_path: Path
) -> None:
    """Gradients are averaged over processes, so losses and norms differ by the order of sums only."""
    options = ("--steps", "2", "--batch", "2", "--flip", "--trigger", "inky discs")
    assert train_style(*options).code == 0
    quick = ("--resolution", "64", "--samples-every", "0", "--set", "warmup=0", "--device", "cpu", "--quiet")
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    port = ("--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "stylescore")
    call = ("train-style", str(pictures), "--name", "two", "--model", str(tools.tiny), "--output", str(tmp_path / "o"))
    done = subprocess.run([sys.executable, *launch, *port, *call, *quick, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(own_styles / "two.safetensors")]
    one, two = tools.rows(tools.out / "discs"), tools.rows(tmp_path / "o" / "two")
    assert [row["pictures"] for row in two] == [row["pictures"] for row in one]
    for key in ("loss", "gradient_norm", "t"):
        assert [row[key] for row in two] == [pytest.approx(row[key], rel=1e-4) for row in one]
