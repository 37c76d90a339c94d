"""Running out of memory is one line that says what was computed, how much was wanted and what takes less."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stylescore import errors
from stylescore.assembly import stylizer as stylizers
from stylescore.errors import (
    MemoryLimitError,
    PictureError,
    StylescoreError,
    count_of,
    is_out_of_memory,
    memory_limit,
    quote,
)
from stylescore.images import read_photo
from stylescore.method import fit as fits
from stylescore_apply.images import opening

CPU = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
GPU = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8.00 GiB of which 1.2 GiB is free."
TOO_MUCH: list[tuple[BaseException, str]] = [
    (RuntimeError(CPU + "8000000000000 bytes. Error code 12 (Cannot allocate memory)"), "it wanted 7.28 TiB more"),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."), "it wanted 4 KiB more"),
    (torch.OutOfMemoryError(GPU), "it wanted 2.5 GiB more"),
    (
        RuntimeError("MPS backend out of memory. Tried to allocate 256.00 MiB on private pool."),
        "it wanted 256 MiB more",
    ),
    (RuntimeError("CUDA error: out of memory"), "not enough memory for counting"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "not enough memory"),
    (MemoryError(), "not enough memory for counting"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory for counting"),
]


@pytest.mark.parametrize(("raised", "words"), TOO_MUCH)
def test_every_way_to_run_out_of_memory_is_one_line(raised: BaseException, words: str) -> None:
    with pytest.raises(MemoryLimitError) as caught, memory_limit("counting"):
        raise raised
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    for option in ("--batch 1", "--memory low", "--memory offload", "--size", "--tile"):
        assert option in (caught.value.hint or "")
    assert caught.value.__cause__ is raised


@pytest.mark.parametrize(
    "other",
    [RuntimeError("shapes differ"), ValueError("x"), OSError(errno.ENOSPC, "No space"), KeyboardInterrupt()],
)
def test_other_errors_pass(other: BaseException) -> None:
    assert not is_out_of_memory(other)
    with pytest.raises(type(other)) as caught, memory_limit("counting"):
        raise other
    assert caught.value is other


def test_what_torch_raises_is_recognized() -> None:
    words = r"not enough memory for counting: it wanted [\d.]+ TiB more"
    with pytest.raises(MemoryLimitError, match=words), memory_limit("counting"):
        torch.empty(2**47, dtype=torch.uint8)
    with pytest.raises(MemoryLimitError, match="not enough memory"), memory_limit("counting"):
        torch.empty((2**40, 2**40))


def test_the_innermost_block_names_what_was_done() -> None:
    with pytest.raises(MemoryLimitError, match=r"for decoding$"), memory_limit("all"), memory_limit("decoding"):
        raise MemoryError


def raise_out_of_memory(*_: Any, **__: Any) -> Any:
    raise RuntimeError(CPU + "1024 bytes.")


def test_an_iteration_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "_steps", raise_out_of_memory)
    fitting: Any = SimpleNamespace(
        iteration=0,
        iterations=3,
        growth=None,
        learning_rate=lambda _: 0.1,
        counter=SimpleNamespace(snapshot=lambda: (0, 0)),
    )
    with pytest.raises(MemoryLimitError, match="not enough memory for computing an iteration: it wanted 1 KiB more"):
        inspect.unwrap(fits._iterate)(fitting)


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from stylescore.config.run import RunConfig, StyleChoice

    monkeypatch.setattr(stylizers, "load_networks", raise_out_of_memory)
    with pytest.raises(MemoryLimitError, match="not enough memory for loading the model"):
        stylizers.Stylizer(RunConfig(styles=(StyleChoice(name="oil-painting"),)))


def test_a_photo_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(opening, "_check_size", fail)
    with pytest.raises(PictureError, match="is damaged, or needs more memory than there is"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("value", [10**5000, "x" * 5000, [1] * 5000], ids=["digits", "letters", "entries"])
def test_a_quoted_value_is_short(value: object) -> None:
    assert len(quote(value)) < 250


@pytest.mark.parametrize(("number", "text"), [(0, "0 photos"), (1, "1 photo"), (2, "2 photos")])
def test_a_number_is_given_with_its_noun(number: int, text: str) -> None:
    assert count_of(number, "photo") == text


def test_a_deep_value_can_be_quoted() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(quote(deep)) < 250
    while deep:
        deep = deep.pop()


def test_every_error_is_ours() -> None:
    assert issubclass(errors.MemoryLimitError, StylescoreError)
