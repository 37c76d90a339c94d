"""The exceptions that stylescore raises.

```text
StylescoreError            a failure of the package, exit code 1
├── InputError             the caller can correct it, exit code 2
│   ├── PictureError       a photo that cannot be read or used
│   ├── StyleError         a style name or adapter file that cannot be used
│   ├── ModelError         a model that cannot be found or lacks a part
│   ├── ConfigError        a preset, option or number outside its range
│   ├── DeviceError        a device or precision this machine does not have
│   └── OutputError        a file or folder that cannot be written
└── NonFiniteError         the run produced NaN or infinity and was stopped
```

Every message states the rule and the value that broke it; `hint` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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


class StyleError(InputError):
    """A style name or an adapter file that cannot be used."""


class ModelError(InputError):
    """A model that cannot be found, read, or lacks a part."""


class ConfigError(InputError):
    """A preset, an option or a number outside its range."""


class DeviceError(InputError):
    """A device or precision this machine does not have."""


class OutputError(InputError):
    """A file or folder that cannot be written."""


class NonFiniteError(StylescoreError):
    """The run produced NaN or infinity and was stopped.

    Attributes:
        iteration: index of the iteration, from 0.
        timesteps: the iteration's timesteps, one for each sample.
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
    """Return a hint with the closest known name, else with all names, or `None` if there are no names."""
    names = sorted(known)
    if not names:
        return None
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known names: {', '.join(names)}"
