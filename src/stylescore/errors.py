"""The exceptions stylescore raises on purpose.

```text
StylescoreError            our own failure, exit code 1
├── InputError             the caller can repair it, exit code 2
│   ├── PictureError       a photo that cannot be read or used
│   ├── StyleError         a style name or adapter file that cannot be used
│   ├── ModelError         a model that cannot be found or lacks a part
│   ├── ConfigError        a preset, option or number outside its range
│   ├── DeviceError        a device or precision this machine does not have
│   └── OutputError        a place that cannot be written to
└── NonFiniteError         the run produced NaN or infinity and was stopped
```

Every message states the rule that was broken and the offending value; `hint` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class StylescoreError(Exception):
    """Base of all errors of this package.

    Attributes:
        hint: what the reader can do about it, or `None`.
        exit_code: what the command line returns.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(StylescoreError):
    """Something the caller gave cannot be used."""

    exit_code = 2


class PictureError(InputError):
    """A photo that cannot be read or used."""


class StyleError(InputError):
    """A style name or an adapter file that cannot be used."""


class ModelError(InputError):
    """A model that cannot be found, read, or lacks a part."""


class ConfigError(InputError):
    """A preset, an option or a number outside its range."""


class DeviceError(InputError):
    """A device or precision this machine does not have."""


class OutputError(InputError):
    """A place that cannot be written to."""


class NonFiniteError(StylescoreError):
    """The run produced NaN or infinity and was stopped.

    Attributes:
        iteration: 0-based iteration at which it happened.
        timesteps: the timesteps drawn in that iteration, one per sample.
    """

    def __init__(self, what: str, *, iteration: int, timesteps: Iterable[int]) -> None:
        self.iteration = iteration
        self.timesteps = tuple(timesteps)
        drawn = ", ".join(str(t) for t in self.timesteps)
        super().__init__(
            f"{what} became non-finite at step {iteration} (t = {drawn})",
            hint="lower the learning rate or guidance scale, or use --dtype float32",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint naming the closest known name, or the list of all, or `None` for no names."""
    names = sorted(known)
    if not names:
        return None
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(names)}"
