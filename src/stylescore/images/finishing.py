"""From the picture of a model to that of its photo: size, colours, mask and transparency."""

from __future__ import annotations

from PIL import Image

from stylescore.images.oklab import keep_colours
from stylescore.images.upsampling import upsample_guided
from stylescore_apply.images.reading import Photo


def resize_to_photo(result: Image.Image, photo: Photo) -> Image.Image:
    """Resize a result to its photo's size, guided by the photo's edges, and give it the photo's transparency.

    Args:
        result: the stylized picture at the model's size.
        photo: the photo it was made from.

    Returns:
        "RGBA" if the photo had alpha, else "RGB".
    """
    return finish(result, photo, 0)


def finish(result: Image.Image, photo: Photo, colours: float) -> Image.Image:
    """Return the finished picture: at the photo's size, with its chroma, its pixels outside of the mask, and its alpha.

    Args:
        result: the stylized picture at the model's size.
        photo: the photo it was made from.
        colours: share of the photo's chroma, 0 to 1, see `keep_colours`.

    Returns:
        "RGBA" if the photo had alpha, else "RGB". Where the photo's mask is black, its own pixels.
    """
    picture = upsample_guided(result.convert("RGB"), photo.visible.convert("RGB"))
    picture = keep_colours(picture, photo.visible.convert("RGB"), colours)
    if photo.mask is not None:
        picture = Image.composite(picture, photo.picture, photo.mask)
    if photo.alpha is None:
        return picture
    return Image.merge("RGBA", (*picture.split(), photo.alpha))
