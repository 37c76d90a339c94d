"""What the calls of `calls.py` do in several steps."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

from PIL import Image

PHOTO = "photo.png"


def in_context(context: Any, call: Callable[[], Any]) -> Any:
    """Make a call inside a context."""
    with context:
        return call()


def twice(stylizer: Any) -> Any:
    """Return the second of two results."""
    return [stylizer.stylize(PHOTO), stylizer.stylize(PHOTO)][-1]


def copied(stylizer: Any) -> Any:
    """Return a stylizer that was pickled."""
    return pickle.loads(pickle.dumps(stylizer))


def closed(stylizer: Any) -> Any:
    """Return a stylizer after it was closed."""
    stylizer.close()
    return stylizer


def closed_twice(stylizer: Any) -> Any:
    """Return a result whose stylizer was closed twice."""
    with stylizer:
        result = stylizer.stylize(PHOTO)
    stylizer.close()
    return result


def entered(stylizer: Any) -> Any:
    """Return a stylizer after its block."""
    with stylizer as same:
        return same


def after_failure(stylizer: Any, kind: type[BaseException]) -> Any:
    """Return a result after a callback raised, and the error came out as it was."""

    def fail(update: Any) -> None:
        raise kind(update.index)

    try:
        stylizer.stylize(PHOTO, on_iteration=fail)
    except kind as error:
        if type(error) is not kind:
            raise
        return stylizer.stylize(PHOTO)


def nested(stylizer: Any) -> Any:
    """Return a result in whose callback another one was made, of the same pixels."""
    inner: list[Any] = []
    outer = stylizer.stylize(PHOTO, on_iteration=lambda _: inner.append(stylizer.stylize(PHOTO)))
    assert outer.picture.tobytes() == inner[0].picture.tobytes()
    return outer


def in_threads(call: Callable[[], Any]) -> Any:
    """Return the results of two threads, which have the pixels of a call alone."""
    with ThreadPoolExecutor(2) as threads:
        alone, *results = [call(), *threads.map(lambda _: call(), range(2))]
    assert all(result.picture.tobytes() == alone.picture.tobytes() for result in results)
    return results


def shared(stylizer: Any) -> Any:
    """Return the results of two threads that call one stylizer."""
    return in_threads(lambda: stylizer.stylize(PHOTO))


def closed_image() -> Any:
    """Return a PIL image whose file is closed."""
    image = Image.open(PHOTO)
    image.close()
    return image


def deep(table: dict[str, Any], levels: int) -> Any:
    """Return a table that is nested so many times."""
    for _ in range(levels):
        table = {"fake": table}
    return table


def one() -> Any:
    """Return the preset of large models with one iteration."""
    try:
        presets, toml = (import_module(f"stylescore.config.{name}") for name in ("presets", "toml"))
    except ModuleNotFoundError:  # where older versions have them
        presets, toml = (import_module(f"stylescore.{name}") for name in ("presets", "tables"))
    return toml.overlay(presets.load("balanced"), {"iterations": 1})
