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
    from stylescore.api import stylize as stylize
    from stylescore.config import MethodConfig as MethodConfig
    from stylescore.config import RunConfig as RunConfig
    from stylescore.config import StyleChoice as StyleChoice
    from stylescore.fit import Fitting as Fitting
    from stylescore.fit import Iteration as Iteration
    from stylescore.images import read_photo as read_photo
    from stylescore.stylizer import Result as Result
    from stylescore.stylizer import Stylizer as Stylizer

_HOME = {
    "stylize": "api",
    "MethodConfig": "config",
    "RunConfig": "config",
    "StyleChoice": "config",
    "Fitting": "fit",
    "Iteration": "fit",
    "read_photo": "images",
    "Result": "stylizer",
    "Stylizer": "stylizer",
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
