"""Balanced image stylization by matching diffusion scores.

`stylize` is the common case. The parts: `Stylizer` loads a configuration's models, `fit` runs the loop, and the
modules `objective`, `directions`, `relevance` and `spectrum` hold the method. Importing this package loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylescore._version import __version__ as __version__
from stylescore.errors import InputError as InputError
from stylescore.errors import NonFiniteError as NonFiniteError
from stylescore.errors import StylescoreError as StylescoreError

if TYPE_CHECKING:
    from stylescore.assembly.api import stylize as stylize
    from stylescore.assembly.stylizer import Result as Result
    from stylescore.assembly.stylizer import Stylizer as Stylizer
    from stylescore.assembly.updates import Update as Update
    from stylescore.config.method import MethodConfig as MethodConfig
    from stylescore.config.run import RunConfig as RunConfig
    from stylescore.config.run import StyleChoice as StyleChoice
    from stylescore.images import read_photo as read_photo
    from stylescore.method.fit import Fitting as Fitting
    from stylescore.method.fit import Iteration as Iteration

_HOME = {
    "stylize": "assembly.api",
    "MethodConfig": "config.method",
    "RunConfig": "config.run",
    "StyleChoice": "config.run",
    "Fitting": "method.fit",
    "Iteration": "method.fit",
    "Update": "assembly.updates",
    "read_photo": "images",
    "Result": "assembly.stylizer",
    "Stylizer": "assembly.stylizer",
}

__all__ = [
    "Fitting",
    "InputError",
    "Iteration",
    "MethodConfig",
    "NonFiniteError",
    "Result",
    "RunConfig",
    "StyleChoice",
    "StylescoreError",
    "Stylizer",
    "Update",
    "__version__",
    "read_photo",
    "stylize",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
