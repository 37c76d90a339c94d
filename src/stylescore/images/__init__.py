"""Reads photos, converts them to tensors for the models, and writes pictures.

Importing this package does not import torch; only the use of `to_tensor` or `to_picture` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylescore.images.finishing import finish as finish
from stylescore.images.finishing import resize_to_photo as resize_to_photo
from stylescore.images.inputs import as_photo as as_photo
from stylescore.images.inputs import as_photos as as_photos
from stylescore.images.masks import with_mask as with_mask
from stylescore.images.oklab import keep_colours as keep_colours
from stylescore.images.sheets import before_after as before_after
from stylescore.images.sheets import contact_sheet as contact_sheet
from stylescore.images.sizes import fitted_size as fitted_size
from stylescore.images.writing import read_metadata as read_metadata
from stylescore.images.writing import save_gif as save_gif
from stylescore.images.writing import save_png as save_png
from stylescore.images.writing import save_result as save_result
from stylescore_apply.images.reading import Photo as Photo
from stylescore_apply.images.reading import read_photo as read_photo
from stylescore_apply.images.reading import read_size as read_size

if TYPE_CHECKING:
    from stylescore.images.tensors import to_picture as to_picture
    from stylescore.images.tensors import to_tensor as to_tensor


def __getattr__(name: str) -> Any:
    if name in {"to_tensor", "to_picture"}:
        return getattr(import_module("stylescore.images.tensors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
