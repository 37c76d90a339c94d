"""The LoRA that a training goes on from: where it is, what it fixes, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylescore.catalog.registry import resolve_style
from stylescore.errors import ConfigError, StyleError
from stylescore.storage.texts import is_file, parse_json, read_text
from stylescore.training.config import RESULT_FILE

if TYPE_CHECKING:
    from stylescore.lora import LoraFile, Product

OTHER = "train a new style, or go on from a LoRA that this program or kohya's tools have trained"


@dataclass(frozen=True)
class StartingPoint:
    """A LoRA that can be trained on.

    Attributes:
        lora: its file.
        rank: of all its layers.
        alpha: of all its layers.
    """

    lora: LoraFile
    rank: int
    alpha: float

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a training that goes on from it."""
        words = self.lora.trigger_words[:1]
        return {"rank": self.rank, "alpha": self.alpha, **({"trigger": words[0]} if words else {})}

    def describe(self) -> str:
        """Return one line on what is taken from it."""
        words = self.lora.trigger_words[:1]
        trigger = f", trigger words {words[0]!r}" if words else ""
        return (
            f"goes on from {self.lora.path.name}: its weights, rank {self.rank}, alpha {self.alpha:g}, "
            f"{len(self.lora.parts['unet'])} layers{trigger}; the optimiser starts anew"
        )


def find_start(name: str) -> Path:
    """Return the LoRA file that a name stands for: that of a finished training by its folder, or that of a style.

    Raises:
        StyleError: there is none.
        ConfigError: the training in the folder has not written its style.
    """
    folder = Path(name)
    return _written_style(folder) if is_file(folder / "config.toml") else resolve_style(name).path


def _written_style(folder: Path) -> Path:
    """Return the style file of a training's folder."""
    try:
        path = Path(parse_json(read_text(folder / RESULT_FILE))["style"])
    except (OSError, ValueError, LookupError, TypeError):
        raise ConfigError(
            f"the training in {str(folder)!r} has not written its style", hint="resume it first, or give a LoRA file"
        ) from None
    if not is_file(path):
        raise StyleError(f"the style {str(path)!r} of the training is gone", hint="give the path of its file")
    return path


def read_start(path: Path) -> StartingPoint:
    """Read the LoRA that a training goes on from.

    Raises:
        StyleError: it cannot be read, or is more than products of two matrices of one rank and alpha in the U-Net.
    """
    from stylescore.lora import Product, read_lora

    lora = read_lora(path)
    others = sorted(part for part in lora.parts if part != "unet")
    if others or lora.added_tokens:
        what = f"a part for {', '.join(others)}" if others else "added tokens"
        raise _refusal(path, f"it has {what}, and only U-Nets are trained")
    changes = lora.parts["unet"].values()
    if not all(isinstance(change, Product) for change in changes):
        raise _refusal(path, f"it is a {lora.kind}, and only products of two matrices are trained")
    numbers = {(change.rank, round(change.scale * change.rank, 6)) for change in changes if isinstance(change, Product)}
    if len(numbers) > 1:
        found = ", ".join(f"rank {rank} with alpha {alpha:g}" for rank, alpha in sorted(numbers)[:3])
        raise _refusal(path, f"its layers differ: {found}; one rank and alpha are needed")
    rank, alpha = numbers.pop()
    return StartingPoint(lora, rank, alpha)


def add_settings(given: Mapping[str, Any], start: StartingPoint) -> dict[str, Any]:
    """Return a user's settings with those that a LoRA fixes, of which the trigger words may be others.

    Raises:
        ConfigError: they contradict each other.
    """
    for name in ("rank", "alpha"):
        fixed = start.settings[name]
        if name in given and given[name] != fixed:
            raise ConfigError(
                f"--{name} {given[name]} contradicts {str(start.lora.path)!r}, which has {name} {fixed:g}",
                hint=f"leave --{name} out",
            )
    return {**start.settings, **given}


def bind_start(start: StartingPoint, unet: Any) -> dict[str, Product]:
    """Return the weights of a LoRA by the dotted names of a U-Net's layers.

    Raises:
        StyleError: it does not fit.
    """
    from stylescore.diffusion.adapters import adaptable
    from stylescore.lora import Product, bind

    bound = bind(start.lora, adaptable(unet))
    pieces = {name: change for name, change in bound.items() if isinstance(change, Product)}
    if len(pieces) < len(bound):
        raise _refusal(start.lora.path, "one of its layers stands for several of the model")
    return pieces


def _refusal(path: Path, reason: str) -> StyleError:
    return StyleError(f"a training cannot go on from {str(path)!r}: {reason}", hint=OTHER)
