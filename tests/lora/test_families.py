"""Which family a file is for: what it states wins over names, and other families are refused by their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylescore.errors import StyleError
from stylescore.lora import bind, describe, read_lora
from stylescore.lora.binding import absent_layers


def pair(stem: str, inner: int = 8, out: int = 8, *, peft: bool = True) -> dict[str, Tensor]:
    down, up = ("lora_A", "lora_B") if peft else ("lora_down", "lora_up")
    return {f"{stem}.{down}.weight": torch.ones(1, inner), f"{stem}.{up}.weight": torch.ones(out, 1)}


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    save_file(tensors, path, metadata)
    return path


FLUX_LIKE = "lora_unet_double_blocks_0_img_attn_qkv"
SD_LIKE = "lora_unet_mid_block_attentions_0_proj_in"
STATED: list[tuple[str, str, str]] = [
    ("ss_base_model_version", "qwen_image", "Qwen-Image"),
    ("modelspec.architecture", "qwen-image/lora", "Qwen-Image"),
    ("modelspec.architecture", "Qwen-Image-Edit", "Qwen-Image"),
    ("ss_base_model_version", "hunyuan_video", "HunyuanVideo"),
    ("modelspec.architecture", "hunyuan-video/lora", "HunyuanVideo"),
    ("ss_base_model_version", "wan2.1", "Wan"),
    ("ss_base_model_version", "wan21", "Wan"),
    ("ss_base_model_version", "Wan-AI/Wan2.2-T2V", "Wan"),
    ("ss_base_model_version", "ltxv", "LTX-Video"),
    ("modelspec.architecture", "LTX-Video", "LTX-Video"),
    ("ss_base_model_version", "flux2", "FLUX.2"),
    ("modelspec.architecture", "Flux.2-dev/lora", "FLUX.2"),
    ("ss_base_model_version", "chroma", "Chroma"),
    ("modelspec.architecture", "lumina-2", "Lumina"),
    ("ss_base_model_version", "hidream", "HiDream"),
    ("modelspec.architecture", "stable-cascade-v1/lora", "Stable Cascade"),
    ("ss_base_model_version", "zimage", "Z-Image"),
    ("ss_base_model_version", "flex1", "Flex"),
    ("modelspec.architecture", "PixArt-Sigma", "PixArt"),
    ("ss_base_model_version", "Pony V7", "AuraFlow"),
    ("modelspec.architecture", "longcat-image", "LongCat-Image"),
]


@pytest.mark.parametrize(("key", "stated", "label"), STATED)
@pytest.mark.parametrize("stem", [FLUX_LIKE, SD_LIKE])
def test_what_a_file_states_wins_over_names(tmp_path: Path, key: str, stated: str, label: str, stem: str) -> None:
    path = write(tmp_path / "a.safetensors", pair(stem, peft=False), **{key: stated})
    with pytest.raises(StyleError, match=f"is a LoRA for {label}, which is not supported") as caught:
        read_lora(path)
    assert "Stable Diffusion 1.x" in str(caught.value.hint)
    report = describe(path)
    assert (report.usable, report.family, report.reason) == (False, label, str(caught.value))


@pytest.mark.parametrize(
    ("key", "stated", "family"),
    [
        ("ss_base_model_version", "sd_v1", "sd1"),
        ("ss_base_model_version", "sd_1.5", "sd1"),
        ("ss_base_model_version", "sd_v2_v", "sd2"),
        ("ss_base_model_version", "sdxl_", "sdxl"),
        ("ss_base_model_version", "sdxl_1.0", "sdxl"),
        ("ss_base_model_version", "sd3-medium", "sd3"),
        ("ss_base_model_version", "flux1", "flux"),
        ("modelspec.architecture", "Flux.1-dev/lora", "flux"),
        ("modelspec.architecture", "flux-1-dev/lora", "flux"),
        ("modelspec.architecture", "flux1-kontext", "flux"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "sdxl"),
        ("modelspec.architecture", "stable-diffusion-3-medium", "sd3"),
        ("modelspec.architecture", "Stable Diffusion XL", "sdxl"),
        ("modelspec.architecture", "Stable Diffusion 1.5", "sd1"),
        ("ss_base_model_version", "Illustrious", "sdxl"),
        ("ss_base_model_version", "Pony", "sdxl"),
    ],
)
def test_supported_families_are_stated_in_many_ways(tmp_path: Path, key: str, stated: str, family: str) -> None:
    for stem in (FLUX_LIKE, SD_LIKE):
        assert read_lora(write(tmp_path / "a.safetensors", pair(stem, peft=False), **{key: stated})).family == family


@pytest.mark.parametrize(
    ("base", "task", "label"),
    [
        ("meta-llama/Llama-2-7b-hf", "CAUSAL_LM", "Llama"),
        ("Qwen/Qwen2-7B", "CAUSAL_LM", "Qwen"),
        ("mistralai/Mistral-7B", None, "Mistral"),
        ("black-forest-labs/FLUX.2-dev", None, "FLUX.2"),
    ],
)
def test_the_base_model_of_peft_settings_counts(tmp_path: Path, base: str, task: str | None, label: str) -> None:
    path = write(tmp_path / "adapter_model.safetensors", pair("base_model.model.layers.0.q"))
    settings = {"r": 1, "lora_alpha": 1, "base_model_name_or_path": base, "task_type": task}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(StyleError, match=f"is a LoRA for {label}, which is not supported"):
        read_lora(path)
    assert describe(path).family == label


@pytest.mark.parametrize(
    ("base", "family"),
    [
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("stabilityai/stable-diffusion-2-1", "sd2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("black-forest-labs/FLUX.1-dev", "flux"),
        ("black-forest-labs/FLUX.1-Krea-dev", "flux"),
    ],
)
def test_the_base_model_of_peft_settings_may_be_supported(tmp_path: Path, base: str, family: str) -> None:
    path = write(tmp_path / "adapter_model.safetensors", pair("base_model.model.mid.to_q"))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 1, "base_model_name_or_path": base}))
    assert read_lora(path).family == family


NAMED: list[tuple[str, int, str]] = [
    ("base_model.model.model.layers.0.self_attn.q_proj", 8, "a language model"),
    ("base_model.model.model.layers.3.mlp.gate_proj", 8, "a language model"),
    ("transformer.transformer_blocks.0.img_mlp.net.2", 8, "Qwen-Image"),
    ("transformer.transformer_blocks.40.attn.to_q", 3072, "Qwen-Image"),
    ("transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_q", 8, "HunyuanVideo"),
    ("diffusion_model.double_blocks.0.img_attn_qkv", 8, "HunyuanVideo"),
    ("transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj", 8, "FLUX.2"),
    ("diffusion_model.blocks.0.self_attn.q", 8, "Wan"),
    ("lora_unet_blocks_0_cross_attn_k", 8, "Wan"),
    ("transformer.blocks.0.attn1.to_q", 8, "Wan"),
    ("transformer.transformer_blocks.0.attn1.to_q", 2048, "LTX-Video"),
    ("transformer.transformer_blocks.0.attn1.to_q", 1152, "PixArt"),
    ("transformer.transformer_blocks.0.attn1.to_q", 77, "a transformer of another family"),
    ("transformer.joint_transformer_blocks.0.attn.to_q", 8, "AuraFlow"),
    ("transformer.distilled_guidance_layer.layers.0.linear_1", 8, "Chroma"),
    ("diffusion_model.double_stream_blocks.0.block.attn1.to_q", 8, "HiDream"),
    ("diffusion_model.context_refiner.0.attention.qkv", 8, "Lumina or Z-Image"),
    ("lora_prior_unet_down_blocks_0_1_channelwise_0", 8, "Stable Cascade"),
    ("unet.down_blocks.0.motion_modules.0.temporal_transformer.proj_in", 8, "a video model"),
]


@pytest.mark.parametrize(("stem", "width", "label"), NAMED)
def test_other_families_are_known_by_their_tensors(tmp_path: Path, stem: str, width: int, label: str) -> None:
    tensors = pair(stem, width, peft=not stem.startswith("lora_"))
    with pytest.raises(StyleError, match=f"is a LoRA for {label}, which is not supported"):
        read_lora(write(tmp_path / "a.safetensors", tensors))


SUPPORTED = [
    ("transformer.transformer_blocks.18.attn.to_q", 3072, "flux"),
    ("transformer.single_transformer_blocks.37.attn.to_q", 3072, "flux"),
    ("transformer.transformer_blocks.37.attn.to_q", 2432, "sd3"),
    ("lora_unet_transformer_blocks_37_attn_to_q", 2432, "sd3"),
    ("lora_unet_transformer_blocks_18_attn_to_q", 3072, "flux"),
    ("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", 2048, "unknown"),
    ("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 8, "unknown"),
    ("base_model.model.text_model.encoder.layers.0.mlp.fc1", 8, "unknown"),
]


@pytest.mark.parametrize(("stem", "width", "family"), SUPPORTED)
def test_supported_families_are_not_taken_for_others(tmp_path: Path, stem: str, width: int, family: str) -> None:
    assert read_lora(write(tmp_path / "a.safetensors", pair(stem, width))).family == family


TEXT = "text_model.encoder.layers.{}.self_attn.q_proj"


def test_layers_beyond_a_text_encoders_last_one_are_left_out(tmp_path: Path) -> None:
    tensors = {}
    for number in range(12):
        tensors |= pair(f"lora_te_{TEXT.format(number).replace('.', '_')}", peft=False)
    lora = read_lora(write(tmp_path / "a.safetensors", tensors))
    model = {TEXT.format(number): (8, 8) for number in range(11)}
    assert set(bind(lora, model, "text_encoder")) == set(model)
    assert absent_layers(lora, model, "text_encoder") == (11,)
    assert absent_layers(lora, model, "unet") == ()
    short = {TEXT.removeprefix("text_model.").format(number): (8, 8) for number in range(11)}
    assert set(bind(lora, short, "text_encoder")) == set(short)
    del model[TEXT.format(3)]
    with pytest.raises(StyleError, match="it lacks 1 of 11 modules"):
        bind(lora, model, "text_encoder")


def test_a_third_text_encoder_is_the_second_of_a_model_with_two(tmp_path: Path) -> None:
    layer = "encoder_block_0_layer_0_SelfAttention_q"
    lora = read_lora(write(tmp_path / "a.safetensors", pair(f"lora_te3_{layer}", peft=False)))
    assert set(lora.for_text_encoders(["text_encoder", "text_encoder_2"]).parts) == {"text_encoder_2"}
    assert set(lora.for_text_encoders(["text_encoder", "text_encoder_2", "text_encoder_3"]).parts) == {"text_encoder_3"}
    assert set(lora.for_text_encoders(["text_encoder"]).parts) == {"text_encoder_3"}


@pytest.mark.parametrize(
    ("stated", "value"), [("2", 2), ("1", 1), ("None", None), ("", None), ("-1", None), ("x", None)]
)
def test_clip_skip_is_read_from_the_metadata(tmp_path: Path, stated: str, value: int | None) -> None:
    path = write(tmp_path / "a.safetensors", pair(SD_LIKE, peft=False), ss_clip_skip=stated)
    assert (read_lora(path).clip_skip, describe(path).clip_skip) == (value, value)


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    note = "alpha = rank, as the file states no alpha"
    for stem, peft in ((SD_LIKE, False), ("base_model.model.mid.to_q", True)):
        path = write(tmp_path / "a.safetensors", pair(stem, peft=peft))
        assert (read_lora(path).assumed, describe(path).assumed, describe(path).alphas) == (note, note, ())
    path = write(tmp_path / "b.safetensors", pair(SD_LIKE, peft=False) | {f"{SD_LIKE}.alpha": torch.tensor(1.0)})
    assert (read_lora(path).assumed, describe(path).alphas) == (None, (1.0,))
    old = {"unet.m.lora.down.weight": torch.ones(1, 8), "unet.m.lora.up.weight": torch.ones(8, 1)}
    assert read_lora(write(tmp_path / "c.safetensors", old)).assumed is None
