"""One function for the common case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from stylescore.assembly.options import Style
from stylescore.assembly.stylizer import Result, Stylizer
from stylescore.assembly.updates import Update
from stylescore.images import as_photos


@overload
def stylize(photo: list[Any] | tuple[Any, ...], style: Style, **options: Any) -> list[Result]: ...
@overload
def stylize(photo: Any, style: Style, **options: Any) -> Result: ...
def stylize(
    photo: Any,
    style: Style,
    *,
    prompt: str | Sequence[str] = "",
    mask: Any = None,
    on_iteration: Callable[[Update], object] | None = None,
    progress: bool = True,
    batch: int = 1,
    **options: Any,
) -> Result | list[Result]:
    """Stylize a photo, or a list of photos.

    Args:
        photo: a path, a PIL image, an array, a tensor, or a list of these; see `images.inputs.as_photo`.
        style: a style's name, an adapter file or a hub id; several as a list, or with weights as `{name: weight}`.
        prompt: what the photo shows; for several photos also a list.
        mask: what is stylized, white, and what stays as it is, black; for several photos also a list, see
            `Stylizer.stylize`.
        on_iteration: called after every iteration; if it returns a true value, the run ends there.
        progress: whether a progress bar is shown, in terminals and notebooks.
        batch: photos of one working size that are processed together.
        options: as in `Stylizer.load`: `model`, `method`, `preset`, `content`, `style_strength`, `iterations`, `seed`,
            `size`, `device`, `dtype`, `memory`, `settings`, ...

    Returns:
        The result with PIL images, or a list of results in the order of the photos.

    Raises:
        InputError: an argument that cannot be used.
        NonFiniteError: the run produced NaN or infinity.
    """
    photos = as_photos(photo)  # before the model is loaded
    with Stylizer.load(style, **options) as stylizer:
        results = stylizer.stylize(
            photos, prompt=prompt, mask=mask, on_iteration=on_iteration, progress=progress, batch=batch
        )
    return results if isinstance(photo, list | tuple) else results[0]
