"""Files that name layers as the original code does, against diffusers' own conversion of checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils as lora_utils
from diffusers.loaders import single_file_utils as checkpoints
from safetensors.torch import save_file
from torch import Tensor

from stylescore.diffusion.adapters import adaptable
from stylescore.errors import StyleError
from stylescore.lora import Change, Product, bind, describe, read_lora
from stylescore.lora.mmdit import mmdit_targets
from stylescore.lora.sgm import sgm_names

Shapes = dict[str, tuple[int, ...]]


@cache
def flux() -> Shapes:
    with torch.device("meta"):
        return adaptable(FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True))


@cache
def sd3() -> Shapes:
    with torch.device("meta"):
        return adaptable(SD3Transformer2DModel(num_layers=3, dual_attention_layers=(0, 1), qk_norm="rms_norm"))


@cache
def sdxl() -> Shapes:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64, 128),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=[1, 2, 3],
            attention_head_dim=[1, 2, 4],
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=48,
        )
    return adaptable(unet)


class Checkpoint(dict[str, Tensor]):
    """A checkpoint that has whatever is asked of it, each row of a weight marked by a number of its own."""

    def __init__(self, rows: Mapping[str, int], known: dict[str, Tensor]) -> None:
        super().__init__(known)
        self.rows = rows
        self.marks: dict[str, Tensor] = {}

    def pop(self, key: str, *_: Any) -> Tensor:
        layer, _, what = key.rpartition(".")
        if layer not in self.rows or what != "weight":
            return torch.zeros(self.rows.get(layer, 1))  # a bias or a norm, which no adapter changes
        start = 1.0 + sum(len(marks) for marks in self.marks.values())
        self.marks[layer] = torch.arange(start, start + self.rows[layer])[:, None]
        return self.marks[layer]


NETWORKS: dict[str, tuple[Callable[[], Shapes], Any, dict[str, Tensor]]] = {
    "flux": (
        flux,
        checkpoints.convert_flux_transformer_checkpoint_to_diffusers,
        {f"{name}.x": torch.zeros(1) for name in ("double_blocks.1", "single_blocks.1", "guidance_in")},
    ),
    "sd3": (
        sd3,
        checkpoints.convert_sd3_transformer_checkpoint_to_diffusers,
        {f"joint_blocks.{n}.x_block.attn2.ln_q": torch.zeros(1) for n in (0, 1)}
        | {"joint_blocks.2.x": torch.zeros(1), "context_embedder.weight": torch.zeros(1536, 1)},
    ),
}


def converted(network: str) -> tuple[Shapes, dict[str, Tensor], dict[str, Tensor]]:
    """Return the network's shapes, the marks of the original layers, and where diffusers puts them."""
    shapes, convert, known = NETWORKS[network]
    rows = {name: sum(shapes()[ours][0] for ours in target.modules) for name, target in mmdit_targets(shapes()).items()}
    checkpoint = Checkpoint(rows, dict(known))
    theirs = convert(checkpoint)
    moved = {name.removesuffix(".weight"): tensor for name, tensor in theirs.items()}
    return shapes(), checkpoint.marks, {name: tensor for name, tensor in moved.items() if name in shapes()}


SPELLINGS: dict[str, Callable[[str, str], str]] = {
    "kohya": lambda layer, role: f"lora_unet_{layer.replace('.', '_')}.lora_{role}.weight",
    "dotted": lambda layer, role: f"diffusion_model.{layer}.lora_{'A' if role == 'down' else 'B'}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_row_goes_where_diffusers_puts_it(tmp_path: Path, network: str, spelling: str) -> None:
    shapes, marks, moved = converted(network)
    assert set(moved) == set(shapes)
    stem, tensors = SPELLINGS[spelling], {}
    for layer, up in marks.items():
        inner = shapes[mmdit_targets(shapes)[layer].modules[0]][1:]
        tensors |= {
            stem(layer, "down"): torch.ones(1, *inner),
            stem(layer, "up"): up.reshape(-1, 1, *(1 for _ in inner[1:])),
        }
    save_file(tensors, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    bound = bind(lora, shapes)
    assert lora.family == network
    assert set(bound) == set(shapes)
    for name, rows in moved.items():
        change = bound[name]
        assert isinstance(change, Product)
        assert change.shape == shapes[name]
        assert torch.equal(change.up.flatten(), rows.flatten())


def test_kohyas_flux_files_are_scaled_as_diffusers_scales_them(tmp_path: Path) -> None:
    layers = {"double_blocks_0_img_attn_qkv": (9216, 3072), "single_blocks_1_linear1": (21504, 3072)}
    layers |= {"double_blocks_1_txt_mlp_2": (3072, 12288), "single_blocks_0_linear2": (3072, 15360)}
    tensors: dict[str, Tensor] = {}
    for n, (layer, (out, inner)) in enumerate(layers.items()):
        rng = torch.Generator().manual_seed(n)
        down, up = torch.randn(4, inner, generator=rng), torch.randn(out, 4, generator=rng)
        stem = f"lora_unet_{layer}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    bound = bind(read_lora(tmp_path / "a.safetensors"), flux())
    theirs = lora_utils._convert_kohya_flux_lora_to_diffusers(dict(tensors))
    names = {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in theirs}
    assert set(bound) == names
    for name in names:
        a, b = (theirs[f"transformer.{name}.lora_{letter}.weight"] for letter in "AB")
        change = bound[name]
        assert isinstance(change, Product)
        assert torch.allclose(change.scale * change.up @ change.down[:, :5], b @ a[:, :5], atol=1e-4)


def test_sdxl_blocks_have_the_names_that_diffusers_reads() -> None:
    originals = sgm_names(sdxl())
    assert set(originals.values()) == set(sdxl())
    keys = {f"lora_unet_{name.replace('.', '_')}.lora_down.weight": ours for name, ours in originals.items()}
    marks = {key: torch.tensor(float(n)) for n, key in enumerate(keys)}
    by_mark = dict(enumerate(keys.values()))
    config = type("Config", (), {"layers_per_block": 2})
    for key, mark in lora_utils._maybe_map_sgm_blocks_to_diffusers(dict(marks), config).items():
        theirs = lora_utils._convert_unet_lora_key(key).replace(".processor", "")
        theirs = theirs.removesuffix(".lora.down.weight").removesuffix("_lora.down.weight")
        assert theirs.replace("to_out", "to_out.0").replace("to_out.0.0", "to_out.0") == by_mark[int(mark)]


@pytest.mark.parametrize("spelling", ["sgm", "diffusers"])
def test_sdxl_files_in_both_spellings_bind(tmp_path: Path, spelling: str) -> None:
    originals = sgm_names(sdxl()) if spelling == "sgm" else {name: name for name in sdxl()}
    tensors: dict[str, Tensor] = {}
    for name, ours in originals.items():
        out, *inner = sdxl()[ours]
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": torch.ones(1, *inner)}
        tensors |= {f"{stem}.lora_up.weight": torch.ones(out, 1, *(1 for _ in inner[1:]))}
    save_file(tensors, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    assert lora.family == "sdxl"
    assert {name: change.shape for name, change in bind(lora, sdxl()).items()} == sdxl()


TINY: Shapes = {f"single_transformer_blocks.0.{name}": (6, 8) for name in ("attn.to_q", "attn.to_k", "attn.to_v")}
TINY |= {"single_transformer_blocks.0.proj_mlp": (12, 8), "norm_out.linear": (16, 8)}
LINEAR1 = "lora_unet_single_blocks_0_linear1"


def fused(path: Path, **tensors: Tensor) -> dict[str, Change]:
    save_file({f"{LINEAR1}.{role}": tensor for role, tensor in tensors.items()}, path)
    return bind(read_lora(path), TINY)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


FUSED: dict[str, dict[str, Tensor]] = {
    "LoHa": {f"hada_w{n}_{side}": random(*((30, n) if side == "a" else (n, 8))) for n in (1, 2) for side in "ab"},
    "LoKr": {"lokr_w1": random(5, 4), "lokr_w2": random(6, 2)},
    "DoRA": {"lokr_w1": random(5, 4), "lokr_w2": random(6, 2), "dora_scale": random(30, 1).abs()},
}


@pytest.mark.parametrize("kind", FUSED)
def test_other_kinds_are_split_at_the_same_rows(tmp_path: Path, kind: str) -> None:
    bound = fused(tmp_path / "a.safetensors", **FUSED[kind])
    whole = read_lora(tmp_path / "a.safetensors").parts["unet"]["single_blocks_0_linear1"]
    weight = random(30, 8)
    order = [name for name in TINY if name.startswith("single")]
    sides = [TINY[name][0] for name in order]
    pieces = [bound[name].difference(part) for name, part in zip(order, weight.split(sides), strict=True)]
    assert set(bound) == set(order)
    assert torch.allclose(torch.cat(pieces), whole.difference(weight), atol=1e-6)
    assert all(piece.abs().max() > 0.1 for piece in pieces)


def test_magnitudes_of_common_columns_cannot_be_split(tmp_path: Path) -> None:
    tensors = FUSED["LoKr"] | {"dora_scale": torch.ones(1, 8)}
    with pytest.raises(StyleError, match="this DoRA gives magnitudes of their common columns") as caught:
        fused(tmp_path / "a.safetensors", **tensors)
    report = describe(tmp_path / "a.safetensors", TINY)
    assert (report.usable, report.reason, report.hint) == (False, str(caught.value), caught.value.hint)


@pytest.mark.parametrize("axis", [0, 1])
def test_swapped_halves_swap_magnitudes_of_rows_too(tmp_path: Path, axis: int) -> None:
    stem, lengths = "lora_unet_final_layer_adaLN_modulation_1", random(*((16, 1), (1, 8))[axis]).abs()
    tensors = {f"{stem}.lokr_w1": random(4, 2), f"{stem}.lokr_w2": random(4, 4), f"{stem}.dora_scale": lengths}
    save_file(tensors, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    whole, weight = lora.parts["unet"]["final_layer_adaLN_modulation_1"], random(16, 8)
    ours = torch.cat([weight[8:], weight[:8]])
    difference = bind(lora, TINY)["norm_out.linear"].difference(ours)
    assert torch.allclose(difference, whole.difference(weight).roll(8, dims=0), atol=1e-6)


def test_a_layer_given_fused_and_apart_is_refused(tmp_path: Path) -> None:
    tensors = {f"{LINEAR1}.lokr_w1": random(5, 4), f"{LINEAR1}.lokr_w2": random(6, 2)}
    stem = "lora_unet_single_transformer_blocks_0_attn_to_k"
    tensors |= {f"{stem}.lora_down.weight": random(1, 8), f"{stem}.lora_up.weight": random(6, 1)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(StyleError, match=r"gives 'single_transformer_blocks\.0\.attn\.to_k' twice"):
        bind(read_lora(tmp_path / "a.safetensors"), TINY)


def xlabs(block: str, role: str, layer: str) -> str:
    return f"{block}.processor.{layer}.{role}.weight"


XLABS = {
    "double_blocks.1": {"qkv_lora1": (9216, 3072), "qkv_lora2": (9216, 3072), "proj_lora1": (3072, 3072)},
    "double_blocks.0": {"proj_lora2": (3072, 3072)},
    "single_blocks.1": {"qkv_lora": (9216, 3072), "proj_lora": (3072, 15360)},
}


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_files_are_read_as_diffusers_reads_them(tmp_path: Path, prefix: str) -> None:
    tensors: dict[str, Tensor] = {}
    for block, layers in XLABS.items():
        for n, (layer, (out, inner)) in enumerate(layers.items()):
            rng = torch.Generator().manual_seed(n)
            tensors[xlabs(f"{prefix}{block}", "down", layer)] = torch.randn(2, inner, generator=rng)
            tensors[xlabs(f"{prefix}{block}", "up", layer)] = torch.randn(out, 2, generator=rng)
    save_file(tensors, tmp_path / "a.safetensors")
    lora = read_lora(tmp_path / "a.safetensors")
    assert (lora.family, lora.format, lora.kind, lora.assumed) == ("flux", "xlabs", "LoRA", None)
    bound = bind(lora, flux())
    theirs = lora_utils._convert_xlabs_flux_lora_to_diffusers(dict(tensors))
    names = {key.removeprefix("transformer.").rpartition(".lora_")[0] for key in theirs}
    assert set(bound) == names
    for name in names:
        a, b = (theirs[f"transformer.{name}.lora_{letter}.weight"] for letter in "AB")
        change = bound[name]
        assert isinstance(change, Product)
        assert torch.allclose(change.scale * change.up @ change.down[:, :5], b @ a[:, :5], atol=1e-4)


def test_onetrainers_pieces_of_layers_that_diffusers_splits(tmp_path: Path) -> None:
    layers = {"double_blocks.0.txt_attn.qkv.1": (3072, 3072), "single_blocks.1.linear1.3": (12288, 3072)}
    tensors: dict[str, Tensor] = {}
    for layer, (out, inner) in layers.items():
        stem = f"transformer.{layer}"
        tensors |= {f"{stem}.lora_down.weight": torch.ones(1, inner), f"{stem}.lora_up.weight": torch.ones(out, 1)}
    save_file(tensors, tmp_path / "a.safetensors")
    bound = bind(read_lora(tmp_path / "a.safetensors"), flux())
    assert set(bound) == {"transformer_blocks.0.attn.add_k_proj", "single_transformer_blocks.1.proj_mlp"}


def test_whole_norms_of_flux_have_their_original_names(tmp_path: Path) -> None:
    network = {**flux(), "transformer_blocks.0.attn.norm_q": (128,), "single_transformer_blocks.1.attn.norm_k": (128,)}
    tensors = {
        "double_blocks.0.img_attn.norm.query_norm.scale": random(128),
        "single_blocks.1.norm.key_norm.scale": random(128),
        "double_blocks.0.img_attn.proj.lora_A.weight": random(1, 3072),
        "double_blocks.0.img_attn.proj.lora_B.weight": random(3072, 1),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    bound = bind(read_lora(tmp_path / "a.safetensors"), network)
    for name in ("transformer_blocks.0.attn.norm_q", "single_transformer_blocks.1.attn.norm_k"):
        assert torch.equal(bound[name].difference(torch.ones(128)), random(128) - 1)
    assert "transformer_blocks.0.attn.to_out.0" in bound
