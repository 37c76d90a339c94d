"""What the package shows to the outside: names, documentation, cheap import."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import stylescore


def modules() -> list[str]:
    found = pkgutil.walk_packages(stylescore.__path__, "stylescore.")
    return [module.name for module in found if not module.name.endswith("__main__")]


SHARED = {"stylescore.errors": "stylescore_apply.errors"}
"""Modules whose names are defined in the distribution without torch."""


def own(module: ModuleType) -> list[tuple[str, object]]:
    """Return the public classes and functions that a module defines itself."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ in (module.__name__, SHARED.get(module.__name__))
    ]


@pytest.mark.parametrize("name", stylescore.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    assert getattr(stylescore, name) is not None
    assert name in dir(stylescore)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'stylise'"):
        stylescore.stylise  # noqa: B018


def test_star_import() -> None:
    space: dict[str, object] = {}
    exec("from stylescore import *", space)

    assert set(stylescore.__all__) <= set(space)


@pytest.mark.parametrize("name", modules())
def test_everything_public_is_documented(name: str) -> None:
    module = importlib.import_module(name)

    assert module.__doc__
    for label, value in own(module):
        assert inspect.getdoc(value), f"{name}.{label}"


def test_importing_the_package_loads_no_library() -> None:
    code = "import stylescore, sys; print({'torch', 'numpy', 'PIL', 'diffusers'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_errors_form_one_family() -> None:
    from stylescore import errors

    kinds = [value for _, value in own(errors) if inspect.isclass(value)]

    assert all(issubclass(kind, stylescore.StylescoreError) for kind in kinds)
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        "StylescoreError": 1,
        "InputError": 2,
        "PictureError": 2,
        "StyleError": 2,
        "ModelError": 2,
        "ConfigError": 2,
        "DeviceError": 2,
        "OutputError": 2,
        "NonFiniteError": 1,
        "MemoryLimitError": 1,
    }
