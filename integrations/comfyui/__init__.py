"""stylescore in ComfyUI: this folder goes into `custom_nodes`, see README.md."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
