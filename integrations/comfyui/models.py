"""Takes ComfyUI's MODEL, CLIP and VAE as the model of a stylizer.

ComfyUI's own function writes them to one file, with the LoRAs that were applied to them, and stylescore loads that file
as it loads any checkpoint. What such a file does not hold, as patches of the attention, is refused by name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import comfy.sd
import folder_paths
import torch

FAMILIES = ("SD15", "SD20", "SDXL", "SD3", "Flux", "FluxSchnell")
"""Classes of `comfy.supported_models` whose models are taken."""
FLOWS = ("SD3", "Flux", "FluxSchnell")
AUTOENCODERS = ("AutoencoderKL", "AutoencodingEngine")
"""Classes of ComfyUI's autoencoders of these families; others are tiny ones, or of other families."""
PREDICTIONS = {
    ("ModelSamplingDiscrete", "EPS"): "epsilon",
    ("ModelSamplingDiscrete", "V_PREDICTION"): "v",
    ("ModelSamplingDiscreteFlow", "CONST"): "flow",
    ("ModelSamplingFlux", "CONST"): "flow",
}
"""What a network predicts, by the two bases of ComfyUI's class for it: the noise schedule, and the kind of output."""
KEPT_OBJECTS = {"model_sampling", "manual_cast_dtype"}
"""Replaced parts of a MODEL that are read here, or change nothing but the precision."""
KEPT_OPTIONS = {"transformer_options", "disable_cfg1_optimization", "optimized_attention_override"}
"""Options of a MODEL that change nothing of what its network computes."""


@contextmanager
def checkpoint_file(model: Any, clip: Any, vae: Any) -> Iterator[dict[str, Any]]:
    """Write a MODEL with its CLIP and VAE to a temporary file; yield the options with which `Stylizer.load` takes it.

    Raises:
        ValueError: they are of a family that stylescore does not have, have what a file does not hold, or the disk is
            too small.
    """
    _check(model, clip, vae)
    options = {"prediction": _prediction(model), "clip_skip": _clip_skip(model, clip)}
    home = Path(folder_paths.get_temp_directory())
    home.mkdir(parents=True, exist_ok=True)
    _require_space(home, model.model_size() + clip.patcher.model_size() + vae.patcher.model_size())
    with TemporaryDirectory(dir=home, prefix="stylescore-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "MODEL.safetensors"
        _write_tokenizers(clip.tokenizer, _family(model), path.parent)
        comfy.sd.save_checkpoint(str(path), model, clip, vae, extra_keys=_marks(model))
        yield {"model": str(path), **options}


def _check(model: Any, clip: Any, vae: Any) -> None:
    """Raise `ValueError` for a model of another family, and for what would be lost on the way."""
    if _family(model) not in FAMILIES:
        raise ValueError(
            f"stylescore cannot take a MODEL of the family {_family(model)}\n"
            "connect one of Stable Diffusion 1.x, 2.x, 3, SDXL or FLUX.1"
        )
    if model.model.concat_keys:
        raise ValueError(
            "stylescore cannot take an inpainting MODEL, which reads a mask\nconnect the model it was trained from"
        )
    for name, lost in (("MODEL", _lost_of_model(model)), ("CLIP", _lost_of_clip(clip)), ("VAE", _lost_of_vae(vae))):
        if lost:
            raise ValueError(
                f"stylescore cannot take this {name}, it would lose: {', '.join(lost)}\n"
                f"connect the {name} as it is before the node that adds this"
            )


def _family(model: Any) -> str:
    return type(model.model.model_config).__name__


def _lost_of_model(model: Any) -> list[str]:
    """Return the names of what a MODEL has besides weights."""
    lost = _lost_of_patcher(model)
    lost += sorted(set(model.model_options) - KEPT_OPTIONS)
    transformer = model.model_options.get("transformer_options", {})
    return lost + sorted(name for name in set(transformer) - KEPT_OPTIONS if transformer[name])


def _lost_of_clip(clip: Any) -> list[str]:
    """Return the names of what a CLIP has besides weights and the choice of a layer."""
    hooks = ["hooks"] if clip.apply_hooks_to_conds or clip.use_clip_schedule else []
    return [*_lost_of_patcher(clip.patcher), *hooks, *sorted(clip.tokenizer_options)]


def _lost_of_vae(vae: Any) -> list[str]:
    """Return the kind of an autoencoder that is of no family of ours, and the names of its patches."""
    kind = type(vae.first_stage_model).__name__
    patches = ["patches of its weights"] if vae.patcher.patches else []
    return [*([] if kind in AUTOENCODERS else [f"all of its {kind}"]), *patches, *_lost_of_patcher(vae.patcher)]


def _lost_of_patcher(patcher: Any) -> list[str]:
    """Return the names of what a patcher holds besides patches of weights."""
    lost = sorted(set(patcher.object_patches) - KEPT_OBJECTS)
    lost += sorted(str(name) for name, held in patcher.injections.items() if held)
    lost += sorted(f"{kind} wrapper" for kind, held in patcher.wrappers.items() if any(held.values()))
    lost += ["hooks of its weights"] if patcher.hook_patches else []
    lost += sorted(f"wrapper of {name}" for name in getattr(patcher, "weight_wrapper_patches", {}))
    return [*lost, "its GGUF quantisation"] if "GGUF" in type(patcher).__name__ else lost


def _prediction(model: Any) -> str | None:
    """Return what a MODEL's network predicts; `None` for the families that predict a flow anyway."""
    bases = tuple(base.__name__ for base in type(_sampling(model)).__bases__)
    predicts = PREDICTIONS.get(bases)  # type: ignore[call-overload]
    if predicts is None or (predicts == "epsilon" and _is_rescaled(model)):
        rescaled = " with zero terminal SNR" if _is_rescaled(model) else ""
        raise ValueError(
            f"stylescore cannot take a MODEL sampled by {' and '.join(bases)}{rescaled}\n"
            "connect one that predicts noise (epsilon), v or a flow"
        )
    return None if _family(model) in FLOWS else predicts


def _sampling(model: Any) -> Any:
    return model.get_model_object("model_sampling")


def _is_rescaled(model: Any) -> bool:
    """Tell whether the noise schedule is rescaled to zero terminal SNR."""
    return bool(getattr(_sampling(model), "zsnr", False))


def _marks(model: Any) -> Mapping[str, torch.Tensor]:
    """Return the empty tensors by which ComfyUI marks the files of models that predict v."""
    if _prediction(model) != "v":
        return {}
    return {name: torch.tensor([]) for name in ("v_pred", *(["ztsnr"] if _is_rescaled(model) else []))}


def _clip_skip(model: Any, clip: Any) -> int | None:
    """Return the layer that "CLIP Set Last Layer" has chosen, counted from the last, 1; `None` for the usual one.

    Of Stable Diffusion 2.x stylescore loads all layers but the last, which the model does not use.
    """
    if clip.layer_idx is None:
        return None
    layer = -int(clip.layer_idx) - (_family(model) == "SD20")
    if layer < 1 or _family(model) in FLOWS:
        raise ValueError(
            f"stylescore cannot stop at CLIP layer {clip.layer_idx} of the family {_family(model)}\n"
            'connect the CLIP as it is before the node "CLIP Set Last Layer"'
        )
    return layer


def _require_space(folder: Path, needed: int) -> None:
    """Raise `ValueError` unless a folder's disk has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has room for {free / 1e9:.1f} GB, the model needs {needed / 1e9:.1f} GB while it is loaded\n"
            "start ComfyUI with --temp-directory on a larger disk"
        )


def _write_tokenizers(tokenizer: Any, family: str, folder: Path) -> None:
    """Write a CLIP's tokenizers beside its file, where they are looked for; CLIP's own differ in padding alone."""
    of_clip = next(getattr(tokenizer, name) for name in ("clip_l", "clip_h", "clip_g") if hasattr(tokenizer, name))
    of_clip.tokenizer.save_pretrained(folder / "tokenizer")
    if hasattr(tokenizer, "t5xxl"):
        tokenizer.t5xxl.tokenizer.save_pretrained(folder / ("tokenizer_3" if family == "SD3" else "tokenizer_2"))
