from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylescore.errors import InputError, OutputError, PictureError
from stylescore_apply.storage import files
from stylescore_apply.storage.files import atomic, partial_path, remove_partials, sha256


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, text: str = "new") -> None:
    with atomic(path) as temporary:
        temporary.write_text(text)


def test_success_leaves_only_the_target(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_replaces_an_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_temporary_is_in_the_same_folder_with_the_same_suffix(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.png") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        assert not temporary.exists()
        temporary.touch()


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_longest_allowed_name_works(tmp_path: Path) -> None:
    write(tmp_path / ("a" * 251 + ".txt"))
    assert len(names(tmp_path)[0]) == 255


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError, PictureError, SystemExit])
def test_failure_leaves_nothing_behind(tmp_path: Path, failure: type[BaseException]) -> None:
    (tmp_path / "a.txt").write_text("old")

    def interrupted() -> None:
        with atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise failure("stop")

    with pytest.raises(failure):
        interrupted()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("code", "word"), [(errno.ENOSPC, "space"), (errno.EACCES, "permissions"), (errno.EIO, "check")]
)
def test_system_refusal_at_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, word: str) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"'.*a\.txt' cannot be written") as caught:
        write(tmp_path / "a.txt")
    assert word in (caught.value.hint or "")
    assert names(tmp_path) == []


def test_full_disk_while_writing(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            with open("/dev/full", "w") as full:
                full.write("x")

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(OutputError, match="No space left") as caught:
        fill()
    assert "free some space" in (caught.value.hint or "")
    assert names(tmp_path) == []


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError), atomic(tmp_path / "a.txt"):
        pass


def test_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write(tmp_path / "file" / "a.txt")


def test_grandparent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write(tmp_path / "file" / "deeper" / "a.txt")


def test_parent_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist") as caught:
        write(tmp_path / "none" / "a.txt")
    assert caught.value.hint


def test_target_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        write(tmp_path)


def test_device_is_not_replaced() -> None:
    with pytest.raises(OutputError, match="device"):
        write(Path(os.devnull))
    assert not Path(os.devnull).is_file()


def test_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write(tmp_path / ("a" * 400))
    assert caught.value.hint == "choose a shorter file name"
    assert names(tmp_path) == []


def test_nul_in_the_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write(tmp_path / "a\0b")


def test_sha256_of_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "abc") == expected


def test_sha256_of_a_folder_ignores_order_of_creation(tmp_path: Path) -> None:
    for folder, order in (("one", "abc"), ("two", "cab")):
        for name in order:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "x").write_text(name)
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")


def test_sha256_of_a_folder_sees_content_and_names(tmp_path: Path) -> None:
    digests = set()
    for folder, name, text in (("one", "a", "x"), ("two", "a", "y"), ("three", "b", "x")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        digests.add(sha256(tmp_path / folder))
    assert len(digests) == 3


def test_sha256_of_a_folder_without_some_entries(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "styles").write_bytes(b"kept")
    (tmp_path / "two" / "styles").mkdir()
    (tmp_path / "two" / "styles" / "new").write_bytes(b"left out")
    (tmp_path / "two" / "README.md").write_bytes(b"left out")
    assert sha256(tmp_path / "two", ("styles", "README.md")) == sha256(tmp_path / "one")
    (tmp_path / "two" / "deep" / "styles").write_bytes(b"changed")
    assert sha256(tmp_path / "two", ("styles", "README.md")) != sha256(tmp_path / "one")


def test_sha256_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'.*none' cannot be read"):
        sha256(tmp_path / "none")


def test_a_temporary_may_have_another_suffix(tmp_path: Path) -> None:
    with atomic(tmp_path / "a.safetensors", suffix=".tmp") as temporary:
        temporary.write_text("half")
        assert list(tmp_path.glob("*.safetensors")) == []
    assert names(tmp_path) == ["a.safetensors"]


def of_process(folder: Path, number: int) -> Path:
    """Make the hidden file of a process."""
    path = folder / partial_path(folder).name.replace(f"-{os.getpid()}-", f"-{number}-")
    path.touch()
    return path


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    live = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        left, written, own = of_process(tmp_path, ended.pid), of_process(tmp_path, live.pid), partial_path(tmp_path)
        own.touch()
        folder = of_process(tmp_path, ended.pid)
        folder.unlink()
        folder.mkdir()
        (folder / "config.toml").touch()
        remove_partials(tmp_path, owned=False)
        assert not left.exists()
        assert not folder.exists()
        assert written.exists()
        assert own.exists()
    finally:
        live.communicate(b"\n")


def test_an_earlier_process_of_the_same_number_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = partial_path(tmp_path)
    path.touch()
    monkeypatch.setattr(files, "_PROCESS", "another0")
    remove_partials(tmp_path, owned=False)
    assert not path.exists()


def test_processes_of_other_machines_and_other_names_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_process(tmp_path, 2**22 + 1)
    others = [tmp_path / name for name in (".partial-", ".partial-abc.safetensors", "a.txt", ".hidden")]
    for other in others:
        other.touch()
    monkeypatch.setattr(files, "_HOST", "elsewhere")
    remove_partials(tmp_path, owned=False)
    assert path.exists()
    remove_partials(tmp_path, owned=True)
    assert names(tmp_path) == [".hidden", "a.txt"]
