"""Stylizes one photo from Python and saves the picture.

Run it with `python examples/python_api.py`, or import it and call `main` with a photo, a style and options.
"""

from __future__ import annotations

from pathlib import Path

from stylescore import Result, Update, stylize

HERE = Path(__file__).parent


def print_progress(update: Update) -> None:
    """Print a line every tenth iteration."""
    if update.index % 10 == 0:
        step = update.iteration.step
        print(f"iteration {update.index:4d}  t {int(step.t[0]):3d}  score loss {float(step.score_loss[0]):.2e}")


def main(
    photo: Path = HERE / "coffee.jpg",
    style: str = "oil-painting",
    target: Path = Path("painted.png"),
    **options: object,
) -> Result:
    """Stylize `photo`, write the result to `target` and return it."""
    result = stylize(photo, style, on_iteration=print_progress, **options)
    result.picture.save(target)
    print(f"{target}: {result.picture.width} x {result.picture.height} pixels")
    return result


if __name__ == "__main__":
    main(prompt="a cup of coffee on a wooden table", content=0.6, seed=1)
