"""`stylize --fast`: the style's trained generator in place of a run, with the same pictures as `apply`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stylescore.cli.options import first_given, parse_styles, require_style
from stylescore.config.run import StyleChoice
from stylescore.errors import ConfigError, ModelError, quote, suggest_closest

TAKEN = ("photos", "style", "fast", "seed", "list_file", "recursive", "overwrite", "output", "format", "quality")
FLAGS = {"recursive": "--recursive", "overwrite": "--overwrite", "keep_location": "--keep-location", "json": "--json"}
"""Options that `apply` has under the same name."""


def stylize_fast(command: Callable[..., None], given: Mapping[str, Any]) -> int:
    """Apply the generator of a style, and return the exit code.

    Args:
        command: the function of `stylize`, whose signature declares the options.
        given: the value of each of its parameters.

    Raises:
        ConfigError: an option that a generator does not have, no photo, or not exactly one style.
        ModelError: there is no generator of the style.
    """
    other = first_given(command, given, besides=(*TAKEN, *FLAGS, "quiet"))
    if other is not None:
        raise ConfigError(
            f"--fast applies a trained generator, which does not have {other}", hint=f"leave out {other}, or --fast"
        )
    style = _only_style(given["style"] or [])
    photos = _photos(given)
    generator = require_generator(style)
    from stylescore.cli.apply import open_network
    from stylescore_apply.cli import exit_code

    options = _options(given, Path(given["output"], Path(style).stem))
    return exit_code(
        [*options, "--", str(generator), *photos], program="stylescore stylize --fast", open_network=open_network
    )


def _only_style(texts: Sequence[str]) -> str:
    """Return the name of the only style.

    Raises:
        ConfigError: there is none, there are several, or it has a weight.
    """
    styles = parse_styles(texts)
    require_style(styles)
    if styles != (StyleChoice(name=styles[0].name),):
        raise ConfigError(
            f"--fast takes one --style without a weight, not {' '.join(texts)}",
            hint="a generator is trained for one style; leave out --fast to mix styles",
        )
    return styles[0].name


def _photos(given: Mapping[str, Any]) -> list[str]:
    """Return what the command line and the lists name."""
    photos = list(given["photos"] or ())
    if given["list_file"]:
        from stylescore.images.finding import read_list  # needs torch

        photos += [str(name) for file in given["list_file"] for name in read_list(file)]
    if not photos:
        raise ConfigError("stylize needs at least one PHOTO", hint="stylescore stylize photo.jpg --style NAME --fast")
    return photos


def require_generator(style: str, *, otherwise: str = "leave out --fast") -> Path:
    """Return the generator of a style, exported or a LoRA.

    Args:
        style: its name or file.
        otherwise: what a user without one can do, for the hint.

    Raises:
        ModelError: there is none.
    """
    from stylescore.catalog.registry import find_generator, known_generators, user_styles_dir

    found = find_generator(style)
    if found is not None:
        return found
    raise ModelError(
        f"there is no trained generator of the style {quote(style)}",
        hint=suggest_closest(style, known_generators())
        or f"{otherwise}, or train one with stylescore train-generator, and export it to "
        f"{str(user_styles_dir() / f'{Path(style).stem}.onnx')!r}",
    )


def _options(given: Mapping[str, Any], out: Path) -> list[str]:
    """Return the options of `apply`; the format is the photo's unless another one than the default was given."""
    options = ["--out", str(out), "--seed", str(given["seed"])]
    if given["format"] != "png":
        options += ["--format", given["format"]]
    if given["quality"] is not None:
        options += ["--quality", str(given["quality"])]
    return options + [flag for name, flag in FLAGS.items() if given[name]] + (["--quiet"] if given["quiet"] else [])
