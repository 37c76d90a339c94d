"""The exceptions that both distributions share, and helpers for their messages.

```text
StylescoreError            a failure of the package, exit code 1
├── InputError             the caller can correct it, exit code 2
│   ├── PictureError       a photo that cannot be read or used
│   ├── ModelError         a network or model that cannot be found or lacks a part
│   ├── ConfigError        an option or number outside its range
│   └── OutputError        a file or folder that cannot be written
└── MemoryLimitError       the computation needed more memory than there is
```

Every message states the rule and the value that broke it; `hint` says what to do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_LONGEST_QUOTE = 200
_OUT_OF_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|cannot allocate memory|_ALLOC_FAILED"
    r"|Storage size calculation overflowed",
    re.I,
)
_WANTED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]i?B)", re.I)


class StylescoreError(Exception):
    """Base of all errors of this package.

    Attributes:
        hint: what to do about it, or `None`.
        exit_code: exit code of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(StylescoreError):
    """An argument, file or option that cannot be used."""

    exit_code = 2


class PictureError(InputError):
    """A photo that cannot be read or used."""


class ModelError(InputError):
    """A model that cannot be found, read, or lacks a part."""


class ConfigError(InputError):
    """A preset, an option or a number outside its range."""


class OutputError(InputError):
    """A file or folder that cannot be written."""


class MemoryLimitError(StylescoreError):
    """A computation needed more memory than this machine or its GPU has left."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint with the closest known name, else with all names, or `None` if there are no names."""
    names = sorted(known)
    return suggest_closest(name, names) or (f"known names: {', '.join(names)}" if names else None)


def suggest_closest(name: str, known: Iterable[str]) -> str | None:
    """Return a hint with the known name that is spelt most like a name, or `None` if none is close."""
    close = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else None


def quote(value: object) -> str:
    """Return a value as messages show it: its `repr`, shortened if it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a list nested as deeply
        return f"a very large {type(value).__name__}"
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]} ..."


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural ends in s: `1 photo`, `2 photos`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on the CPU or a GPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


@contextmanager
def memory_limit(doing: str, hint: str) -> Iterator[None]:
    """Raise `MemoryLimitError` if memory runs out inside the block.

    Args:
        doing: what the block does, such as "loading the model".
        hint: what takes less memory.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryLimitError(f"not enough memory for {doing}{_wanted(error)}", hint=hint) from error


def _wanted(error: BaseException) -> str:
    """Return how much memory an error says was wanted, in words; empty if it does not say."""
    match = _WANTED.search(str(error))
    if match is None:
        return ""
    size, unit = float(match[1]), match[2]
    return f": it wanted {_readable(size) if unit == 'bytes' else f'{size:g} {unit}'} more"


def _readable(size: float) -> str:
    """Return a number of bytes in the largest unit of which there is at least one."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
