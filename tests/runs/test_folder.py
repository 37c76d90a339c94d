import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylescore.errors import ConfigError, OutputError
from stylescore.method.state import PictureState
from stylescore.runs.folder import RunFolder, make_folder


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


def test_a_log_that_is_no_text_is_told(folder: RunFolder) -> None:
    folder.log_file.write_bytes(b'{"iteration": 0}\n\xff\xfe')
    for read in (folder.count_steps, lambda: folder.check_steps(1), lambda: folder.cut_steps(0)):
        with pytest.raises(ConfigError, match=r"the log '.*steps\.jsonl' cannot be read: it is not UTF-8 text"):
            read()


def test_a_folder_in_the_place_of_the_log_is_told(folder: RunFolder) -> None:
    folder.log_file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        folder.check_steps(1)
    with pytest.raises(OutputError, match="cannot write to"):
        folder.append_step({"iteration": 0})


def test_a_log_without_permission_is_told(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        folder.check_steps(1)


@pytest.mark.parametrize("line", ['{"iteration": 1', '{"iteration": 1}', "\n", "1\n", "\0\0\0\n", "[" * 100_000 + "\n"])
def test_a_damaged_line_of_an_iteration_that_is_done_is_told(folder: RunFolder, line: str) -> None:
    folder.append_step({"iteration": 0})
    with folder.log_file.open("a") as file:
        file.write(line)
    before = folder.log_file.read_bytes()
    with pytest.raises(ConfigError, match="is damaged in line 2") as caught:
        folder.cut_steps(2)
    assert caught.value.hint == "remove it to resume without the log of the earlier iterations, or begin a new run"
    assert folder.log_file.read_bytes() == before
    assert len(folder.check_steps(1)) == 1


@pytest.mark.parametrize("name", ["tensorboard"])
def test_a_file_in_the_place_of_a_folder_is_told(folder: RunFolder, name: str) -> None:
    folder.check_places()
    (folder.path / name).write_text("")
    with pytest.raises(OutputError, match=f"{name}' is not a folder, the run needs one there"):
        folder.check_places()
    with pytest.raises(OutputError, match="cannot write to"):
        make_folder(folder.path / name)


@pytest.mark.parametrize("name", ["steps.jsonl", "state.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_told(folder: RunFolder, name: str) -> None:
    (folder.path / name).mkdir()
    with pytest.raises(OutputError, match=f"{name}' is a folder, the run needs a file there"):
        folder.check_places()


def state() -> PictureState:
    tensors = {"z": torch.arange(6.0).view(1, 2, 3), "generator": torch.Generator().manual_seed(1).get_state()}
    return PictureState(17, tensors)


def test_a_state_comes_back_bit_for_bit(folder: RunFolder) -> None:
    folder.save_state(state())
    found = folder.load_state(PictureState)
    assert found is not None
    assert found.iteration == 17
    assert found.tensors.keys() == state().tensors.keys()
    for name, tensor in state().tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_there_is_no_state_before_one_is_saved_and_after_it_is_removed(folder: RunFolder) -> None:
    assert folder.load_state(PictureState) is None
    folder.save_state(state())
    folder.remove_state()
    folder.remove_state()
    assert folder.load_state(PictureState) is None


@pytest.mark.parametrize("damage", ["empty", "short", "noise"])
def test_a_damaged_state_is_told(folder: RunFolder, damage: str) -> None:
    folder.save_state(state())
    whole = folder.state_file.read_bytes()
    folder.state_file.write_bytes({"empty": b"", "short": whole[:-8], "noise": bytes(range(256))}[damage])
    with pytest.raises(ConfigError, match="is damaged"):
        folder.load_state(PictureState)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"iteration": "1.5"}, {"iteration": "true"}, {"iteration": "x"}, {"iteration": "1", "x": "2"}],
)
def test_a_state_without_its_iteration_is_told(folder: RunFolder, metadata: dict[str, str] | None) -> None:
    save_file(dict(state().tensors), folder.state_file, metadata)
    with pytest.raises(ConfigError, match="is damaged"):
        folder.load_state(PictureState)


def test_an_older_state_survives_a_failed_write(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save_state(state())

    def full_disk(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError):
        folder.save_state(PictureState(18, state().tensors))
    found = folder.load_state(PictureState)
    assert found is not None
    assert found.iteration == 17
    assert [path.name for path in folder.path.iterdir()] == ["state.safetensors"]


def test_a_state_that_is_not_finite_is_damaged(folder: RunFolder) -> None:
    folder.save_state(PictureState(17, {"z": torch.tensor([1.0, float("nan")])}))
    with pytest.raises(ConfigError, match="is damaged: it holds NaN or infinity"):
        folder.load_state(PictureState)


def test_a_new_folder_appears_with_its_files_or_not_at_all(tmp_path: Path) -> None:
    def fill(folder: RunFolder) -> None:
        assert not (tmp_path / "house").exists()
        folder.config_file.write_text("a = 1")

    assert RunFolder.new(tmp_path, "house", fill).config_file.read_text() == "a = 1"

    def fail(folder: RunFolder) -> None:
        folder.config_file.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunFolder.new(tmp_path, "other", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["house"]


def test_the_next_run_removes_a_folder_that_a_killed_one_had_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylescore_apply.storage import files

    left = files.partial_path(tmp_path)
    left.mkdir()
    monkeypatch.setattr(files, "_PROCESS", "another0")
    RunFolder.new(tmp_path, "house")
    assert [path.name for path in tmp_path.iterdir()] == ["house"]


def test_leftovers_in_a_folder_and_its_subfolders_are_removed(folder: RunFolder) -> None:
    folder.curves.mkdir()
    for place in (folder.path, folder.curves):
        (place / ".partial-abc.png").touch()
    folder.remove_partials()
    assert [path.name for path in folder.path.rglob("*")] == ["tensorboard"]


def test_a_staged_state_stands_beside_the_earlier_one_until_it_replaces_it(folder: RunFolder) -> None:
    folder.save_state(state())
    folder.stage_state(PictureState(18, state().tensors))
    found = [folder.load_state(PictureState), folder.load_staged_state(PictureState)]
    assert [entry and entry.iteration for entry in found] == [17, 18]
    folder.commit_state()
    found = [folder.load_state(PictureState), folder.load_staged_state(PictureState)]
    assert [entry and entry.iteration for entry in found] == [18, None]
    folder.stage_state(PictureState(19, state().tensors))
    folder.save_state(PictureState(20, state().tensors))
    assert [path.name for path in folder.path.iterdir()] == ["state.safetensors"]
    folder.stage_state(PictureState(21, state().tensors))
    folder.remove_state()
    assert list(folder.path.iterdir()) == []


def test_the_settings_that_made_a_state_come_back(folder: RunFolder) -> None:
    folder.save_state(PictureState(17, state().tensors, {"run.seed": 3, "photo": "a", "list": [1, 2]}))
    found = folder.load_state(PictureState)
    assert found is not None
    assert found.settings == {"run.seed": 3, "photo": "a", "list": [1, 2]}
    save_file(dict(state().tensors), folder.state_file, {"iteration": "17", "settings": "[1]"})
    with pytest.raises(ConfigError, match=r"(?s)is damaged: .*settings"):
        folder.load_state(PictureState)
