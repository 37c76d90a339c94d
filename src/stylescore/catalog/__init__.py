"""From the names of models and styles to their files."""

from stylescore.catalog.registry import (
    ModelSource,
    StyleEntry,
    StyleSource,
    list_styles,
    resolve_model,
    resolve_preview_model,
    resolve_style,
)

__all__ = [
    "ModelSource",
    "StyleEntry",
    "StyleSource",
    "list_styles",
    "resolve_model",
    "resolve_preview_model",
    "resolve_style",
]
