"""The nodes: two make a stylizer, one stylizes pictures with it, one applies a trained generator.

Their ids and the names of their inputs stand in saved workflows and are never changed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.model_management import throw_exception_if_processing_interrupted, unload_all_models
from comfy_api.latest import ComfyAPISync, ComfyExtension, io
from PIL import Image

from stylescore import InputError, Stylizer, Update
from stylescore.assembly.one_step import open_network
from stylescore.catalog.registry import known_generators, list_styles
from stylescore_apply import Settings
from stylescore_apply import stylize as apply_network
from stylescore_apply.networks import Network
from stylescore_apply.stylizing import MOST_PASSES

from .models import checkpoint_file

CATEGORY = "stylescore"
STYLIZER = io.Custom("STYLESCORE_STYLIZER")
PREVIEWS = 20
"""Previews of a run, apart from its result."""
LORAS = "loras"
DEVICES = ["auto", "cpu", "cuda", "mps"]
FOLDED = {"advanced": True}
"""Marks inputs that are folded away; as extra entries, since earlier versions of the interface have no argument."""


def style_names() -> list[str]:
    """Return stylescore's own styles by name, then ComfyUI's LoRA files."""
    return [*(entry.name for entry in list_styles()), *folder_paths.get_filename_list(LORAS)]


def style_location(name: str) -> str:
    """Return what stylescore loads for an entry of `style_names`."""
    own = {entry.name for entry in list_styles()}
    return name if name in own else folder_paths.get_full_path_or_raise(LORAS, name)


def stylizer_schema(node_id: str, display_name: str, description: str, *inputs: io.Input) -> io.Schema:
    """Describe a node that makes a stylizer: of a style, what is special to the node, and a device."""
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category=CATEGORY,
        description=description,
        inputs=[
            io.Combo.Input("style", options=style_names(), tooltip="a style of stylescore, or a LoRA file"),
            *inputs,
            io.Combo.Input("device", options=DEVICES, default="auto", extra_dict=FOLDED),
        ],
        outputs=[STYLIZER.Output(display_name="stylizer")],
    )


def seed_input(most: int) -> io.Input:
    """Return a seed that the frontend may change after each run."""
    return io.Int.Input("seed", default=0, min=0, max=most, control_after_generate=True)


def strength_input(name: str, default: float, tooltip: str) -> io.Input:
    """Return a number between 0 and 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.05, tooltip=tooltip)


def load(style: str, **options: Any) -> io.NodeOutput:
    """Load a stylizer into the memory that ComfyUI's models leave, and log what was assumed about the model."""
    unload_all_models()
    stylizer = _with_hint(Stylizer.load, style_location(style), **options)
    for note in stylizer.networks.notes:
        logging.info("stylescore: %s", note)
    return io.NodeOutput(stylizer)


class LoadStylizer(io.ComfyNode):
    """Loads a model with a style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return stylizer_schema(
            "StyleScore_Load",
            "Load stylizer",
            "Loads a diffusion model with a style LoRA for Style Matching Score.",
            io.String.Input("model", default="mini", tooltip="mini, a folder, a .safetensors file or a hub id"),
        )

    @classmethod
    def execute(cls, style: str, model: str, device: str) -> io.NodeOutput:
        """Load the model; ComfyUI keeps the output as long as the inputs stay the same."""
        return load(style, model=model, device=device)


class TakeModel(io.ComfyNode):
    """Makes a stylizer of ComfyUI's own MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return stylizer_schema(
            "StyleScore_TakeModel",
            "Stylizer from MODEL, CLIP, VAE",
            "Takes a loaded model, with the LoRAs applied to it, as the base under a style LoRA.",
            io.Model.Input("model"),
            io.Clip.Input("clip"),
            io.Vae.Input("vae"),
        )

    @classmethod
    def execute(cls, style: str, model: Any, clip: Any, vae: Any, device: str) -> io.NodeOutput:
        """Copy the weights, patches applied; the MODEL stays as it is."""
        with checkpoint_file(model, clip, vae) as options:
            return load(style, device=device, **options)


class Stylize(io.ComfyNode):
    """Stylizes a batch of images, one after another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StyleScore_Stylize",
            display_name="Stylize (Style Matching Score)",
            category=CATEGORY,
            description="Turns photos into pictures in the stylizer's style. 0 iterations or size: as the preset.",
            inputs=[
                STYLIZER.Input("stylizer"),
                io.Image.Input("image"),
                io.String.Input("caption", default="", tooltip="what the photo shows, in a few words"),
                strength_input("content", 0.5, "0 style, 1 photo"),
                seed_input(2**63 - 1),
                io.Int.Input("iterations", default=0, min=0, max=10_000, extra_dict=FOLDED),
                io.Int.Input("size", default=0, min=0, max=8192, extra_dict=FOLDED, tooltip="short side in pixels"),
                io.Mask.Input("mask", optional=True, tooltip="stylized where it is 1; the photo stays where it is 0"),
            ],
            outputs=[
                io.Image.Output(),
                io.Mask.Output(display_name="relevance", tooltip="where the style acts"),
            ],
        )

    @classmethod
    def execute(
        cls,
        stylizer: Stylizer,
        image: torch.Tensor,
        caption: str,
        content: float,
        seed: int,
        iterations: int,
        size: int,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Stylize images [batch, height, width, 3] in 0..1; ComfyUI's interrupt ends the run between iterations.

        The mask, [batch, height, width], [1, height, width] or [height, width] in 0..1, has the images' aspect ratio.
        The relevance maps have the images' size.
        """
        changes = {"content": content, "seed": seed, "size": size or None}
        if iterations:
            changes["iterations"] = iterations
        progress = Progress(len(image))
        changes |= {"prompt": caption, "progress": False, "on_iteration": progress.follow}
        pictures, maps = [], []
        for each, part in zip(image, masks_of(mask, len(image)), strict=True):
            result = _with_hint(stylizer.stylize, to_picture(each), mask=part, **changes)
            pictures.append(to_image(result.picture.convert("RGB")))
            maps.append(to_mask(progress.relevance, each.shape[:2]))
            progress.end(result.picture)
        return io.NodeOutput(torch.cat(pictures), torch.cat(maps))


class ApplyGenerator(io.ComfyNode):
    """Stylizes a batch of images with a trained generator, in one forward pass each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="StyleScore_Apply",
            display_name="Apply generator",
            category=CATEGORY,
            description="Applies a bundled generator, or one that `stylescore export` has written to NAME.onnx in "
            "stylescore's styles.",
            inputs=[
                io.Combo.Input("generator", options=sorted(known_generators())),
                io.Image.Input("image"),
                seed_input(2**32 - 1),
                strength_input("strength", 1.0, "0 photo, 1 picture"),
                io.Int.Input(
                    "passes", default=0, min=0, max=MOST_PASSES, tooltip="more is more style; 0 as its file states"
                ),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, generator: str, image: torch.Tensor, seed: int, strength: float, passes: int = 0) -> io.NodeOutput:
        """Apply the generator to images [batch, height, width, 3] in 0..1."""
        known = known_generators()
        if generator not in known:
            raise ValueError(f"there is no generator {generator!r}\nput {generator}.onnx into stylescore's styles")
        network = _with_hint(open_once, known[generator], known[generator].stat().st_mtime_ns)
        settings = Settings(
            seed=seed, strength=None if passes == 0 and strength == 1 else strength, passes=passes or None
        )
        pictures = []
        for each in image:
            throw_exception_if_processing_interrupted()
            made = _with_hint(apply_network, network, np.asarray(to_picture(each)), settings)
            pictures.append(to_image(Image.fromarray(made)))
        return io.NodeOutput(torch.cat(pictures))


@lru_cache(maxsize=1)
def open_once(file: Path, _changed: int) -> Network:
    """Return a generator's network, kept for the next execution as long as the file does not change."""
    return open_network(file)


class Progress:
    """Reports to ComfyUI how far a batch is, and ends it when the user interrupts."""

    def __init__(self, images: int) -> None:
        self._images, self._done = images, 0
        self.relevance = torch.ones(1, 1, 1, 1)
        self._api = ComfyAPISync()

    def follow(self, update: Update) -> None:
        """Show an iteration; raise ComfyUI's exception if the user has interrupted."""
        throw_exception_if_processing_interrupted()
        self.relevance = update.iteration.step.relevance
        done = update.index + 1
        shown = not update.is_last and done % max(1, update.total // PREVIEWS) == 0
        self._tell(self._done + done / update.total, update.preview()[0] if shown else None)

    def end(self, picture: Image.Image) -> None:
        """Show an image's result as the last preview, so that none from before stays over it."""
        self._done += 1
        self._tell(self._done, picture.convert("RGB"))

    def _tell(self, images: float, preview: Image.Image | None) -> None:
        self._api.execution.set_progress(images, self._images, preview_image=preview)


def to_picture(image: torch.Tensor) -> Image.Image:
    """Convert an image [height, width, 3] in 0..1 to a PIL picture."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy()[..., :3])


def to_image(picture: Image.Image) -> torch.Tensor:
    """Convert a PIL picture to an image [1, height, width, 3] in 0..1."""
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None]


def masks_of(mask: torch.Tensor | None, images: int) -> list[Image.Image | None]:
    """Return a mask for each image of a batch.

    Raises:
        ValueError: there is neither one mask nor one for each image.
    """
    if mask is None:
        return [None] * images
    masks = mask[None] if mask.ndim == 2 else mask
    if len(masks) not in (1, images):
        raise ValueError(f"a mask must be one, or one for each image, not {len(masks)} for {images} images")
    grey = [Image.fromarray((each.clamp(0, 1) * 255).round().byte().cpu().numpy()) for each in masks]
    return grey * images if len(grey) == 1 else grey


def to_mask(relevance: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return a relevance map [1, 1, rows, columns] as a mask [1, height, width]."""
    wide = torch.nn.functional.interpolate(relevance[:1].float().cpu(), tuple(size), mode="bilinear")
    return wide[:, 0]


def _with_hint(call, *arguments, **options):
    """Call a function of stylescore; its hint becomes part of the message that ComfyUI shows."""
    try:
        return call(*arguments, **options)
    except InputError as error:
        raise ValueError(f"{error}\n{error.hint}" if error.hint else str(error)) from error


class StyleScoreExtension(ComfyExtension):
    """The nodes of this folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the nodes."""
        return [LoadStylizer, TakeModel, Stylize, ApplyGenerator]


async def comfy_entrypoint() -> StyleScoreExtension:
    """Return the extension; ComfyUI calls this when it starts."""
    return StyleScoreExtension()
