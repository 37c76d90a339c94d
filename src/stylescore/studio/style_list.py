"""The styles that the page offers: bundled ones, the user's own, and those of folders that the server's owner named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stylescore.catalog.registry import BUNDLED_MODELS, StyleEntry, default_styles_dirs, list_styles, user_styles_dir
from stylescore.errors import StyleError, did_you_mean

THUMBNAILS = Path(__file__).parent / "static" / "styles"
_ENDING = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class ListedStyle:
    """One style of the page.

    Attributes:
        name: on the page and in requests; no two have the same.
        path: its file.
        bundled: whether it is part of the package.
        trigger: its trigger words, if the file states some.
        base: the model that the file states, if it does.
        lora_generator: a one-step generator of the style that is a LoRA, as the style itself may be; `None` without.
    """

    name: str
    path: Path
    bundled: bool
    trigger: str | None
    base: str | None
    lora_generator: Path | None = None

    @property
    def location(self) -> str:
        """What a run names it by: its name if it is bundled, so that its own constants are used, else its path."""
        return self.name if self.bundled else str(self.path.absolute())

    @property
    def thumbnail(self) -> Path | None:
        """A small picture of it, if it is bundled."""
        path = THUMBNAILS / f"{self.name}.webp"
        return path if self.bundled and path.is_file() else None


class StyleList:
    """The styles of a studio. Folders are read anew each time, so that new files appear without a restart."""

    def __init__(self, places: Sequence[Path] = (), *, model: str = "mini") -> None:
        """Name folders and files besides the usual ones.

        Args:
            places: folders with LoRA files, or LoRA files.
            model: the studio's model; the bundled styles are for bundled models only.

        Raises:
            StyleError: a place is neither a folder nor a LoRA file.
        """
        for place in places:
            if not place.is_dir() and not (place.is_file() and place.suffix == _ENDING):
                raise StyleError(
                    f"--styles must name a folder or a {_ENDING} file, not {str(place)!r}", hint="check the path"
                )
        self._places = tuple(places)
        self._bundled = model in BUNDLED_MODELS

    def styles(self) -> list[ListedStyle]:
        """Return all styles, bundled ones first; of two with one name, the first."""
        found: dict[str, ListedStyle] = {}
        for entry in self._entries():
            style = ListedStyle(
                name=entry.name,
                path=entry.path,
                bundled=entry.bundled,
                trigger=entry.trigger,
                base=entry.base,
                lora_generator=_lora_generator(entry),
            )
            found.setdefault(style.name, style)
        return list(found.values())

    def find(self, name: str) -> ListedStyle:
        """Return a style by its name.

        Raises:
            StyleError: there is none.
        """
        styles = {style.name: style for style in self.styles()}
        if name in styles:
            return styles[name]
        raise StyleError(f"this studio has no style {name[:80]!r}", hint=did_you_mean(name[:80], styles))

    def _entries(self) -> Iterator[StyleEntry]:
        folders = [place for place in self._places if place.is_dir()]
        usual = default_styles_dirs() if self._bundled else (user_styles_dir(),)
        yield from list_styles([*usual, *folders])
        for place in self._places:
            if place.is_file():
                yield from (entry for entry in list_styles([place.parent]) if entry.path == place)


def _lora_generator(entry: StyleEntry) -> Path | None:
    """Return the generator of a style that is a LoRA: the style itself, or the bundled one of a bundled style."""
    if entry.is_generator:
        return entry.path
    found = entry.generator if entry.bundled else None
    return found if found is not None and found.suffix == _ENDING else None
