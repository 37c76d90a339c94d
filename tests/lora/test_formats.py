"""The same change, written the way each program writes it, must read the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stylescore.errors import StyleError
from stylescore.lora import LoraFile, Product, bind, describe, read_lora, stack
from stylescore.lora.embeddings import FIRST
from stylescore.lora.sgm import sgm_names

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
PROJ = "down_blocks.0.attentions.0.proj_in"
CONV = "down_blocks.0.resnets.0.conv1"
SHAPES = {Q: (6, 6), OUT: (6, 6), PROJ: (6, 6, 1, 1), CONV: (8, 6, 3, 3)}
RANK = 2
ALPHA = 3.0
Pair = tuple[Tensor, Tensor]


def pairs() -> dict[str, Pair]:
    rng = torch.Generator().manual_seed(5)
    return {name: pair(shape, rng) for name, shape in SHAPES.items()}


def pair(shape: tuple[int, ...], rng: torch.Generator) -> Pair:
    ones = (1,) * (len(shape) - 2)
    return (
        torch.randn(RANK, *shape[1:], generator=rng),
        torch.randn(shape[0], RANK, *ones, generator=rng),
    )


def named(stem: Callable[[str], str], down: str, up: str, alpha: str | None) -> dict[str, Tensor]:
    tensors = {}
    for name, (a, b) in pairs().items():
        tensors |= {stem(name) + down: a.clone(), stem(name) + up: b.clone()}
        if alpha is not None:
            tensors[stem(name) + alpha] = torch.tensor(ALPHA)
    return tensors


def underscored(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def original(name: str) -> str:
    table = {ours: theirs for theirs, ours in sgm_names(SHAPES).items()}
    return "lora_unet_" + table[name].replace(".", "_")


KOHYA = (".lora_down.weight", ".lora_up.weight", ".alpha")
PEFT = (".lora_A.weight", ".lora_B.weight", None)
LAYOUTS: dict[str, tuple[str, Callable[[str], str], tuple[str, str, str | None]]] = {
    "kohya": ("kohya", underscored, KOHYA),
    "kohya with original names": ("kohya", original, KOHYA),
    "kohya roles on dotted names": ("kohya", lambda n: f"unet.{n}", KOHYA),
    "diffusers": ("diffusers", lambda n: f"unet.{n}", (".lora.down.weight", ".lora.up.weight", ".alpha")),
    "diffusers without prefix": ("diffusers", lambda n: n, (".lora.down.weight", ".lora.up.weight", ".alpha")),
    "peft": ("peft", lambda n: f"base_model.model.{n}", (*PEFT[:2], ".alpha")),
    "peft with unet": ("peft", lambda n: f"unet.{n}", (*PEFT[:2], ".alpha")),
    "peft with both": ("peft", lambda n: f"base_model.model.unet.{n}", (*PEFT[:2], ".alpha")),
    "peft with adapter name": (
        "peft",
        lambda n: f"unet.base_model.model.{n}",
        (".lora_A.default.weight", ".lora_B.default.weight", ".alpha"),
    ),
}


def write(path: Path, tensors: dict[str, Tensor], **metadata: str) -> LoraFile:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return read_lora(path)


def check(bound: dict[str, Product], scale: float, names: tuple[str, ...] = tuple(SHAPES)) -> None:
    assert set(bound) == set(names)
    for name in names:
        down, up = pairs()[name]
        dense = scale * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(SHAPES[name])
        torch.testing.assert_close(bound[name].dense(), dense)
        assert bound[name].rank == RANK


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_spelling_gives_the_same_change(tmp_path, layout):
    expected, stem, endings = LAYOUTS[layout]
    lora = write(tmp_path / "a.safetensors", named(stem, *endings))
    assert (lora.format, lora.ranks, set(lora.parts)) == (expected, (RANK,), {"unet"})
    check(bind(lora, SHAPES), ALPHA / RANK)


def test_old_attention_processor_names(tmp_path):
    down, up = pairs()[Q], pairs()[OUT]
    stem = "down_blocks.0.attentions.0.transformer_blocks.0"
    tensors = {
        f"unet.{stem}.attn1.processor.to_q_lora.down.weight": down[0],
        f"unet.{stem}.attn1.processor.to_q_lora.up.weight": down[1],
        f"unet.{stem}.attn2.processor.to_out_lora.down.weight": up[0],
        f"unet.{stem}.attn2.processor.to_out_lora.up.weight": up[1],
    }
    lora = write(tmp_path / "a.safetensors", tensors)
    assert lora.format == "diffusers"
    check(bind(lora, SHAPES), 1.0, (Q, OUT))


def test_missing_alpha_means_scale_one(tmp_path):
    lora = write(tmp_path / "a.safetensors", named(underscored, *KOHYA[:2], None))
    check(bind(lora, SHAPES), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_become_float32(tmp_path, dtype):
    tensors = {name: t.to(dtype) for name, t in named(underscored, *KOHYA).items()}
    assert write(tmp_path / "a.safetensors", tensors).parts["unet"][Q.replace(".", "_")].down.dtype == torch.float32


@pytest.mark.parametrize("key", ["unet.lora_alpha", "lora_alpha"])
def test_alpha_from_embedded_peft_settings(tmp_path, key):
    settings = json.dumps({key: ALPHA, "unet.r": RANK})
    lora = write(tmp_path / "a.safetensors", named(lambda n: f"unet.{n}", *PEFT), lora_adapter_metadata=settings)
    check(bind(lora, SHAPES), ALPHA / RANK)


def test_alpha_pattern_and_rank_stabilised_scale(tmp_path):
    settings = json.dumps({"unet.lora_alpha": 1.0, "unet.alpha_pattern": {"to_q": ALPHA}, "unet.use_rslora": True})
    lora = write(tmp_path / "a.safetensors", named(lambda n: f"unet.{n}", *PEFT), lora_adapter_metadata=settings)
    assert lora.parts["unet"][Q].scale == pytest.approx(ALPHA / math.sqrt(RANK))
    assert lora.parts["unet"][OUT].scale == pytest.approx(1 / math.sqrt(RANK))


def test_alpha_from_the_settings_peft_writes_beside(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))
    tensors = named(lambda n: f"base_model.model.{n}", *PEFT)
    check(bind(write(tmp_path / "adapter_model.safetensors", tensors), SHAPES), ALPHA / RANK)


def test_alpha_from_the_settings_beside_a_peft_file_of_any_name(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))
    tensors = named(lambda n: f"base_model.model.{n}", *PEFT)
    assert write(tmp_path / "mine.safetensors", tensors).parts["unet"][Q].scale == ALPHA / RANK
    write(tmp_path / "another.safetensors", tensors)
    assert read_lora(tmp_path / "mine.safetensors").parts["unet"][Q].scale == ALPHA / RANK


def test_settings_of_another_rank_or_beside_another_programs_file_are_not_its_own(tmp_path):
    tensors = named(lambda n: f"base_model.model.{n}", *PEFT)
    write(tmp_path / "mine.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK + 1}))
    assert read_lora(tmp_path / "mine.safetensors").parts["unet"][Q].scale == 1.0
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": ALPHA, "r": RANK}))
    old = named(lambda n: f"unet.{n}", ".lora.down.weight", ".lora.up.weight", None)
    assert write(tmp_path / "old.safetensors", old).parts["unet"][Q].scale == 1.0


def test_alpha_from_the_embedded_settings_of_a_transformer(tmp_path):
    settings = json.dumps(
        {
            "transformer.lora_alpha": 1.0,
            "transformer.r": RANK,
            "transformer.alpha_pattern": {"to_q": ALPHA},
            "transformer.use_rslora": True,
            "text_encoder.lora_alpha": 7.0,
        }
    )
    tensors = named(lambda n: f"transformer.{n}", *PEFT)
    lora = write(tmp_path / "a.safetensors", tensors, lora_adapter_metadata=settings)
    assert lora.parts["unet"][Q].scale == pytest.approx(ALPHA / math.sqrt(RANK))
    assert lora.parts["unet"][OUT].scale == pytest.approx(1 / math.sqrt(RANK))


def test_a_pattern_of_alternatives_is_matched_as_a_whole(tmp_path):
    settings = json.dumps({"unet.lora_alpha": 1.0, "unet.r": RANK, "unet.alpha_pattern": {"to_k|proj_in": ALPHA}})
    lora = write(tmp_path / "a.safetensors", named(lambda n: f"unet.{n}", *PEFT), lora_adapter_metadata=settings)
    assert lora.parts["unet"][PROJ].scale == pytest.approx(ALPHA / RANK)
    assert lora.parts["unet"][Q].scale == pytest.approx(1 / RANK)


def test_only_an_alpha_that_is_stated_is_described(tmp_path):
    tensors = named(lambda n: f"unet.{n}", *PEFT)
    write(tmp_path / "a.safetensors", tensors)
    assert describe(tmp_path / "a.safetensors").alphas == ()
    write(tmp_path / "b.safetensors", tensors, lora_adapter_metadata=json.dumps({"unet.lora_alpha": ALPHA}))
    assert describe(tmp_path / "b.safetensors").alphas == (ALPHA,)
    write(tmp_path / "c.safetensors", named(underscored, *KOHYA))
    assert describe(tmp_path / "c.safetensors").alphas == (ALPHA,)


def test_the_third_text_encoder_of_a_kohya_file_is_the_second_of_flux(tmp_path):
    stems = ("lora_unet_double_blocks_0_img_attn_proj", "lora_te1_layers_0_q", "lora_te3_encoder_block_0_q")
    tensors = {f"{stem}{end}": torch.ones(4, 4) for stem in stems for end in KOHYA[:2]}
    assert set(write(tmp_path / "a.safetensors", tensors).parts) == {"unet", "text_encoder", "text_encoder_2"}
    sd3 = {name.replace("double_blocks", "joint_blocks"): tensor.clone() for name, tensor in tensors.items()}
    assert set(write(tmp_path / "b.safetensors", sd3).parts) == {"unet", "text_encoder", "text_encoder_3"}


@pytest.mark.parametrize(
    ("change", "weight"),
    [((6, 6), (6, 6, 1, 1)), ((6, 6, 1, 1), (6, 6))],
    ids=["linear to conv", "conv to linear"],
)
def test_linear_and_pointwise_convolution_are_one(tmp_path, change, weight):
    down, up = pair(change, torch.Generator().manual_seed(1))
    tensors = {"lora_unet_proj.lora_down.weight": down, "lora_unet_proj.lora_up.weight": up}
    bound = bind(write(tmp_path / "a.safetensors", tensors), {"proj": weight})["proj"]
    assert bound.dense().shape == weight
    torch.testing.assert_close(bound.dense().flatten(1), up.flatten(1) @ down.flatten(1))


def test_convolution_change_equals_convolving_twice(tmp_path):
    bound = bind(write(tmp_path / "a.safetensors", named(underscored, *KOHYA)), SHAPES)[CONV]
    x = torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(2))
    once = torch.nn.functional.conv2d(x, bound.dense(), padding=1)
    twice = torch.nn.functional.conv2d(torch.nn.functional.conv2d(x, bound.down, padding=1), bound.up)
    torch.testing.assert_close(once, bound.scale * twice, atol=1e-4, rtol=1e-4)


def test_stack_adds_weighted_changes(tmp_path):
    whole = bind(write(tmp_path / "a.safetensors", named(underscored, *KOHYA)), SHAPES)
    alone = {CONV: Product(whole[CONV].down[:1] * 2, whole[CONV].up[:, :1], 0.5)}
    total = stack([(whole, 0.8), (alone, -0.3)])
    assert {name: change.rank for name, change in total.items()} == {Q: 2, OUT: 2, PROJ: 2, CONV: 3}
    expected = 0.8 * whole[CONV].dense() - 0.3 * alone[CONV].dense()
    torch.testing.assert_close(total[CONV].dense(), expected)
    torch.testing.assert_close(total[Q].dense(), 0.8 * whole[Q].dense())


def test_stack_of_nothing_is_empty():
    assert stack([]) == {}


def test_both_text_encoders_stay_apart(tmp_path):
    down, up = pair((6, 6), torch.Generator().manual_seed(3))
    tensors = {}
    for prefix in ("lora_te1_", "lora_te2_"):
        stem = prefix + "text_model_encoder_layers_0_mlp_fc1"
        tensors |= {stem + ".lora_down.weight": down.clone(), stem + ".lora_up.weight": up.clone()}
    lora = write(tmp_path / "a.safetensors", tensors)
    assert lora.family == "sdxl"
    layer = "text_model.encoder.layers.0.mlp.fc1"
    for part in ("text_encoder", "text_encoder_2"):
        assert set(bind(lora, {layer: (6, 6)}, part)) == {layer}
    assert bind(lora, SHAPES) == {}


def crossing(width: int, prefix: str = "lora_unet_") -> dict[str, Tensor]:
    stem = f"{prefix}mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    return {stem + ".lora_down.weight": torch.ones(1, width), stem + ".lora_up.weight": torch.ones(4, 1)}


def single(stem: str) -> dict[str, Tensor]:
    return {stem + ".lora_A.weight": torch.ones(1, 4), stem + ".lora_B.weight": torch.ones(4, 1)}


FAMILIES: list[tuple[str, dict[str, Tensor], dict[str, str]]] = [
    ("sd1", crossing(768), {}),
    ("sd2", crossing(1024), {}),
    ("sdxl", crossing(2048), {}),
    ("sd3", single("transformer.transformer_blocks.0.attn.to_q"), {}),
    ("flux", single("transformer.single_transformer_blocks.0.attn.to_q"), {}),
    ("flux", single("lora_unet_double_blocks_0_img_attn_qkv"), {}),
    ("sdxl", crossing(64), {"ss_base_model_version": "sdxl_base_v1-0"}),
    ("sd1", crossing(64), {"modelspec.architecture": "stable-diffusion-v1/lora"}),
    ("stylescore-mini", crossing(64), {"ss_base_model_version": "stylescore-mini"}),
    ("unknown", crossing(64), {}),
]


@pytest.mark.parametrize(("family", "tensors", "metadata"), FAMILIES)
def test_family(tmp_path, family, tensors, metadata):
    assert write(tmp_path / "a.safetensors", tensors, **metadata).family == family


def test_a_mismatch_names_both_families(tmp_path):
    lora = write(tmp_path / "a.safetensors", crossing(2048))
    model = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (4, 768)}
    with pytest.raises(StyleError, match=r"made for SDXL, the model is Stable Diffusion 1\.x") as caught:
        bind(lora, model)
    assert caught.value.hint is not None


def test_bind_refuses_unknown_modules(tmp_path):
    lora = write(tmp_path / "a.safetensors", single("unet.nowhere"))
    with pytest.raises(StyleError, match="lacks 1 of 1 modules, such as 'nowhere'"):
        bind(lora, SHAPES)


def test_bind_refuses_other_kernels(tmp_path):
    lora = write(tmp_path / "a.safetensors", named(underscored, *KOHYA))
    with pytest.raises(StyleError, match="has shape"):
        bind(lora, SHAPES | {CONV: (8, 6, 1, 1)})


def one(shape: tuple[int, ...], mark: float) -> Pair:
    """Return factors whose product is `mark` everywhere."""
    return torch.ones(1, *shape[1:]), torch.full((shape[0], 1), float(mark))


def numbered_network() -> dict[str, tuple[int, ...]]:
    """Return a U-Net with one attention block in each region, in the order of today's libraries."""
    blocks = [f"{region}.attentions.0.transformer_blocks.0" for region in ("down_blocks.1", "mid_block", "up_blocks.2")]
    attention = [f"{attn}.{name}" for attn in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")]
    return {f"{block}.{name}": (4, 4) for block in blocks for name in [*attention, "ff.net.0.proj", "ff.net.2"]}


@pytest.mark.parametrize("gated", [True, False])
def test_numbered_layers_go_down_up_middle_with_the_gate_between_attentions(tmp_path, gated):
    count = 27 if gated else 24
    tensors = {}
    for n in range(count):
        down, up = one((4, 4), n + 1)
        tensors |= {f"unet:{n}:down": down, f"unet:{n}:up": up}
    classes = ["CrossAttention", "Attention"] + ["GEGLU"] * gated
    lora = write(tmp_path / "a.safetensors", tensors, unet=json.dumps(classes))
    marks = {name: round(change.dense()[0, 0].item()) - 1 for name, change in bind(lora, numbered_network()).items()}
    regions = ("down_blocks.1", "up_blocks.2", "mid_block")
    inside = [f"attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")] + ["ff.net.0.proj"] * gated
    inside += [f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    order = [f"{region}.attentions.0.transformer_blocks.0.{name}" for region in regions for name in inside]
    assert (lora.format, lora.kind) == ("cloneofsimo", "LoRA")
    assert marks == {name: n for n, name in enumerate(order)}


def test_numbered_layers_of_a_text_encoder(tmp_path):
    tensors = {"<word>": torch.ones(4)}
    for n in range(8):
        down, up = one((4, 4), n + 1)
        tensors |= {f"text_encoder:{n}:down": down, f"text_encoder:{n}:up": up}
    names = [f"layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in ("q", "k", "v", "out")]
    lora = write(tmp_path / "a.safetensors", tensors)
    bound = bind(lora, {f"encoder.{name}": (4, 4) for name in names}, "text_encoder")
    marks = {name: round(change.dense()[0, 0].item()) - 1 for name, change in bound.items()}
    order = [f"encoder.layers.{layer}.self_attn.{side}_proj" for layer in (0, 1) for side in ("k", "v", "q", "out")]
    assert marks == {name: n for n, name in enumerate(order)}
    assert set(lora.added_tokens) == {"<word>"}
    assert lora.added_tokens["<word>"].vectors[FIRST].tolist() == [[1.0] * 4]
    assert lora.trigger_words == ("<word>",)


def test_numbers_beyond_the_network_are_refused(tmp_path):
    down, up = one((4, 4), 1.0)
    lora = write(tmp_path / "a.safetensors", {"unet:27:down": down, "unet:27:up": up})
    with pytest.raises(StyleError, match="lacks 1 of 1 modules, such as '27'"):
        bind(lora, numbered_network())


TEXT_LAYER = "text_model.encoder.layers.0.self_attn.out_proj"
TEXTS: dict[str, tuple[str, str]] = {
    "kohya": ("lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_{}.weight", "text_encoder"),
    "kohya, first": ("lora_te1_text_model_encoder_layers_0_self_attn_out_proj.lora_{}.weight", "text_encoder"),
    "kohya, second": ("lora_te2_text_model_encoder_layers_0_self_attn_out_proj.lora_{}.weight", "text_encoder_2"),
    "old diffusers": ("text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.{}.weight", "text_encoder"),
    "diffusers": (f"text_encoder.{TEXT_LAYER}.lora_linear_layer.{{}}.weight", "text_encoder"),
    "diffusers, second": (f"text_encoder_2.{TEXT_LAYER}.lora_linear_layer.{{}}.weight", "text_encoder_2"),
    "third": (f"text_encoder_3.{TEXT_LAYER}.lora.{{}}.weight", "text_encoder_3"),
    "LyCORIS": ("lycoris_text_model_encoder_layers_0_self_attn_out_proj.lora_{}.weight", "text_encoder"),
    "LyCORIS, newer": ("lycoris_encoder_layers_0_self_attn_out_proj.lora_{}.weight", "text_encoder"),
    "newer": ("base_model.model.encoder.layers.0.self_attn.out_proj.lora_{}.weight", "text_encoder"),
    "ComfyUI, second": (f"text_encoders.clip_g.transformer.{TEXT_LAYER}.lora_{{}}.weight", "text_encoder_2"),
}


@pytest.mark.parametrize("layout", TEXTS)
def test_every_spelling_of_a_text_encoders_layer(tmp_path, layout):
    name, part = TEXTS[layout]
    down, up = pair((6, 6), torch.Generator().manual_seed(3))
    lora = write(tmp_path / "a.safetensors", {name.format("down"): down, name.format("up"): up})
    assert set(lora.parts) == {part}
    for model in ({TEXT_LAYER: (6, 6)}, {TEXT_LAYER.removeprefix("text_model."): (6, 6)}):
        (change,) = bind(lora, model, part).values()
        torch.testing.assert_close(change.dense(), up @ down)


TRANSFORMER_LAYER = "transformer_blocks.0.attn.to_q"


@pytest.mark.parametrize(
    "stem",
    [
        f"transformer.{TRANSFORMER_LAYER}",
        f"base_model.model.transformer.{TRANSFORMER_LAYER}",
        f"diffusion_model.{TRANSFORMER_LAYER}",
        "lora_transformer_transformer_blocks_0_attn_to_q",
        "lycoris_transformer_blocks_0_attn_to_q",
    ],
)
def test_every_spelling_of_a_transformers_layer(tmp_path, stem):
    tensors = {f"{stem}.lokr_w1": torch.ones(2, 3), f"{stem}.lokr_w2": torch.ones(3, 2)}
    bound = bind(write(tmp_path / "a.safetensors", tensors), {TRANSFORMER_LAYER: (6, 6)})
    torch.testing.assert_close(bound[TRANSFORMER_LAYER].dense(), torch.ones(6, 6))


@pytest.mark.parametrize(
    ("family", "width"), [("sd3", 1536), ("flux", 3072)], ids=["sd3", "flux without single blocks"]
)
def test_transformer_families_are_distinguished_by_width(tmp_path, family, width):
    stem = "transformer.transformer_blocks.0.attn.to_q"
    tensors = {f"{stem}.lora_A.weight": torch.ones(1, width), f"{stem}.lora_B.weight": torch.ones(4, 1)}
    assert write(tmp_path / "a.safetensors", tensors).family == family


@pytest.mark.parametrize(
    "tensors",
    [
        {"hada_w1_a": (4, 1), "hada_w1_b": (1, 768), "hada_w2_a": (4, 1), "hada_w2_b": (1, 768)},
        {"lokr_w1": (2, 16), "lokr_w2_a": (2, 1), "lokr_w2_b": (1, 48)},
    ],
)
def test_the_family_of_other_kinds_is_detected_by_width_too(tmp_path, tensors):
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    made = {f"{stem}.{role}": torch.ones(shape) for role, shape in tensors.items()}
    assert write(tmp_path / "a.safetensors", made).family == "sd1"
