"""Stylizes one photo from Python and saves the picture."""

from __future__ import annotations

from pathlib import Path

from stylescore import Result, stylize

PHOTO = Path(__file__).with_name("coffee.jpg")


def main(photo: Path = PHOTO, target: Path = Path("painted.png"), **options: object) -> Result:
    """Stylize `photo`, write the picture to `target` and return the result."""
    result = stylize(photo, "oil-painting", prompt="a cup of coffee on a wooden table", **options)
    result.picture.save(target)
    return result


if __name__ == "__main__":
    main(content=0.6, seed=1)
