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
├── MemoryLimitError       the run needed more memory than there is
└── NonFiniteError         the run produced NaN or infinity and was stopped
```

Every message states the rule and the value that broke it; `hint` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from stylescore_apply import errors as shared
from stylescore_apply.errors import ConfigError as ConfigError
from stylescore_apply.errors import InputError as InputError
from stylescore_apply.errors import MemoryLimitError as MemoryLimitError
from stylescore_apply.errors import ModelError as ModelError
from stylescore_apply.errors import OutputError as OutputError
from stylescore_apply.errors import PictureError as PictureError
from stylescore_apply.errors import StylescoreError as StylescoreError
from stylescore_apply.errors import count_of as count_of
from stylescore_apply.errors import did_you_mean as did_you_mean
from stylescore_apply.errors import is_out_of_memory as is_out_of_memory
from stylescore_apply.errors import quote as quote
from stylescore_apply.errors import suggest_closest as suggest_closest

_LESS_MEMORY = (
    "what takes less: --batch 1, --memory low, on a GPU --memory offload, a smaller --size, or a smaller --tile for a "
    "large picture"
)


class StyleError(InputError):
    """A style name or an adapter file that cannot be used."""


class DeviceError(InputError):
    """A device or precision this machine does not have."""


class NonFiniteError(StylescoreError):
    """The run produced NaN or infinity and was stopped.

    Attributes:
        iteration: index of the iteration, from 0.
        timesteps: the iteration's timesteps, one for each sample.
    """

    def __init__(self, what: str, *, iteration: int, timesteps: Iterable[int]) -> None:
        self.iteration = iteration
        self.timesteps = tuple(timesteps)
        drawn = f" (t = {', '.join(str(t) for t in self.timesteps)})" if self.timesteps else ""
        hint = "lower the learning rate or guidance scale, or use --dtype float32"
        if iteration == 0:
            hint = "use --dtype float32; if it happens again, the model's or the LoRA's file holds NaN: get another"
        super().__init__(f"{what} became non-finite at step {iteration}{drawn}", hint=hint)


def memory_limit(doing: str) -> AbstractContextManager[None]:
    """Raise `MemoryLimitError` if memory runs out inside the block.

    Args:
        doing: what the block does, such as "loading the model".
    """
    return shared.memory_limit(doing, _LESS_MEMORY)
