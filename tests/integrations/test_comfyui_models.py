"""ComfyUI's MODEL, CLIP and VAE as a stylizer's model: the same as their checkpoint file by our own loader."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.diffusion.originals import original_unet, original_vae
from tests.integrations.comfy_stub import (
    Comfy,
    GGUFModelPatcher,
    Patcher,
    make_clip,
    make_model,
    make_vae,
    sampling,
    stripped,
)

from stylescore import Stylizer
from stylescore.diffusion.checkpoints import loading, single_file
from stylescore.diffusion.text import TextEncoder

Parts = tuple[Patcher, Any, Any]
PATCHED = "diffusion_model.input_blocks.0.0.weight"
RUN = {"prompt": "a cup", "seed": 3, "iterations": 4, "size": 64, "progress": False}


def of_file(path: Path, family: str, **tokenizers: Any) -> Parts:
    """Return what ComfyUI's loader would make of a checkpoint file."""
    tensors = load_file(path)
    model = make_model(family, stripped("model.", tensors))
    if family == "SD15":
        texts = {f"clip_l.{name}": t for name, t in stripped("cond_stage_model.", tensors).items()}
        vae = make_vae(stripped("first_stage_model.", tensors))
    else:
        texts = stripped("text_encoders.", tensors) | {"clip_l.logit_scale": torch.ones(())}
        vae = make_vae(stripped("first_stage_model.", tensors), "AutoencodingEngine")
    return model, make_clip(texts, **tokenizers), vae


@pytest.fixture
def tiny_file(parity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the tiny Stable Diffusion in one file, and let such files be loaded with its settings."""
    tiny = parity / "tiny_base"
    parts = {part: load_file(next((tiny / part).glob("*.safetensors"))) for part in ("unet", "vae", "text_encoder")}
    text = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in parts["text_encoder"].items()}
    home = tmp_path / "checkpoints"
    shutil.copytree(tiny / "tokenizer", home / "tokenizer")
    save_file(original_unet(parts["unet"]) | original_vae(parts["vae"], 4) | text, home / "tiny.safetensors")
    configs = Path(shutil.copytree(tiny, tmp_path / "configs"))
    scheduler = configs / "scheduler" / "scheduler_config.json"
    stated = json.loads(scheduler.read_text(encoding="utf-8"))
    del stated["prediction_type"]  # the released models' settings do not state it
    scheduler.write_text(json.dumps(stated), encoding="utf-8")
    load: Callable[..., Any] = single_file.load_single_file
    monkeypatch.setattr(loading, "load_single_file", lambda path, dtype, options: load(path, dtype, options, configs))
    return home / "tiny.safetensors"


@pytest.fixture
def parts(tiny_file: Path, parity: Path) -> Parts:
    from transformers import CLIPTokenizer

    return of_file(tiny_file, "SD15", clip_l=CLIPTokenizer.from_pretrained(parity / "tiny_base" / "tokenizer"))


def take(nodes: Any, parts: Parts) -> Any:
    model, clip, vae = parts
    with torch.inference_mode():  # as ComfyUI calls its nodes
        (stylizer,) = nodes.TakeModel.execute(
            style="my-lora.safetensors", model=model, clip=clip, vae=vae, device="cpu"
        )
    return stylizer


def picture(stylizer: Any) -> Any:
    photo = torch.rand(64, 96, 3, generator=torch.Generator().manual_seed(0)).numpy()
    return stylizer.stylize(photo, **RUN).picture


def test_pictures_are_those_of_the_file_by_our_own_loader(
    nodes: Any, comfy: Comfy, parts: Parts, tiny_file: Path
) -> None:
    taken = take(nodes, parts)
    assert not list((comfy.loras / "temp").iterdir()), "the file is removed once it is loaded"
    own = Stylizer.load(comfy.loras / "my-lora.safetensors", model=tiny_file, device="cpu", prediction="epsilon")
    assert picture(taken) == picture(own)


def test_loras_of_the_model_and_the_clip_are_applied(nodes: Any, comfy: Comfy, parts: Parts, tiny_file: Path) -> None:
    model, clip, _ = parts
    word = "clip_l.transformer.text_model.embeddings.token_embedding.weight"
    rng = torch.Generator().manual_seed(1)
    diffs = {name: 0.1 * torch.randn(w[name].shape, generator=rng) for name, w in ((PATCHED, model.weights),)}
    diffs[word] = 0.1 * torch.randn(clip.patcher.weights[word].shape, generator=rng)
    model.patches[PATCHED] = [(0.5, diffs[PATCHED])]
    clip.patcher.patches[word] = [(2.0, diffs[word])]
    merged = load_file(tiny_file)
    merged[f"model.{PATCHED}"] += 0.5 * diffs[PATCHED]
    merged[word.replace("clip_l.", "cond_stage_model.")] += 2.0 * diffs[word]
    save_file(merged, tiny_file.with_name("merged.safetensors"))
    style = comfy.loras / "my-lora.safetensors"
    made = [
        picture(Stylizer.load(style, model=tiny_file.with_name(f"{name}.safetensors"), device="cpu"))
        for name in ("merged", "tiny")
    ]
    assert picture(take(nodes, parts)) == made[0] != made[1]


@pytest.mark.parametrize(
    ("bases", "zsnr", "predicts", "last_beta"),
    [
        (("ModelSamplingDiscrete", "EPS"), False, "epsilon", 0.012),
        (("ModelSamplingDiscrete", "V_PREDICTION"), False, "v", 0.012),
        (("ModelSamplingDiscrete", "V_PREDICTION"), True, "v", 1.0),
        (("ModelSamplingDiscreteFlow", "CONST"), False, "flow", 0.012),
    ],
)
def test_what_the_model_predicts_is_taken_from_its_sampling(
    nodes: Any, parts: Parts, bases: tuple[str, str], zsnr: bool, predicts: str, last_beta: float
) -> None:
    parts[0].object_patches["model_sampling"] = sampling(*bases, zsnr=zsnr)
    networks = take(nodes, parts).networks
    assert networks.predicts == predicts
    assert float(networks.base.schedule.betas[-1]) == pytest.approx(last_beta)


@pytest.mark.parametrize("family", ["SD15", "SD20"])
@pytest.mark.parametrize("layer", [None, -1, -2])
def test_the_layer_of_clip_is_kept(nodes: Any, parts: Parts, family: str, layer: int | None) -> None:
    model, clip, vae = parts
    clip.layer_idx = layer
    model.model.model_config = type(family, (), {})()
    choose = nodes_of_models(nodes)._clip_skip
    expected = None if layer is None else -layer - (family == "SD20")
    if expected == 0:
        with pytest.raises(ValueError, match="cannot stop at CLIP layer -1 of the family SD20"):
            choose(model, clip)
        return
    assert choose(model, clip) == expected
    if family == "SD15":
        assert take(nodes, (model, clip, vae)).networks.clip_skip == (2 if layer == -2 else None)


def nodes_of_models(nodes: Any) -> Any:
    import sys

    return sys.modules[f"{nodes.__package__}.models"]


def _set(name: str, value: Any) -> Callable[[Parts], None]:
    """Return a change of one attribute, named from MODEL, CLIP or VAE on."""

    def change(parts: Parts) -> None:
        first, *rest, last = name.split(".")
        target = dict(zip(("model", "clip", "vae"), parts, strict=True))[first]
        for step in rest:
            target = getattr(target, step)
        setattr(target, last, value)

    return change


Wan = type("WAN21_T2V", (), {})
Tiny = type("TAESD", (), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("model.model.model_config", Wan()), "cannot take a MODEL of the family WAN21_T2V\n"),
        (_set("model.model.concat_keys", ("mask", "masked_image")), "an inpainting MODEL"),
        (_set("model.model_options", {"sampler_cfg_function": print}), "MODEL, it would lose: sampler_cfg_function\n"),
        (
            _set("model.model_options", {"transformer_options": {"patches_replace": {"attn1": 1}, "patches": {}}}),
            "lose: patches_replace\n",
        ),
        (_set("model.object_patches", {"diffusion_model": 1, "manual_cast_dtype": 1}), "lose: diffusion_model\n"),
        (_set("model.injections", {"bypass_lora": [1]}), "lose: bypass_lora\n"),
        (_set("model.wrappers", {"apply_model": {"easycache": [1]}}), "lose: apply_model wrapper\n"),
        (_set("model.hook_patches", {1: 1}), "lose: hooks of its weights\n"),
        (_set("model.weight_wrapper_patches", {"x.weight": [1]}), "lose: wrapper of x.weight\n"),
        (_set("model.__class__", GGUFModelPatcher), "lose: its GGUF quantisation\n"),
        (
            _set("model.object_patches", {"model_sampling": sampling("ModelSamplingDiscreteDistilled", "LCM")}),
            "sampled by ModelSamplingDiscreteDistilled and LCM\n",
        ),
        (
            _set("model.object_patches", {"model_sampling": sampling("ModelSamplingDiscrete", "EPS", zsnr=True)}),
            "ModelSamplingDiscrete and EPS with zero terminal SNR\n",
        ),
        (_set("clip.apply_hooks_to_conds", object()), "CLIP, it would lose: hooks\n"),
        (_set("clip.tokenizer_options", {"t5xxl_min_length": 512}), "lose: t5xxl_min_length\n"),
        (_set("vae.first_stage_model", Tiny()), "VAE, it would lose: all of its TAESD\n"),
        (_set("vae.patcher.patches", {"decoder.conv_in.weight": [1]}), "lose: patches of its weights\n"),
    ],
)
def test_what_would_be_lost_is_refused_by_name(
    nodes: Any, comfy: Comfy, parts: Parts, change: Callable[[Parts], None], message: str
) -> None:
    change(parts)
    with pytest.raises(ValueError, match=message):
        take(nodes, parts)
    assert not (comfy.loras / "temp").exists() or not list((comfy.loras / "temp").iterdir())


def test_a_full_disk_is_said(nodes: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 100_000))
    with pytest.raises(ValueError, match=r"temp has room for 0\.0 GB, the model needs 0\.\d GB while it is loaded\n"):
        take(nodes, parts)


def test_a_wrong_text_model_is_said_by_its_name(nodes: Any, parts: Parts) -> None:
    model, clip, vae = parts
    clip.patcher.weights = {f"other.{name}": tensor for name, tensor in clip.patcher.weights.items()}
    with pytest.raises(ValueError, match=r"MODEL.safetensors' lacks its text_encoder\n"):
        take(nodes, (model, clip, vae))


def test_flux_brings_its_tokenizers(nodes: Any, single: Any) -> None:
    made = single("flux-dev")
    from tests.diffusion.conftest import clip_tokenizer, t5_tokenizer

    parts = of_file(made.path, "Flux", clip_l=clip_tokenizer(), t5xxl=t5_tokenizer())
    with nodes_of_models(nodes).checkpoint_file(*parts) as options:
        ours = loading_of(Path(options["model"]))
    theirs = loading_of(made.path)
    for one, other in zip(networks(ours), networks(theirs), strict=True):
        a, b = one.state_dict(), other.state_dict()
        assert set(a) == set(b)
        assert all(torch.equal(a[name], b[name]) for name in b)
    text: tuple[TextEncoder, TextEncoder] = (ours.text, theirs.text)
    assert torch.equal(text[0](["a red house"]).tokens, text[1](["a red house"]).tokens)


def loading_of(path: Path) -> Any:
    from stylescore.diffusion.execution.devices import DevicePlacement

    return loading.load_components(path, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu")))


def networks(parts: Any) -> list[Any]:
    return [parts.network, parts.vae, *(text.model for text in parts.text.models)]
