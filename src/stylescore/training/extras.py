"""The optional libraries of training, checked before anything is done."""

from __future__ import annotations

from importlib.util import find_spec

from stylescore.errors import ConfigError

NEEDED = ("accelerate", "tensorboard")


def require_extras(command: str) -> None:
    """Raise `ConfigError` unless the libraries of the extra `train` are installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{command} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'stylescore[train]'",
        )
