"""Damaged files of every kind that is read: each reader returns or raises one of our errors, in one line and soon."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from attempts import Tally
from place import load_module

PIECES = (b"", b"\0", b"[[[[", b'{"a":', b"9" * 400, b"-1", b"1e400", b"NaN", b"\xff", b"\n", b"''", b"\x80" * 40)
PICTURES = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "TGA", "JPEG2000")
Reader = Callable[[Path], object]


def damage(valid: bytes, chance: random.Random) -> bytes:
    """Return a file with one to three pieces replaced, removed, doubled or cut off."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randint(0, len(valid))
        end = min(len(valid), start + chance.randint(0, 40))
        piece = chance.choice([*PIECES, chance.randbytes(chance.randint(1, 20))])
        valid = chance.choice([valid[:start] + piece + valid[end:], valid[:start], valid[:end] + valid[start:]])
    return valid


def _sources(readers: ModuleType, folder: Path) -> Iterator[tuple[Reader, bytes]]:
    """Yield every reader with a valid file for it."""
    yield from ((read, readers.TOML) for read in readers.TOML_READERS)
    yield from ((read, readers.JSON) for read in readers.JSON_READERS)
    yield from ((read, readers.TABLE) for read in readers.TEXT_READERS)
    yield from ((read, readers.lora_bytes(folder)) for read in readers.LORA_READERS)
    for kind in PICTURES:
        yield readers.read_photo, readers.photo_bytes(kind)
    yield from _run_sources()


def _run_sources() -> Iterator[tuple[Reader, bytes]]:
    """Yield readers of what is in a run's folder."""
    import torch
    from safetensors.torch import save

    from stylescore.runs.folder import RunFolder, read_state
    from stylescore.training.folder import TrainingState
    from stylescore.training.start import find_start

    def read_log(path: Path) -> object:
        path.replace(path.with_name("steps.jsonl"))
        return RunFolder(path.parent).check_steps(3)

    def read_result(path: Path) -> object:
        path.with_name("config.toml").touch()
        path.replace(path.with_name("result.json"))
        return find_start(str(path.parent))

    state = {"iteration": "3", "scaler": "null", "settings": '{"a": 1}'}
    yield (lambda path: read_state(path, TrainingState)), save({"a": torch.ones(3)}, state)
    yield read_log, b'{"index": 0}\n{"index": 1}\n{"index": 2}\n'
    yield read_result, b'{"style": "/nowhere/a.safetensors", "sha256": "00"}\n'


def run(count: int, seed: int = 0) -> Tally:
    """Read so many damaged files."""
    readers, tally = load_module("test_hostile_files.py"), Tally("damaged files")
    with tempfile.TemporaryDirectory() as folder:
        sources: Sequence[tuple[Reader, bytes]] = list(_sources(readers, Path(folder)))
        for number in range(count):
            read, valid = sources[number % len(sources)]
            content = damage(valid, random.Random(f"{seed} {number}"))
            if reason := _attempt(readers, read, content):
                name = getattr(read, "__name__", "read")
                tally.fail(f"{name}, number {number}: {reason}; the file begins with {content[:60]!r}")
            tally.count()
    return tally


def _attempt(readers: ModuleType, read: Reader, content: bytes) -> str:
    """Return what is wrong with how a reader took a file; empty if nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given"
        path.write_bytes(content)
        try:
            readers.attempt(read, path)
        except AssertionError as error:
            return f"too slow, or more than one short line: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""
