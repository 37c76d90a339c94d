import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from stylescore.config import presets
from stylescore.config.run import RunConfig, StyleChoice
from stylescore.errors import ConfigError, OutputError
from stylescore.method.fit import Iteration
from stylescore.method.state import PictureState
from stylescore.method.types import FakeStep, Step
from stylescore.runs.folder import Record, RunFolder, step_row


def record(**changes: Any) -> Record:
    styles = (StyleChoice(name="ink", weight=0.5), StyleChoice(name="wash"))
    run = RunConfig(styles=styles, caption='a "red" house', seed=7, method=presets.load("reference", "vsd"))
    values: dict[str, Any] = {
        "photo": "photos/ü.jpg",
        "photo_sha256": "aa",
        "model_sha256": "bb",
        "style_sha256": ("cc", "dd"),
        "style_prompt": "ink",
        "run": run,
    }
    return Record(**(values | changes))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.new(tmp_path, "house")


def test_a_taken_name_gets_the_next_number(tmp_path: Path) -> None:
    names = [RunFolder.new(tmp_path / "runs", "house").path.name for _ in range(3)]
    assert names == ["house", "house-2", "house-3"]


def test_a_gap_in_the_numbers_is_filled(tmp_path: Path) -> None:
    for name in ("house", "house-3"):
        (tmp_path / name).mkdir()
    assert RunFolder.new(tmp_path, "house").path.name == "house-2"


def test_a_parent_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        RunFolder.new(tmp_path / "file", "house")


def test_a_name_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "house").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        RunFolder.new(tmp_path, "house")


def test_where_things_lie(folder: RunFolder) -> None:
    names = [folder.picture, folder.model_picture, folder.before_after, folder.animation, folder.preview(20)]
    assert [path.relative_to(folder.path).as_posix() for path in names] == [
        "picture.png",
        "picture-model-size.png",
        "before-after.png",
        "run.gif",
        "previews/step-00020.png",
    ]


def test_a_record_comes_back_as_it_was(folder: RunFolder) -> None:
    written = record(gif=True, preview_every=25)
    folder.write_record(written)
    assert folder.read_record() == written


@pytest.mark.parametrize("content", [None, b"[[", b"\xff\xfe"])
def test_a_folder_without_a_readable_record_is_no_run_folder(folder: RunFolder, content: bytes | None) -> None:
    if content is not None:
        (folder.path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a run folder") as caught:
        folder.read_record()
    assert caught.value.hint == "give the folder that holds config.toml"


@pytest.mark.parametrize(("text", "message"), [("", "lacks photo"), ("fotto = 1", "unknown setting")])
def test_a_record_of_another_kind_is_refused(folder: RunFolder, text: str, message: str) -> None:
    (folder.path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        folder.read_record()


def lines(folder: RunFolder) -> list[str]:
    return (folder.path / "steps.jsonl").read_text().splitlines()


def test_steps_are_appended_one_a_line(folder: RunFolder) -> None:
    folder.append_step({"iteration": 0, "t": 499})
    folder.append_step({"iteration": 1, "t": 21})
    assert lines(folder) == ['{"iteration": 0, "t": 499}', '{"iteration": 1, "t": 21}']


@pytest.mark.parametrize(("keep", "left"), [(0, 0), (2, 2), (3, 3), (9, 3)])
def test_steps_beyond_the_kept_state_are_cut(folder: RunFolder, keep: int, left: int) -> None:
    for i in range(3):
        folder.append_step({"iteration": i})
    folder.cut_steps(keep)
    assert lines(folder) == [f'{{"iteration": {i}}}' for i in range(left)]
    folder.append_step({"iteration": left})
    assert len(lines(folder)) == left + 1


def test_a_line_that_was_cut_off_while_writing_is_dropped(folder: RunFolder) -> None:
    folder.append_step({"iteration": 0})
    with (folder.path / "steps.jsonl").open("a") as file:
        file.write('{"itera')
    folder.cut_steps(1)
    assert lines(folder) == ['{"iteration": 0}']


def test_cutting_steps_that_are_not_there_does_nothing(folder: RunFolder) -> None:
    folder.cut_steps(3)
    assert list(folder.path.iterdir()) == []


def state() -> PictureState:
    tensors = {"z": torch.arange(6.0).view(1, 2, 3), "generator": torch.Generator().manual_seed(1).get_state()}
    return PictureState(17, tensors)


def test_a_state_comes_back_bit_for_bit(folder: RunFolder) -> None:
    folder.save_state(state())
    found = folder.load_state()
    assert found is not None
    assert found.iteration == 17
    assert found.tensors.keys() == state().tensors.keys()
    for name, tensor in state().tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_there_is_no_state_before_one_is_kept_and_after_it_is_dropped(folder: RunFolder) -> None:
    assert folder.load_state() is None
    folder.save_state(state())
    folder.drop_state()
    folder.drop_state()
    assert folder.load_state() is None


@pytest.mark.parametrize("damage", ["empty", "short", "noise"])
def test_a_damaged_state_is_told(folder: RunFolder, damage: str) -> None:
    folder.save_state(state())
    whole = folder.state_file.read_bytes()
    folder.state_file.write_bytes({"empty": b"", "short": whole[:-8], "noise": bytes(range(256))}[damage])
    with pytest.raises(ConfigError, match="is damaged"):
        folder.load_state()


def test_a_state_without_its_iteration_is_told(folder: RunFolder) -> None:
    from safetensors.torch import save_file

    save_file(dict(state().tensors), folder.state_file)
    with pytest.raises(ConfigError, match="is damaged"):
        folder.load_state()


def test_an_older_state_survives_a_failed_write(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save_state(state())

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError):
        folder.save_state(PictureState(18, state().tensors))
    found = folder.load_state()
    assert found is not None
    assert found.iteration == 17
    assert [path.name for path in folder.path.iterdir()] == ["state.safetensors"]


def test_a_state_that_is_not_finite_is_damaged(folder: RunFolder) -> None:
    folder.save_state(PictureState(17, {"z": torch.tensor([1.0, float("nan")])}))
    with pytest.raises(ConfigError, match="is damaged: it holds NaN or infinity"):
        folder.load_state()


def test_a_folder_whose_record_cannot_be_written_is_not_left_behind(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: RunFolder, written: Record) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write_record", refuse)
    with pytest.raises(KeyboardInterrupt):
        folder.begin(record())
    assert not folder.path.exists()


def test_a_run_begins_with_its_record(folder: RunFolder) -> None:
    folder.begin(record())
    assert folder.read_record() == record()


def iteration(*, fake: bool) -> Iteration:
    step = Step(
        t=torch.tensor([21, 499]),
        gradient=torch.zeros(2, 4, 1, 2),
        relevance=torch.tensor([[0.0, 0.5], [0.5, 1.0]]).view(2, 1, 1, 2),
        score_loss=torch.tensor([1.0, 2.0]),
        spectrum_loss=torch.tensor([3.0, 4.0]),
        loss=torch.tensor([4.0, 6.0]),
    )
    fake_step = FakeStep(t=torch.tensor([101, 201]), loss=torch.tensor([5.0, 6.0])) if fake else None
    return Iteration(index=3, step=step, fake=fake_step, learning_rate=0.25, forward_passes=12, trained_passes=2)


def test_a_row_tells_one_pictures_share_of_a_step() -> None:
    assert step_row(iteration(fake=True), 1) == {
        "iteration": 3,
        "t": 499,
        "learning_rate": 0.25,
        "score_loss": 2.0,
        "spectrum_loss": 4.0,
        "relevance_mean": 0.75,
        "forward_passes": 6.0,
        "trained_passes": 1.0,
        "fake_t": 201,
        "fake_loss": 6.0,
    }


def test_a_row_of_a_method_without_a_fake_score_does_not_mention_it() -> None:
    assert "fake_loss" not in step_row(iteration(fake=False), 0)
