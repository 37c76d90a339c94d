"""Writes models the way the original code names their tensors, by mappings of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stylescore.lora.sgm import sgm_names

ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out", "group_norm": "norm"}


def original_unet(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write a U-Net the way the original code does, by the table that LoRA names are resolved with."""
    modules = {name.rpartition(".")[0] for name in weights}
    table = {ours: theirs for theirs, ours in sgm_names(modules).items()} | {"conv_norm_out": "out.0"}
    result = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        stem, _, last = table[module].rpartition(".")
        inner = {"norm1": "in_layers.0", "norm2": "out_layers.0"}.get(last, last) if "resnets" in module else last
        result[f"model.diffusion_model.{stem}.{inner}.{leaf}"] = tensor.clone()
    return result


def original_vae(weights: dict[str, torch.Tensor], blocks: int) -> dict[str, torch.Tensor]:
    return {f"first_stage_model.{vae_name(name, blocks)}": vae_tensor(name, t) for name, t in weights.items()}


def vae_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    attention = ".attentions." in name and tensor.ndim == 2
    return tensor[:, :, None, None].clone() if attention else tensor.clone()


def vae_name(name: str, blocks: int) -> str:
    for ours, theirs in {**ATTENTION, "conv_shortcut": "nin_shortcut", "conv_norm_out": "norm_out"}.items():
        name = name.replace(f".{ours}.", f".{theirs}.")
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    for n in range(blocks):
        name = name.replace(f"down_blocks.{n}.", f"down.{n}.").replace(f"up_blocks.{n}.", f"up.{blocks - 1 - n}.")
    name = name.replace(".resnets.", ".block.")
    return name.replace(".downsamplers.0", ".downsample").replace(".upsamplers.0", ".upsample")


OPENCLIP = {
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "encoder.layers": "transformer.resblocks",
}


def original_openclip(weights: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """Write a text model the way OpenCLIP does."""
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    result = {"positional_embedding": bare.pop("embeddings.position_embedding.weight"), "logit_scale": torch.ones(())}
    if "text_projection.weight" in bare:
        result["text_projection"] = bare.pop("text_projection.weight").T.contiguous()
    for n in range(layers):
        for leaf in ("weight", "bias"):
            rows = [bare.pop(f"encoder.layers.{n}.self_attn.{part}_proj.{leaf}") for part in "qkv"]
            result[f"transformer.resblocks.{n}.attn.in_proj_{leaf}"] = torch.cat(rows)
    for name, tensor in bare.items():
        for theirs, ours in OPENCLIP.items():
            name = name.replace(theirs, ours)
        result[name] = tensor
    return result


def prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def stored(folder: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(next((folder / part).glob("*.safetensors")))


def original(folder: Path, openclips: dict[str, str], clips: dict[str, str]) -> dict[str, torch.Tensor]:
    """Write a whole model in one file; text models are given with what stands before their names."""
    added = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    plain, extra = {}, {}
    for name, tensor in stored(folder, "unet").items():
        module, _, leaf = name.rpartition(".")
        if module in added:
            extra[f"model.diffusion_model.{added[module]}.{leaf}"] = tensor
        else:
            plain[name] = tensor
    result = original_unet(plain) | extra | original_vae(stored(folder, "vae"), 4)
    for part, prefix in clips.items():
        bare = {name.removeprefix("text_model."): tensor for name, tensor in stored(folder, part).items()}
        result |= prefixed(f"{prefix}text_model.", bare)
    for part, prefix in openclips.items():
        result |= prefixed(prefix, original_openclip(stored(folder, part), 3))
    return result


def original_sd3(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write an SD3 transformer by its names in the original MMDiT."""
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("transformer_blocks."))
    return _fused(weights, sd3_name, _swapped_in_sd3(depth))


def _swapped_in_sd3(depth: int) -> tuple[str, ...]:
    return ("norm_out.linear", f"transformer_blocks.{depth - 1}.norm1_context.linear")


SD3_NAMES = {
    "pos_embed.pos_embed": "pos_embed",
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
SD3_IN_BLOCKS = {
    **{f"attn.to_{x}": ("x_block.attn.qkv", n) for n, x in enumerate("qkv")},
    **{f"attn2.to_{x}": ("x_block.attn2.qkv", n) for n, x in enumerate("qkv")},
    **{f"attn.add_{x}_proj": ("context_block.attn.qkv", n) for n, x in enumerate("qkv")},
    **{f"attn.norm_{x}": (f"x_block.attn.ln_{x}", 0) for x in "qk"},
    **{f"attn2.norm_{x}": (f"x_block.attn2.ln_{x}", 0) for x in "qk"},
    **{f"attn.norm_added_{x}": (f"context_block.attn.ln_{x}", 0) for x in "qk"},
    "attn.to_out.0": ("x_block.attn.proj", 0),
    "attn2.to_out.0": ("x_block.attn2.proj", 0),
    "attn.to_add_out": ("context_block.attn.proj", 0),
    "norm1.linear": ("x_block.adaLN_modulation.1", 0),
    "norm1_context.linear": ("context_block.adaLN_modulation.1", 0),
    "ff.net.0.proj": ("x_block.mlp.fc1", 0),
    "ff.net.2": ("x_block.mlp.fc2", 0),
    "ff_context.net.0.proj": ("context_block.mlp.fc1", 0),
    "ff_context.net.2": ("context_block.mlp.fc2", 0),
}


def sd3_name(module: str) -> tuple[str, int]:
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if block is None:
        return SD3_NAMES.get(module, module), 0
    name, place = SD3_IN_BLOCKS[block[2]]
    return f"joint_blocks.{block[1]}.{name}", place


FLUX_NAMES = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
FLUX_IN_DOUBLE = {
    **{f"attn.to_{x}": ("img_attn.qkv", n) for n, x in enumerate("qkv")},
    **{f"attn.add_{x}_proj": ("txt_attn.qkv", n) for n, x in enumerate("qkv")},
    **{f"attn.norm_{x[0]}": (f"img_attn.norm.{x}_norm", 0) for x in ("query", "key")},
    **{f"attn.norm_added_{x[0]}": (f"txt_attn.norm.{x}_norm", 0) for x in ("query", "key")},
    "norm1.linear": ("img_mod.lin", 0),
    "norm1_context.linear": ("txt_mod.lin", 0),
    "attn.to_out.0": ("img_attn.proj", 0),
    "attn.to_add_out": ("txt_attn.proj", 0),
    "ff.net.0.proj": ("img_mlp.0", 0),
    "ff.net.2": ("img_mlp.2", 0),
    "ff_context.net.0.proj": ("txt_mlp.0", 0),
    "ff_context.net.2": ("txt_mlp.2", 0),
}
FLUX_IN_SINGLE = {
    **{f"attn.to_{x}": ("linear1", n) for n, x in enumerate("qkv")},
    "proj_mlp": ("linear1", 3),
    "proj_out": ("linear2", 0),
    "norm.linear": ("modulation.lin", 0),
    "attn.norm_q": ("norm.query_norm", 0),
    "attn.norm_k": ("norm.key_norm", 0),
}


def flux_name(module: str) -> tuple[str, int]:
    if double := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module):
        name, place = FLUX_IN_DOUBLE[double[2]]
        return f"double_blocks.{double[1]}.{name}", place
    if single := re.fullmatch(r"single_transformer_blocks\.(\d+)\.(.+)", module):
        name, place = FLUX_IN_SINGLE[single[2]]
        return f"single_blocks.{single[1]}.{name}", place
    return FLUX_NAMES[module], 0


def original_flux(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Write a FLUX.1 transformer by its names in the original code, whose norms call their weight a scale."""
    fused = _fused(weights, flux_name, ("norm_out.linear",))
    return {re.sub(r"_norm\.weight$", "_norm.scale", name): tensor for name, tensor in fused.items()}


def _fused(weights: Mapping[str, torch.Tensor], rename: Any, swapped: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Join what the original code has in one layer; halves of some modulations stand the other way round there."""
    rows: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        target, place = rename(module)
        halves = torch.cat(tensor.chunk(2)[::-1]) if module in swapped else tensor
        rows.setdefault(f"{target}.{leaf}" if leaf else target, {})[place] = halves
    return {name: torch.cat([parts[n] for n in sorted(parts)]).contiguous() for name, parts in rows.items()}
