"""Interrupting a run keeps it; going on ends in the picture of an uninterrupted run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load, load_file, save_file

from stylescore.images import read_metadata

PARITY = Path(__file__).parent.parent / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
STYLE = PARITY / "style_lora_kohya.safetensors"
TINY = PARITY / "tiny_base"

Steps = Callable[[Path], list[dict[str, Any]]]
ITERATIONS = 4


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()


def send(number: signal.Signals, times: int = 1) -> Callable[[], None]:
    """Return a function that sends this process a signal, once or more."""

    def sending() -> None:
        for _ in range(times):
            os.kill(os.getpid(), number)

    return sending


def save_tiny(folder: Path) -> None:
    """Save a tiny autoencoder with random weights that fits the tiny model."""
    from diffusers import AutoencoderTiny

    channels, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
    AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    ).save_pretrained(folder)


@pytest.fixture
def interrupt(
    stylize: Callable[..., Any], stop_after: Callable[..., None], out: Path
) -> Callable[..., tuple[Any, list[Path]]]:
    """Return a run that is interrupted after its second iteration, and the folders it leaves."""

    def call(*arguments: object, number: signal.Signals = signal.SIGINT, times: int = 1) -> tuple[Any, list[Path]]:
        before = set(out.iterdir()) if out.exists() else set()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stylescore.runs.runner.step_row", sys.modules["stylescore.runs.runner"].step_row)
            stop_after(2, send(number, times))
            outcome = stylize(*arguments)
        return outcome, sorted(set(out.iterdir()) - before)

    return call


class TestInterruption:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_keeps_the_state_and_says_how_to_go_on(
        self,
        number: signal.Signals,
        interrupt: Callable[..., Any],
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        steps: Steps,
    ) -> None:
        before = signal.getsignal(number)

        outcome, (folder,) = interrupt(PHOTO, number=number)

        assert outcome.code == 130
        assert outcome.out == ""
        lines = [line for line in outcome.err.splitlines() if line]
        assert lines == [f"saved; resume with: stylescore stylize --resume {folder}", "error: interrupted"]
        assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "state.safetensors", "steps.jsonl"]
        assert len(steps(folder)) == 2
        assert signal.getsignal(number) == before

        resumed = resume(folder)
        straight = stylize(PHOTO, "--output", folder.parent.parent / "straight").picture
        assert (resumed.picture, resumed.err) == (folder / "picture.png", "")
        assert pixels(resumed.picture) == pixels(straight)
        assert steps(folder) == steps(straight.parent)
        assert not (folder / "state.safetensors").exists()

    def test_a_second_signal_stops_in_the_middle_of_an_iteration(
        self, interrupt: Callable[..., Any], stylize: Callable[..., Any], resume: Callable[..., Any], steps: Steps
    ) -> None:
        outcome, (folder,) = interrupt(PHOTO, times=2)
        assert outcome.code == 130
        assert len(steps(folder)) == 1

        straight = stylize(PHOTO, "--output", folder.parent.parent / "straight").picture
        assert pixels(resume(folder).picture) == pixels(straight)
        assert steps(folder) == steps(straight.parent)

    @pytest.mark.parametrize("method", ["sds", "dds"])
    def test_methods_without_a_fake_score(
        self, method: str, interrupt: Callable[..., Any], stylize: Callable[..., Any], resume: Callable[..., Any]
    ) -> None:
        _, (folder,) = interrupt(PHOTO, "--method", method)

        assert pixels(resume(folder).picture) == pixels(
            stylize(PHOTO, "--method", method, "--output", folder.parent.parent / "straight").picture
        )

    def test_a_batch_is_gone_on_with_one_by_one(
        self, interrupt: Callable[..., Any], stylize: Callable[..., Any], resume: Callable[..., Any], tmp_path: Path
    ) -> None:
        mirror = tmp_path / "mirror.png"
        Image.open(PHOTO).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirror)

        outcome, folders = interrupt(PHOTO, mirror, "--batch", "2")

        assert outcome.code == 130
        assert [folder.name.partition("-")[0] for folder in folders] == ["input_128x128", "mirror"]
        for folder in folders:
            assert f"--resume {folder}" in outcome.err
            assert resume(folder).picture.is_file()

    def test_a_state_that_could_not_be_saved_is_not_offered(
        self, interrupt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stylescore.runs.job import PictureFolder

        def interrupted_again(folder: Any, state: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(PictureFolder, "save_state", interrupted_again)

        outcome, (folder,) = interrupt(PHOTO)

        assert outcome.code == 130
        assert "resume with" not in outcome.err
        assert not (folder / "state.safetensors").exists()

    def test_photos_that_wait_are_not_begun(self, interrupt: Callable[..., Any], other_photo: Path) -> None:
        outcome, folders = interrupt(PHOTO, other_photo)

        assert outcome.code == 130
        assert len(folders) == 1

    def test_a_signal_while_the_last_files_are_written_stops_the_next_photo(
        self, stylize: Callable[..., Any], out: Path, monkeypatch: pytest.MonkeyPatch, other_photo: Path
    ) -> None:
        import stylescore.runs.runner

        original = stylescore.runs.runner.public_record

        def public_record(record: Any) -> str:
            send(signal.SIGINT)()
            return original(record)

        monkeypatch.setattr(stylescore.runs.runner, "public_record", public_record)

        outcome = stylize(PHOTO, other_photo)

        assert outcome.code == 130
        assert len(outcome.paths) == 1
        assert len(list(out.iterdir())) == 1

    def test_killed_before_any_state_was_kept(
        self, interrupt: Callable[..., Any], stylize: Callable[..., Any], resume: Callable[..., Any], steps: Steps
    ) -> None:
        _, (folder,) = interrupt(PHOTO)
        (folder / "state.safetensors").unlink()

        straight = stylize(PHOTO, "--output", folder.parent.parent / "straight").picture
        assert pixels(resume(folder).picture) == pixels(straight)
        assert steps(folder) == steps(straight.parent)

    def test_a_line_that_was_cut_in_half(
        self, interrupt: Callable[..., Any], resume: Callable[..., Any], steps: Steps
    ) -> None:
        _, (folder,) = interrupt(PHOTO)
        with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"iteration": 2, "t"')

        assert resume(folder).code == 0
        assert [row["iteration"] for row in steps(folder)] == list(range(ITERATIONS))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working folder of the first call, below the other one."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


class TestElsewhere:
    def test_paths_of_the_first_call_hold_in_another_working_folder(
        self,
        interrupt: Callable[..., Any],
        resume: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        home: Path,
    ) -> None:
        for path in (PHOTO, STYLE):
            shutil.copy(path, home)
        shutil.copytree(TINY, home / "model")
        monkeypatch.chdir(home)
        _, (folder,) = interrupt(PHOTO.name, "--style", STYLE.name, "--model", "model", "--style-model", "model")

        monkeypatch.chdir(tmp_path)

        assert resume(folder.relative_to(tmp_path)).code == 0

    def test_previews_and_animation_go_on(self, interrupt: Callable[..., Any], resume: Callable[..., Any]) -> None:
        _, (folder,) = interrupt(PHOTO, "--gif", "--preview-every", "1")

        assert resume(folder).code == 0
        assert len(list((folder / "previews").iterdir())) == ITERATIONS
        assert (folder / "run.gif").is_file()

    def test_previews_go_on_with_the_same_preview_model(
        self,
        interrupt: Callable[..., Any],
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        home: Path,
    ) -> None:
        save_tiny(home / "tiny")
        monkeypatch.chdir(home)
        _, (folder,) = interrupt(PHOTO, "--preview-every", "1", "--preview-model", "tiny")
        elsewhere = ("--output", tmp_path / "straight")
        straight = stylize(PHOTO, "--preview-every", "1", "--preview-model", "tiny", *elsewhere).picture.parent
        plain = stylize(PHOTO, "--preview-every", "1", "--output", tmp_path / "plain").picture.parent

        monkeypatch.chdir(tmp_path)
        assert resume(folder).code == 0

        names = [f"previews/step-{number + 1:05d}.png" for number in range(ITERATIONS)]
        for name in [*names, "picture.png"]:
            assert pixels(folder / name) == pixels(straight / name)
        assert pixels(folder / "picture.png") == pixels(plain / "picture.png")
        assert pixels(folder / names[-1]) != pixels(plain / names[-1])
        assert f'preview_model = "{home / "tiny"}"' in (folder / "config.toml").read_text("utf-8")
        assert 'preview_model = "tiny"' in read_metadata(folder / "picture.png")["stylescore"]

    def test_a_preview_model_that_is_gone_is_missed_before_anything_is_changed(
        self, interrupt: Callable[..., Any], resume: Callable[..., Any], tmp_path: Path
    ) -> None:
        save_tiny(tmp_path / "tiny")
        _, (folder,) = interrupt(PHOTO, "--preview-every", "1", "--preview-model", tmp_path / "tiny")
        shutil.rmtree(tmp_path / "tiny")
        before = {path.name for path in folder.iterdir()}

        outcome = resume(folder)

        assert outcome.code == 2
        assert outcome.complaint[0] == f"there is no preview model {str(tmp_path / 'tiny')!r}"
        assert {path.name for path in folder.iterdir()} == before


class TestRefusals:
    """Nothing is changed in a folder that cannot be gone on with."""

    @pytest.fixture
    def folder(self, interrupt: Callable[..., Any], own_styles: Path, tmp_path: Path) -> Path:
        shutil.copy(PHOTO, tmp_path / "photo.png")
        shutil.copy(STYLE, own_styles / "oil.safetensors")
        _, (folder,) = interrupt(tmp_path / "photo.png", "--style", "oil")
        return folder

    def test_what_has_changed_since(
        self, folder: Path, resume: Callable[..., Any], tmp_path: Path, own_styles: Path
    ) -> None:
        before = {path.name: path.read_bytes() for path in folder.iterdir()}

        def refused(start: str) -> None:
            outcome = resume(folder)
            assert outcome.code == 2
            assert outcome.complaint[0].startswith(start), outcome.err
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

        metadata_only = load_file(STYLE)
        save_file(metadata_only, own_styles / "oil.safetensors", {"other": "file"})
        refused("the style changed after the run began")
        (own_styles / "oil.safetensors").unlink()
        refused("there is no style 'oil'")
        Image.open(PHOTO).transpose(Image.Transpose.ROTATE_180).save(tmp_path / "photo.png")
        refused(f"the photo {str(tmp_path / 'photo.png')!r} changed after the run began")
        (tmp_path / "photo.png").unlink()
        refused(f"there is no file {str(tmp_path / 'photo.png')!r}")

    def test_a_damaged_state(self, folder: Path, resume: Callable[..., Any]) -> None:
        state = folder / "state.safetensors"
        sound = state.read_bytes()
        tensors = load(sound)

        def refused(words: str) -> None:
            outcome = resume(folder)
            assert outcome.code == 2
            told, advice = outcome.complaint
            assert words in told, told
            assert advice in ("begin a new run", "it was made by another configuration")
            assert not (folder / "picture.png").exists()

        for content in (sound[:2000], b"", b"garbage" * 100):
            state.write_bytes(content)
            refused(f"the saved state {str(state)!r} is damaged")
        for name in ("z", "z_source", "generator", "fake.0"):
            save_file({key: value for key, value in tensors.items() if key != name}, state, {"iteration": "2"})
            refused(name)
        save_file(tensors, state)
        refused("is damaged")
        save_file(tensors | {"z": tensors["z"] * float("nan")}, state, {"iteration": "2"})
        refused("is damaged: it holds NaN or infinity")
        save_file(tensors | {"z": tensors["z"][:, :-1].contiguous()}, state, {"iteration": "2"})
        refused("shape")
        save_file(tensors | {"generator": tensors["generator"] * 0}, state, {"iteration": "2"})
        refused("the saved 'generator' cannot be used: ")
        state.write_bytes(sound)
        assert resume(folder).code == 0

    def test_out_of_memory_is_not_blamed_on_the_state(
        self, folder: Path, resume: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stylescore.assembly import stylizer

        def exhaust(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(stylizer, "fit_latents", exhaust)
            outcome = resume(folder)
        assert outcome.code == 1
        assert "memory" in outcome.complaint[0]
        assert "state" not in outcome.complaint[0]
        assert resume(folder).code == 0

    def test_a_damaged_record(self, folder: Path, resume: Callable[..., Any]) -> None:
        record = folder / "config.toml"
        text = record.read_text("utf-8")

        def refused(content: str, words: str) -> None:
            record.write_text(content, encoding="utf-8")
            outcome = resume(folder)
            assert outcome.code == 2
            assert words in outcome.complaint[0], outcome.err

        refused(text[:300], "is not a run folder: config.toml: ")
        refused("", "its config.toml does not say which command made it")
        refused(text[: text.index("photo = ")], "lacks photo, style_prompt, run")
        refused(
            text.replace("iterations = 4", "iterations = 0"),
            "changed after the run began: run.method.iterations is 0, was 4",
        )
        refused(text.replace("seed = 0", 'seed = "zero"'), "run.seed must be a whole number, not 'zero'")
        refused(text.replace("[run.method]", "[run.methods]"), "unknown setting 'run.methods'")

    @pytest.mark.parametrize("name", ["previews", "picture.png", "run.gif"])
    def test_what_stands_in_the_way(self, name: str, folder: Path, resume: Callable[..., Any]) -> None:
        place = folder / name
        place.mkdir() if "." in name else place.write_text("mine", encoding="utf-8")
        before = sorted(path.name for path in folder.iterdir())

        outcome = resume(folder)

        assert outcome.code == 2
        needed = (
            "is a folder, the run needs a file there" if "." in name else "is not a folder, the run needs one there"
        )
        assert outcome.complaint == [f"{str(place)!r} {needed}", "move it away"]
        assert sorted(path.name for path in folder.iterdir()) == before

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b'{"iteration": 0}\n\xff\xfe\n', "cannot be read: it is not UTF-8 text"),
            (b'{"iteration": 0}\n{"iterat', "is damaged in line 2"),
            (None, "is a folder, the run needs a file there"),
        ],
    )
    def test_a_damaged_log(
        self, content: bytes | None, words: str, folder: Path, resume: Callable[..., Any], steps: Steps
    ) -> None:
        log = folder / "steps.jsonl"
        log.unlink()
        log.mkdir() if content is None else log.write_bytes(content)

        outcome = resume(folder)

        assert outcome.code == 2
        assert str(log) in outcome.complaint[0]
        assert outcome.complaint[0].endswith(words)
        log.rmdir() if content is None else log.unlink()
        assert resume(folder).code == 0
        assert [row["iteration"] for row in steps(folder)] == [2, 3]

    def test_a_state_of_more_iterations_than_the_run_has(self, folder: Path, resume: Callable[..., Any]) -> None:
        state = folder / "state.safetensors"
        tensors = load_file(state)
        for iteration in ("-5", "999"):
            save_file(tensors, state, {"iteration": iteration})
            assert f"is that of iteration {iteration}" in resume(folder).complaint[0]
        save_file(
            {name: tensor for name, tensor in tensors.items() if name != "z.exp_avg_sq"}, state, {"iteration": "2"}
        )
        assert resume(folder).complaint[0] == "the saved state has no 'z.exp_avg_sq'"
        assert not (folder / "picture.png").exists()

    def test_a_training_is_not_resumed_as_a_run(
        self, folder: Path, resume: Callable[..., Any], program: Callable[..., Any]
    ) -> None:
        outcome = program("train-style", "--quiet", "--resume", folder)

        assert outcome.code == 2
        assert outcome.complaint == [
            f"the run in {str(folder)!r} was made by 'stylize', not by 'train-style'",
            f"stylescore stylize --resume {folder}",
        ]
        assert resume(folder).code == 0

    def test_a_finished_run(self, stylize: Callable[..., Any], resume: Callable[..., Any]) -> None:
        picture = stylize(PHOTO, "--iterations", "1").picture

        outcome = resume(picture.parent)

        assert outcome.code == 2
        assert outcome.complaint == [f"the run in {str(picture.parent)!r} is finished", f"its picture is {picture}"]

    def test_a_folder_that_is_no_run(self, resume: Callable[..., Any], tmp_path: Path) -> None:
        for place in (tmp_path, tmp_path / "none"):
            outcome = resume(place)
            assert outcome.code == 2
            assert outcome.complaint == [
                f"{str(place)!r} is not a run folder: config.toml: No such file or directory",
                "give the folder that holds config.toml",
            ]

    @pytest.mark.parametrize(
        ("more", "called"),
        [
            (["--recursive"], "--recursive"),
            (["--caption", "none"], "--caption"),
            (["--style", "oil"], "--style"),
            (["--iterations", 9], "--iterations"),
            (["--output", "elsewhere"], "--output"),
            (["--set", "iterations=9"], "--set"),
            (["--gif"], "--gif"),
            (["--compile", "on"], "--compile"),
            (["--style-weights", "merged"], "--style-weights"),
            (["--preview-every", 3], "--preview-every"),
        ],
    )
    def test_other_options_are_not_ignored(
        self, more: list[Any], called: str, resume: Callable[..., Any], tmp_path: Path
    ) -> None:
        outcome = resume(tmp_path, *more)

        assert outcome.code == 2
        assert outcome.complaint[0].endswith(f"cannot be combined with {called}")


class TestSeveral:
    """A folder of runs is resumed whole, batch by batch."""

    @pytest.fixture
    def mirror(self, tmp_path: Path) -> Path:
        path = tmp_path / "mirror.png"
        Image.open(PHOTO).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
        return path

    def test_a_batch_ends_in_the_bits_of_an_uninterrupted_one(
        self,
        interrupt: Callable[..., Any],
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        out: Path,
        steps: Steps,
        mirror: Path,
    ) -> None:
        straight = stylize(PHOTO, mirror, "--batch", "2", "--output", out.parent / "straight").paths
        outcome, folders = interrupt(PHOTO, mirror, "--batch", "2")
        assert f"all of them: stylescore stylize --resume {out}" in outcome.err

        resumed = resume(out)

        assert resumed.code == 0, resumed.err
        assert resumed.paths == [folder / "picture.png" for folder in folders]
        for mine, other in zip(resumed.paths, straight, strict=True):
            assert pixels(mine) == pixels(other)
            assert steps(mine.parent) == steps(other.parent)
        outcome = resume(out)
        assert outcome.code == 2
        assert outcome.complaint[0] == f"every run in {str(out)!r} is finished"

    def test_a_batch_that_stops_between_its_pictures_goes_on_with_the_rest(
        self,
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        out: Path,
        mirror: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        straight = stylize(PHOTO, mirror, "--batch", "2", "--output", out.parent / "straight").paths
        from stylescore.runs.runner import Batch

        original = Batch._write_result

        def write_result(batch: Any, index: int, job: Any) -> Any:
            if index == 1:
                raise KeyboardInterrupt
            return original(batch, index, job)

        with monkeypatch.context() as patch:
            patch.setattr(Batch, "_write_result", write_result)
            stopped = stylize(PHOTO, mirror, "--batch", "2")
        assert stopped.code == 130
        (first,) = stopped.paths
        assert str(first.parent) not in stopped.err

        resumed = resume(out)

        assert len(resumed.paths) == 1
        assert [pixels(first), pixels(resumed.picture)] == [pixels(path) for path in straight]

    def test_a_run_in_use_is_left_out(
        self, interrupt: Callable[..., Any], program: Callable[..., Any], out: Path, mirror: Path
    ) -> None:
        from stylescore.runs.lock import hold

        _, (first,) = interrupt(PHOTO)
        _, (second,) = interrupt(mirror)
        with hold(first):
            outcome = program("stylize", "--resume", out)
        assert outcome.paths == [second / "picture.png"]
        assert f"note: left out: the run in {str(first)!r} is in use by another process" in outcome.err


class TestOneProcess:
    def test_a_folder_in_use_is_refused(self, interrupt: Callable[..., Any], resume: Callable[..., Any]) -> None:
        from stylescore.runs.lock import hold

        _, (folder,) = interrupt(PHOTO)
        with hold(folder):
            outcome = resume(folder)
            assert outcome.code == 2
            assert outcome.complaint == [
                f"the run in {str(folder)!r} is in use by another process",
                "wait until it ends, or stop it",
            ]
        assert resume(folder).code == 0

    def test_a_new_run_is_held_while_it_runs(
        self, stylize: Callable[..., Any], stop_after: Callable[..., None], out: Path
    ) -> None:
        from stylescore.errors import OutputError
        from stylescore.runs.lock import hold

        refused = []

        def try_to_hold() -> None:
            (folder,) = out.iterdir()
            with pytest.raises(OutputError) as caught, hold(folder):
                pass
            refused.append(str(caught.value))

        stop_after(2, try_to_hold)
        assert stylize(PHOTO).code == 0
        assert "is in use by another process" in refused[0]

    def test_leftovers_of_a_killed_run_are_removed(
        self, interrupt: Callable[..., Any], resume: Callable[..., Any]
    ) -> None:
        _, (folder,) = interrupt(PHOTO, "--preview-every", "1")
        for name in (".partial-abc.png", "previews/.partial-abc.png", ".lock"):
            (folder / name).touch()
        assert resume(folder).code == 0
        assert [path.name for path in folder.rglob(".*")] == []


class TestEditedSettings:
    @pytest.mark.parametrize(
        ("before", "after", "named"),
        [
            ("seed = 0", "seed = 5", "run.seed is 5, was 0"),
            ("size = 64", "size = 128", "run.size is 128, was 64"),
            ("iterations = 4", "iterations = 3", "run.method.iterations is 3, was 4"),
        ],
    )
    def test_what_matters_is_refused_and_named(
        self, before: str, after: str, named: str, interrupt: Callable[..., Any], resume: Callable[..., Any]
    ) -> None:
        _, (folder,) = interrupt(PHOTO)
        record = folder / "config.toml"
        text = record.read_text("utf-8")
        assert before in text
        record.write_text(text.replace(before, after, 1), encoding="utf-8")
        files = {path.name: path.read_bytes() for path in folder.iterdir()}

        outcome = resume(folder)

        assert outcome.code == 2
        assert outcome.complaint[0] == f"config.toml changed after the run began: {named}"
        assert outcome.complaint[1].startswith("undo the change; or begin a new run")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        record.write_text(text, encoding="utf-8")
        assert resume(folder).code == 0

    def test_what_cannot_matter_is_taken_over(
        self, interrupt: Callable[..., Any], stylize: Callable[..., Any], resume: Callable[..., Any]
    ) -> None:
        _, (folder,) = interrupt(PHOTO, "--device", "cpu")
        record = folder / "config.toml"
        text = record.read_text("utf-8")
        for before, after in (("preview_every = 0", "preview_every = 4"), ('device = "cpu"', 'device = "auto"')):
            assert before in text
            text = text.replace(before, after)
        record.write_text(text, encoding="utf-8")

        picture = resume(folder).picture

        assert (folder / "previews" / "step-00004.png").is_file()
        assert pixels(picture) == pixels(stylize(PHOTO).picture)
        assert "preview_every = 4" in read_metadata(picture)["stylescore"]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    arguments = ["stylize", PHOTO, "--style", STYLE, "--model", TINY, "--size", "64", "--output", out, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "stylescore", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def lines_of(file: Path) -> int:
    return file.read_text("utf-8").count("\n") if file.is_file() else 0


def test_real_processes_and_real_signals(
    stylize: Callable[..., Any], resume: Callable[..., Any], tmp_path: Path, steps: Steps
) -> None:
    """The states come from other processes; the straight run is made in this one."""
    folders = {name: tmp_path / name / "input_128x128-style_lora_kohya" for name in ("SIGINT", "SIGTERM")}
    processes = {name: start(folder.parent, "--iterations", "30") for name, folder in folders.items()}
    waiting, deadline = set(processes), time.monotonic() + 300
    while waiting and time.monotonic() < deadline:
        for name in [name for name in waiting if lines_of(folders[name] / "steps.jsonl") >= 3]:
            processes[name].send_signal(getattr(signal, name))
            waiting.remove(name)
        time.sleep(0.02)

    for name, process in processes.items():
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert f"saved; resume with: stylescore stylize --resume {folders[name]}" in err
        assert 3 <= len(steps(folders[name])) < 30
    straight = stylize(PHOTO, "--iterations", "30").picture
    for folder in folders.values():
        assert pixels(resume(folder).picture) == pixels(straight)
        assert steps(folder) == steps(straight.parent)
