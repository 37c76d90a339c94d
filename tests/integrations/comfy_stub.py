"""A replacement of as much of ComfyUI's interface as the nodes use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


class InterruptProcessingException(Exception):
    """ComfyUI's own."""


class Comfy:
    """What ComfyUI was told, and what its user does."""

    def __init__(self, loras: Path) -> None:
        self.loras = loras
        self.progress: list[tuple[float, float, Any]] = []
        self.interrupt_at = 10**9

    def modules(self) -> dict[str, ModuleType]:
        return {
            "folder_paths": self._module(
                "folder_paths",
                get_filename_list=lambda kind: sorted(path.name for path in self.loras.glob("*.safetensors")),
                get_full_path_or_raise=lambda kind, name: str(self.loras / name),
                get_temp_directory=lambda: str(self.loras / "temp"),
            ),
            "comfy": self._module("comfy", sd=(sd := self._module("comfy.sd", save_checkpoint=save_checkpoint))),
            "comfy.sd": sd,
            "comfy.model_management": self._module(
                "comfy.model_management",
                throw_exception_if_processing_interrupted=self._throw,
                unload_all_models=lambda: None,
            ),
            "comfy_api": self._module("comfy_api"),
            "comfy_api.latest": self._module(
                "comfy_api.latest", io=_io(), ComfyExtension=object, ComfyAPISync=lambda: self._api()
            ),
        }

    def _throw(self) -> None:
        if len(self.progress) >= self.interrupt_at:
            self.interrupt_at = 10**9
            raise InterruptProcessingException

    def _api(self) -> SimpleNamespace:
        def set_progress(value: float, max_value: float, node_id: Any = None, preview_image: Any = None) -> None:
            self.progress.append((value, max_value, preview_image))

        return SimpleNamespace(execution=SimpleNamespace(set_progress=set_progress))

    @staticmethod
    def _module(name: str, **parts: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(parts)
        return module


COMMON = ("id", "display_name", "optional", "tooltip", "lazy", "extra_dict", "raw_link")
WIDGET = (*COMMON, "default", "socketless")
INPUTS = {
    **dict.fromkeys(("IMAGE", "MASK", "MODEL", "CLIP", "VAE", "STYLESCORE_STYLIZER"), COMMON),
    "INT": (*WIDGET, "force_input", "min", "max", "step", "control_after_generate", "display_mode"),
    "FLOAT": (*WIDGET, "force_input", "min", "max", "step", "round", "display_mode"),
    "STRING": (*WIDGET, "force_input", "multiline", "placeholder", "dynamic_prompts"),
    "COMBO": (*WIDGET, "options", "control_after_generate", "upload", "image_folder", "remote"),
}
"""Arguments of the inputs, as `comfy_api/latest/_io.py` has them; later versions have more."""
PLAIN = ("Image", "Mask", "Model", "Clip", "Vae", "Combo", "String", "Float", "Int")
OUTPUT = ("id", "display_name", "tooltip", "is_output_list")
SCHEMA = ("node_id", "display_name", "category", "inputs", "outputs", "hidden", "description", "is_output_node")


def _record(known: tuple[str, ...], first: str = "id", **fixed: Any) -> Any:
    """Return a function that keeps its arguments, and takes only those that are known."""

    def make(*given: Any, **options: Any) -> SimpleNamespace:
        options |= dict(zip((first,), given, strict=False))
        unknown = set(options) - set(known)
        if unknown or len(given) > 1:
            raise TypeError(f"unexpected arguments {unknown or given}")
        return SimpleNamespace(**{"optional": False, **options, **fixed})

    return make


def _io() -> SimpleNamespace:
    """Return a replacement of `comfy_api.latest.io`: inputs and outputs are their arguments."""

    def kind(name: str) -> SimpleNamespace:
        return SimpleNamespace(Input=_record(INPUTS[name], type=name), Output=_record(OUTPUT, type=name))

    return SimpleNamespace(
        ComfyNode=object,
        Schema=_record(SCHEMA),
        NodeOutput=lambda *results: results,
        Custom=kind,
        **{name: kind(name.upper()) for name in PLAIN},
    )


Weights = dict[str, Tensor]
Patches = dict[str, list[tuple[float, Tensor]]]


class Patcher:
    """As much of `comfy.model_patcher.ModelPatcher` as is read of it, with `diff` patches alone."""

    def __init__(self, weights: Weights, model: Any = None) -> None:
        self.weights, self.model = weights, model
        self.patches: Patches = {}
        self.object_patches: dict[str, Any] = {}
        self.injections: dict[str, list[Any]] = {}
        self.wrappers: dict[str, dict[Any, list[Any]]] = {"apply_model": {None: []}}
        self.hook_patches: dict[Any, Any] = {}
        self.weight_wrapper_patches: dict[str, list[Any]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}

    def model_size(self) -> int:
        return sum(weight.numel() * weight.element_size() for weight in self.weights.values())

    def get_model_object(self, name: str) -> Any:
        return self.object_patches.get(name) or getattr(self.model, name)

    def patched(self) -> Weights:
        result = dict(self.weights)
        for name, patches in self.patches.items():
            for strength, diff in patches:
                result[name] = result[name] + strength * diff
        return result


class GGUFModelPatcher(Patcher):
    """A custom node's."""


def _class(name: str, *bases: str) -> Any:
    return type(name, tuple(type(base, (), {}) for base in bases), {})


def sampling(*bases: str, zsnr: bool = False) -> Any:
    """Return an instance of the class that ComfyUI makes of a noise schedule and a kind of output."""
    made = _class("ModelSampling", *bases)()
    made.zsnr = zsnr
    return made


SAMPLING = {"SD15": ("ModelSamplingDiscrete", "EPS"), "Flux": ("ModelSamplingFlux", "CONST")}


def make_model(family: str, weights: Weights) -> Patcher:
    """Return a MODEL of a class of `comfy.supported_models`, whose weights are `diffusion_model.NAME`."""
    config = _class(family)()
    names = SAMPLING.get(family, SAMPLING["Flux"])
    return Patcher(weights, SimpleNamespace(model_config=config, concat_keys=(), model_sampling=sampling(*names)))


def make_clip(weights: Weights, **tokenizers: Any) -> SimpleNamespace:
    """Return a CLIP whose weights are `clip_l.transformer.NAME` and so on."""
    wrapped = {name: SimpleNamespace(tokenizer=tokenizer) for name, tokenizer in tokenizers.items()}
    return SimpleNamespace(
        patcher=Patcher(weights),
        tokenizer=SimpleNamespace(**wrapped),
        layer_idx=None,
        tokenizer_options={},
        use_clip_schedule=False,
        apply_hooks_to_conds=None,
    )


def make_vae(weights: Weights, kind: str = "AutoencoderKL") -> SimpleNamespace:
    """Return a VAE of a class of `comfy.ldm.models.autoencoder`."""
    return SimpleNamespace(patcher=Patcher(weights), first_stage_model=_class(kind)())


def save_checkpoint(
    output_path: str,
    model: Patcher,
    clip: Any = None,
    vae: Any = None,
    clip_vision: Any = None,
    metadata: Mapping[str, str] | None = None,
    extra_keys: Mapping[str, Tensor] = {},
) -> None:
    """Do what `comfy.sd.save_checkpoint` does: one file by the original names, patches applied."""
    is_sd = type(model.model.model_config).__name__ == "SD15"
    stem = "cond_stage_model." if is_sd else "text_encoders."
    texts = {re.sub("^clip_l\\.", "", name) if is_sd else name: t for name, t in clip.patcher.patched().items()}
    tensors = {f"model.{name}": tensor for name, tensor in model.patched().items()}
    tensors |= {stem + name: tensor for name, tensor in texts.items()}
    tensors |= {f"{'first_stage_model' if is_sd else 'vae'}.{name}": t for name, t in vae.patcher.weights.items()}
    tensors |= extra_keys
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, output_path, metadata or {})


def stripped(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
