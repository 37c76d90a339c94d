"""Stylizes pictures and videos with a trained network, in one forward pass.

`OnnxNetwork` loads a network's file, `stylize` applies it to one picture, `stylize_pictures` to many files. Importing
this package loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylescore_apply._version import __version__ as __version__
from stylescore_apply.errors import InputError as InputError
from stylescore_apply.errors import StylescoreError as StylescoreError

if TYPE_CHECKING:
    from stylescore_apply.batch import Saving as Saving
    from stylescore_apply.batch import stylize_pictures as stylize_pictures
    from stylescore_apply.inputs import plan_jobs as plan_jobs
    from stylescore_apply.networks import OnnxNetwork as OnnxNetwork
    from stylescore_apply.stylizing import Settings as Settings
    from stylescore_apply.stylizing import stylize as stylize

_HOME = {
    "OnnxNetwork": "networks",
    "Saving": "batch",
    "Settings": "stylizing",
    "plan_jobs": "inputs",
    "stylize": "stylizing",
    "stylize_pictures": "batch",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
