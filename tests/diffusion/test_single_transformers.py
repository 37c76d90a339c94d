"""Stable Diffusion 3 and FLUX.1 in one file, plain or as GGUF: the same model as the folder, in whole runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import resolve_text_encoders, resolve_vae
from stylescore.diffusion.checkpoints import single_file
from stylescore.diffusion.checkpoints.layouts import FLUX_LAYOUT, LAYOUTS, SD3_LAYOUT
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.checkpoints.transformer_settings import transformer_settings
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.errors import ModelError
from stylescore.images import Photo
from stylescore.method.fit import fit

Families = Callable[[str], Any]
KINDS = ("sd3", "flux-dev", "flux-schnell")


def load(source: Path, **options: Any) -> Components:
    places = DevicePlacement.on(torch.device("cpu"))
    return load_components(source, dtype=torch.float32, places=places, options=ModelOptions(**options))


def networks(parts: Components) -> list[Any]:
    return [parts.network, parts.vae, *(text.model for text in parts.text.models)]


def assert_same(one: Components, other: Components) -> None:
    assert [text.name for text in one.text.models] == [text.name for text in other.text.models]
    for ours, theirs in zip(networks(one), networks(other), strict=True):
        a, b = ours.state_dict(), theirs.state_dict()
        assert set(a) == set(b)
        assert all(torch.equal(a[name], b[name]) for name in b)


def public(config: Any) -> dict[str, Any]:
    """Return a network's settings, lists as tuples; left out, there are as many outputs as inputs."""
    table = {name: value for name, value in config.items() if not name.startswith("_")}
    table["out_channels"] = table["out_channels"] or table["in_channels"]
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_holds_the_same_model_as_the_folder(single: Any, kind: str) -> None:
    made = single(kind)
    one, whole = load(made.path), load(made.folder)
    assert (one.family, one.predicts, one.native_size, one.notes) == (whole.family, "flow", 1024, ())
    assert_same(one, whole)
    settings = [public(parts.network.config) for parts in (one, whole)]
    assert settings[0] == settings[1]
    pads = [text.tokenizer.pad_token for text in one.text.models]
    assert pads == (["<|endoftext|>", "!", "<pad>"] if kind == "sd3" else ["<|endoftext|>", "<pad>"])


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_a_whole_run_on_a_single_file(
    single: Any, tiny_family: Families, run_on: Any, photos: list[Photo], kind: str
) -> None:
    made = single(kind)
    ends = []
    for model in (made.path, made.folder):
        stylizer = Stylizer(run_on(tiny_family(kind), model=str(model)))
        fitting = stylizer.start(photos[:1])
        for _ in fit(fitting):
            pass
        ends.append(fitting.subject.render().detach())
    assert ends[0].isfinite().all()
    if kind == "flux-dev":  # SD3's second tokenizer pads with another token than the tiny folder's
        torch.testing.assert_close(*ends, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", ""])
def test_a_transformer_alone_takes_the_other_parts_from_elsewhere(single: Any, prefix: str) -> None:
    made = single("flux-dev")
    bare = {name: t for name, t in made.tensors.items() if name.startswith("model.diffusion_model.")}
    path = made.path.with_name("bare.safetensors")
    save_file({name.replace("model.diffusion_model.", prefix): tensor for name, tensor in bare.items()}, path)
    with pytest.raises(ModelError, match=r"lacks its vae, text_encoder, text_encoder_2$") as caught:
        load(path)
    assert caught.value.hint == (
        "get the complete checkpoint, or give the autoencoder with --vae FILE and the text encoders with "
        "--text-encoders FOLDER"
    )
    vae, texts = resolve_vae(str(made.folder)), resolve_text_encoders(str(made.folder))
    with pytest.raises(ModelError, match=r"lacks its text_encoder, text_encoder_2$") as caught:
        load(path, vae=vae)
    assert caught.value.hint == "get the complete checkpoint, or give the text encoders with --text-encoders FOLDER"
    assert_same(load(path, vae=vae, text_encoders=texts), load(made.folder))


def test_sd3_without_t5_is_said(single: Any) -> None:
    made = single("sd3")
    path = made.path.with_name("b.safetensors")
    save_file({name: t for name, t in made.tensors.items() if ".t5xxl." not in name}, path)
    parts = load(path)
    assert parts.notes == ("b.safetensors has no T5; zeros take the place of its features, as in training",)
    assert [text.name for text in parts.text.models] == ["text_encoder", "text_encoder_2"]
    assert not parts.text(["a cat"]).tokens[:, 77:].any()


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_text_models_in_8_bit_floats(single: Any, kind: str) -> None:
    made = single(kind)
    path = made.path.with_name("b.safetensors")
    small = {n: t.to(torch.float8_e4m3fn) if ".t5xxl." in n else t for n, t in made.tensors.items()}
    save_file(small, path)
    name = "text_encoder_3" if kind == "sd3" else "text_encoder_2"
    one, whole = (load(source).text.by_name[name].model.state_dict() for source in (path, made.folder))
    for key, weight in whole.items():
        assert torch.equal(one[key], weight.to(torch.float8_e4m3fn).float())


def scaled(tensors: dict[str, Any], style: str, rows: bool = False) -> dict[str, Any]:
    """Store every matrix in 8 bits, divided by a factor, in one of ComfyUI's two spellings."""
    result: dict[str, Any] = {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if tensor.ndim != 2 or stem == name:
            result[name] = tensor
            continue
        factor = (tensor.abs().amax(dim=1, keepdim=True) if rows else tensor.abs().max()) / 448
        result[name] = (tensor / factor).to(torch.float8_e4m3fn)
        if style == "old":
            result[f"{stem}.scale_weight"] = factor if rows else factor.reshape(1)
            result[f"{stem}.scale_input"] = torch.ones(1)
            continue
        result[f"{stem}.weight_scale"] = factor
        result[f"{stem}.input_scale"] = torch.ones(())
        note = b'{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}'
        if style == "new":
            result[f"{stem}.comfy_quant"] = torch.tensor(list(note), dtype=torch.uint8)
    marks = {f"{prefix}scaled_fp8": torch.ones(0).to(torch.float8_e4m3fn) for prefix in ("model.diffusion_model.", "")}
    return result | (marks if style == "old" else {})


@pytest.mark.parametrize("rows", [False, True], ids=["", "rows"])
@pytest.mark.parametrize("style", ["old", "new", "in the metadata"])
@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_scaled_weights_are_multiplied_by_their_factors(single: Any, kind: str, style: str, rows: bool) -> None:
    made = single(kind)
    path = made.path.with_name("b.safetensors")
    layers = {name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in made.tensors if "qkv.w" in name}
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    save_file(scaled(made.tensors, style, rows), path, metadata if style == "in the metadata" else None)
    for ours, theirs in zip(networks(load(path)), networks(load(made.folder)), strict=True):
        a, b = ours.state_dict(), theirs.state_dict()
        assert set(a) == set(b)
        for name, weight in b.items():
            torch.testing.assert_close(a[name], weight, rtol=0.07, atol=2e-3 * float(weight.abs().max()))


QUANTISED = {
    "factors of weights in full": ({"a.scale_weight": torch.ones(1), "a.weight": torch.ones(3, 2)}, {}),
    "factors of blocks": (
        {"a.weight_scale": torch.ones(3, 2), "a.weight": torch.ones(3, 2).to(torch.float8_e4m3fn)},
        {},
    ),
    "factors of nothing": ({"a.scale_weight": torch.ones(1)}, {}),
    "another format": (
        {"a.weight": torch.ones(3, 2).to(torch.float8_e4m3fn), "a.comfy_quant": torch.tensor([*b'{"format":"nvfp4"}'])},
        {},
    ),
    "no note": (
        {"a.weight": torch.ones(3, 2).to(torch.float8_e4m3fn), "a.comfy_quant": torch.tensor([1, 2, 3])},
        {},
    ),
    "another option": (
        {"a.weight": torch.ones(3, 2).to(torch.float8_e4m3fn)},
        {"layers": {"a": {"format": "float8_e4m3fn", "rotated": True}}},
    ),
    "no layers": ({}, {"layers": 3}),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_other_quantised_weights_are_refused_by_name(single: Any, kind: str) -> None:
    made, (tensors, table) = single("flux-dev"), QUANTISED[kind]
    path = made.path.with_name("b.safetensors")
    small = {
        name: tensor.to(torch.uint8) if tensor.dtype == torch.int64 else tensor for name, tensor in tensors.items()
    }
    save_file(made.tensors | small, path, {"_quantization_metadata": json.dumps(table)} if table else None)
    with pytest.raises(
        ModelError, match=r"its weights are quantised, as .* shows, in a way that is not supported"
    ) as e:
        load(path)
    assert e.value.hint == "get the model in float16 or bfloat16, or as GGUF"


def test_marks_of_packed_weights(single: Any) -> None:
    made = single("flux-dev")
    path = made.path.with_name("b.safetensors")
    save_file(made.tensors | {"double_blocks.0.img_attn.qkv.weight.absmax": torch.ones(1)}, path)
    with pytest.raises(ModelError, match=r"its weights are quantised, as .* does not describe"):
        load(path)


def test_a_file_that_lacks_a_tensor_or_the_t5_tokenizer(single: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = single("flux-dev")
    path = made.path.with_name("b.safetensors")
    lacking = {name: t for name, t in made.tensors.items() if "img_in" not in name}
    save_file(lacking, path)
    with pytest.raises(ModelError, match=r"the transformer of .* cannot be loaded"):
        load(path)

    def fail(hub_id: str) -> Path:
        raise ModelError(f"{hub_id} cannot be fetched")

    monkeypatch.setattr(single_file, "download_tokenizer", fail)
    shutil.rmtree(path.parent / "tokenizer_2")
    with pytest.raises(ModelError, match="needs T5's tokenizer, which a single file does not hold") as caught:
        load(made.path)
    assert str(path.parent / "tokenizer_2") in str(caught.value.hint)


def released(depth: int, width: int, positions: int, norm: bool, dual: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a released SD3 transformer that its settings are read from."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (width, 16, 2, 2),
        "final_layer.linear.weight": (64, width),
        "context_embedder.weight": (width, 4096),
        "y_embedder.mlp.0.weight": (width, 2048),
        "pos_embed": (1, positions**2, width),
    }
    for n in range(depth):
        shapes[f"joint_blocks.{n}.x_block.attn.qkv.weight"] = (3 * width, width)
        if norm:
            shapes[f"joint_blocks.{n}.x_block.attn.ln_q.weight"] = (64,)
        if n < dual:
            shapes[f"joint_blocks.{n}.x_block.attn2.qkv.weight"] = (3 * width, width)
    return shapes


@pytest.mark.parametrize(
    ("shapes", "layers", "width", "positions", "norm", "dual"),
    [
        (released(24, 1536, 192, False, 0), 24, 1536, 192, None, []),
        (released(24, 1536, 384, True, 13), 24, 1536, 384, "rms_norm", list(range(13))),
        (released(38, 2432, 192, True, 0), 38, 2432, 192, "rms_norm", []),
    ],
    ids=["3 medium", "3.5 medium", "3.5 large"],
)
def test_the_settings_of_the_released_sd3_models(
    shapes: Any, layers: int, width: int, positions: int, norm: Any, dual: Any
) -> None:
    assert transformer_settings(SD3_LAYOUT, shapes) == {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": layers,
        "num_attention_heads": layers,
        "attention_head_dim": 64,
        "caption_projection_dim": width,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "pos_embed_max_size": positions,
        "qk_norm": norm,
        "dual_attention_layers": dual,
    }


@pytest.mark.parametrize("guided", [True, False])
def test_the_settings_of_the_released_flux_models(guided: bool) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (3072, 64),
        "txt_in.weight": (3072, 4096),
        "vector_in.in_layer.weight": (3072, 768),
        "final_layer.linear.weight": (64, 3072),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
        **{f"double_blocks.{n}.img_attn.qkv.weight": (9216, 3072) for n in range(19)},
        **{f"single_blocks.{n}.linear1.weight": (21504, 3072) for n in range(38)},
        **({"guidance_in.in_layer.weight": (3072, 256)} if guided else {}),
    }
    assert transformer_settings(FLUX_LAYOUT, shapes) == {
        "in_channels": 64,
        "out_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": guided,
    }


COUNTS = {
    ("sd3", "text_encoder"): 123_650_304,
    ("sd3", "text_encoder_2"): 694_659_840,
    ("sd3", "text_encoder_3"): 4_762_310_656,
    ("flux", "text_encoder"): 123_060_480,
    ("flux", "text_encoder_2"): 4_762_310_656,
    ("sd3", "vae"): 83_819_683,
    ("flux", "vae"): 83_819_683,
}


@pytest.mark.parametrize(("key", "part"), COUNTS)
def test_the_settings_beside_the_code_have_the_known_numbers_of_weights(key: str, part: str) -> None:
    import json

    from stylescore.diffusion.checkpoints.folders import network_class

    layout = next(layout for layout in LAYOUTS if layout.facts.key == key)
    config = json.loads((layout.configs / part / "config.json").read_text())
    kind = network_class(config.get("_class_name") or config["architectures"][0])
    with torch.device("meta"):
        model = kind.from_config(config) if "_class_name" in config else kind(kind.config_class(**config))
    assert sum(weight.numel() for weight in model.parameters()) == COUNTS[key, part]
