"""Files as the trainers' own libraries write them, for every family, against what these libraries load from them.

Networks are tiny and random, in float64. A file is written by a library's own save function, or in the spelling of a
program that has none; the reference is the dense difference of every weight and bias after that library has loaded and
fused the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import (
    FluxLoraLoaderMixin,
    SD3LoraLoaderMixin,
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_all_state_dict_to_peft, convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from stylescore.diffusion.adapters import changeable, merge
from stylescore.lora import bind, describe, read_lora
from stylescore.lora.binding import Modules
from stylescore.lora.sgm import sgm_names

Weights = dict[str, Tensor]
RANK, ALPHA = 2, 5


@pytest.fixture(autouse=True)
def any_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers load adapters with a PEFT that is older than the one that it asks for."""
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **_: None)


def clip(projection: bool = False) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=8,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def t5() -> nn.Module:
    return T5EncoderModel(T5Config(vocab_size=16, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2))


def unet(**more: Any) -> nn.Module:
    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=16,
        **more,
    )


def sdxl_unet() -> nn.Module:
    return unet(
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )


def sd3_transformer() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def flux_transformer() -> nn.Module:
    return FluxTransformer2DModel(
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )


@dataclass(frozen=True)
class FamilyCase:
    """A family: makers of its networks by part, diffusers' mixin, and what a trainer names as targets."""

    networks: Mapping[str, Callable[[], nn.Module]]
    mixin: Any
    denoiser: str
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    convs: tuple[str, ...] = ()


UNET_CONVS = ("conv1", "conv_shortcut", "proj_in")
MMDIT_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_q_proj", "to_add_out", "ff.net.2")
FAMILIES: dict[str, FamilyCase] = {
    "sd1": FamilyCase({"unet": unet, "text_encoder": clip}, StableDiffusionLoraLoaderMixin, "unet", convs=UNET_CONVS),
    "sd2": FamilyCase(
        {"unet": lambda: unet(use_linear_projection=True), "text_encoder": clip},
        StableDiffusionLoraLoaderMixin,
        "unet",
        convs=UNET_CONVS,
    ),
    "sdxl": FamilyCase(
        {"unet": sdxl_unet, "text_encoder": clip, "text_encoder_2": lambda: clip(True)},
        StableDiffusionXLLoraLoaderMixin,
        "unet",
        convs=UNET_CONVS,
    ),
    "sd3": FamilyCase(
        {
            "unet": sd3_transformer,
            "text_encoder": lambda: clip(True),
            "text_encoder_2": lambda: clip(True),
            "text_encoder_3": t5,
        },
        SD3LoraLoaderMixin,
        "transformer",
        MMDIT_TARGETS,
        convs=("pos_embed.proj",),
    ),
    "flux": FamilyCase(
        {"unet": flux_transformer, "text_encoder": clip, "text_encoder_2": t5},
        FluxLoraLoaderMixin,
        "transformer",
        (*MMDIT_TARGETS, "proj_mlp"),
    ),
}
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1")


@cache
def base(family: str, part: str) -> nn.Module:
    """Return a network of a family with random weights, norms and biases included."""
    torch.manual_seed(sum(map(ord, family + part)))
    network = FAMILIES[family].networks[part]().double().eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network


def weights(network: nn.Module) -> Weights:
    """Return all weights and biases of a network by the names of the layers that adapters wrap."""
    return {
        name.replace(".base_layer", "").replace("base_model.model.", ""): parameter.detach().clone()
        for name, parameter in network.named_parameters()
        if ".lora_" not in name
    }


def lora_layers(network: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def difference(after: nn.Module, before: nn.Module) -> Weights:
    """Return what changed, by name; small numerical noise of fusing is no change."""
    old, new = weights(before), weights(after)
    changed = {name: new[name] - old[name] for name in old}
    return {name: delta for name, delta in changed.items() if delta.abs().max() > 1e-9}


def randomize(network: nn.Module) -> None:
    """Give every factor of an adapter random numbers, as training would."""
    rng = torch.Generator().manual_seed(3)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            noise = 0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
            parameter.data = parameter.data + noise.abs() if "magnitude" in name else noise


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "alpha": {"lora_alpha": ALPHA},
    "rslora": {"lora_alpha": ALPHA, "use_rslora": True},
    "alpha_pattern": {"lora_alpha": ALPHA, "alpha_pattern": {"to_k": 1, "q_proj": 3, "to_out.0": 7}},
    "rank_pattern": {"lora_alpha": ALPHA, "rank_pattern": {"to_v": 3, "v_proj": 4}, "use_rslora": True},
    "dora": {"lora_alpha": ALPHA, "use_dora": True},
    "bias": {"lora_alpha": ALPHA, "lora_bias": True},
    "conv": {"lora_alpha": ALPHA, "alpha_pattern": {"to_k": 1, "q_proj": 3}, "rank_pattern": {"to_v": 3, "v_proj": 4}},
}


def config(family: str, part: str, option: str) -> LoraConfig:
    case = FAMILIES[family]
    targets = (
        case.targets
        if part == "unet"
        else ("q", "v", "wo")
        if "T5" in type(base(family, part)).__name__
        else TEXT_TARGETS
    )
    if option == "conv" and part == "unet":
        targets += case.convs
    own = {"lora_alpha": RANK, **deepcopy(OPTIONS[option])}
    if option == "bias":  # peft trains biases of layers that have one
        biased = {n for n, m in base(family, part).named_modules() if getattr(m, "bias", None) is not None}
        targets = tuple(t for t in targets if any(n.endswith(f".{t}") for n in biased) and t != "to_q") or targets[:1]
        own["lora_bias"] = all(n in biased for n, _ in base(family, part).named_modules() if n.endswith(targets))
    return LoraConfig(r=RANK, target_modules=list(targets), **own)


def trained(family: str, part: str, option: str) -> nn.Module:
    """Return a network with a trained adapter."""
    network = deepcopy(base(family, part))
    network.add_adapter(config(family, part, option))
    randomize(network)
    return network


def shapes(family: str, part: str) -> Modules:
    return changeable(base(family, part))


def ours(path: Path, family: str, part: str) -> Weights:
    """Return how our own reader changes the weights of a network."""
    lora = read_lora(path).for_text_encoders([name for name in FAMILIES[family].networks if name != "unet"])
    changed = deepcopy(base(family, part))
    merge(changed, bind(lora, shapes(family, part), part), 1.0)  # type: ignore[arg-type]
    return difference(changed, base(family, part))


def theirs(path: Path, family: str, part: str) -> Weights:
    """Return how diffusers changes them: its loader, then its fusing."""
    mixin, network = FAMILIES[family].mixin, deepcopy(base(family, part))
    more = {"unet_config": network.config} if part == "unet" and FAMILIES[family].denoiser == "unet" else {}
    found = mixin.lora_state_dict(str(path), return_lora_metadata=True, **more)
    state, metadata = found[0], found[-1]
    alphas = found[1] if len(found) > 2 else None
    if family == "flux":
        state, alphas, metadata = mixin.lora_state_dict(str(path), return_alphas=True, return_lora_metadata=True)
    if part == "unet":
        name = FAMILIES[family].denoiser
        load = getattr(mixin, f"load_lora_into_{name}")
        given = {} if family == "sd3" else {"network_alphas": alphas}
        load(state, metadata=metadata, _pipeline=None, **given, **{name: network})
        network.fuse_lora()
    else:
        mixin.load_lora_into_text_encoder(
            state, network_alphas=alphas, text_encoder=network, prefix=part, metadata=metadata
        )
        for module in lora_layers(network).values():
            module.merge()
    return difference(network, base(family, part))


def assert_same(found: Weights, wanted: Weights) -> None:
    assert wanted
    assert set(found) == set(wanted)
    for name, delta in wanted.items():
        torch.testing.assert_close(
            found[name], delta, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def parts_of(family: str, *, with_t5: bool = False) -> list[str]:
    """Return the parts that diffusers trains: a T5 is none of them."""
    return [part for part in FAMILIES[family].networks if with_t5 or "T5" not in type(base(family, part)).__name__]


def write_diffusers(folder: Path, family: str, option: str, parts: list[str]) -> Path:
    """Write a file as diffusers' training scripts do."""
    case, networks = FAMILIES[family], {part: trained(family, part, option) for part in parts}
    names = {part: case.denoiser if part == "unet" else part for part in parts}
    layers = {}
    for part, network in networks.items():
        state = get_peft_model_state_dict(network)
        is_old = case.denoiser == "unet" and option not in ("dora", "bias", "conv")
        layers[f"{names[part]}_lora_layers"] = convert_state_dict_to_diffusers(state) if is_old else state
    metadata = _collate_lora_metadata({names[part]: network for part, network in networks.items()})
    case.mixin.save_lora_weights(folder, **layers, **metadata)
    return folder / "pytorch_lora_weights.safetensors"


CASES = [
    (family, option)
    for family in FAMILIES
    for option in OPTIONS
    if not (option == "conv" and not FAMILIES[family].convs)
]


@pytest.mark.parametrize(("family", "option"), CASES)
def test_what_diffusers_saves_changes_weights_as_diffusers_does(tmp_path: Path, family: str, option: str) -> None:
    parts = parts_of(family)
    path = write_diffusers(tmp_path, family, option, parts)
    for part in parts:
        network = trained(family, part, option)
        for module in lora_layers(network).values():
            module.merge()
        found = ours(path, family, part)
        assert_same(found, difference(network, base(family, part)))
        if option != "dora" or part == "unet":  # diffusers does not load the magnitudes of a text encoder
            assert_same(found, theirs(path, family, part))
    assert describe(path).assumed is None


def spell_kohya(name: str, part: str, family: str) -> str:
    """Return kohya's stem of a module; FLUX's T5 has the number that it has in SD3."""
    numbers = {"text_encoder": "te1", "text_encoder_2": "te3" if family == "flux" else "te2", "text_encoder_3": "te3"}
    prefix = "unet" if part == "unet" else "te" if family in ("sd1", "sd2") else numbers[part]
    return f"lora_{prefix}_{name.replace('.', '_')}"


def spell_onetrainer(name: str, part: str, family: str) -> str:
    """Return OneTrainer's stem of a module."""
    names = {"text_encoder": "te1", "text_encoder_2": "te2", "text_encoder_3": "te3"}
    denoiser = "unet" if FAMILIES[family].denoiser == "unet" else "transformer"
    return f"lora_{denoiser if part == 'unet' else names[part]}_{name.replace('.', '_')}"


def spell_dotted(name: str, part: str, family: str) -> str:
    """Return the stem of a module as diffusers and ai-toolkit spell it."""
    return f"{FAMILIES[family].denoiser if part == 'unet' else part}.{name}"


def spell_comfyui(name: str, part: str, family: str) -> str:
    """Return the stem of a module as ComfyUI spells it, which adds prefixes to the names in a checkpoint."""
    if part == "unet":
        return f"diffusion_model.{name}"
    t5 = (family, part) in {("flux", "text_encoder_2"), ("sd3", "text_encoder_3")}
    usual = "clip_h" if family == "sd2" else "clip_l"
    model = "t5xxl" if t5 else "clip_g" if part == "text_encoder_2" else usual
    return f"text_encoders.{model}.transformer.{name}"


KOHYA = ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale")
SPELLINGS: dict[str, tuple[Callable[[str, str, str], str], tuple[str, str, str | None, str | None]]] = {
    "kohya": (spell_kohya, KOHYA),
    "kohya, unet twice": (lambda *of: spell_kohya(*of).replace("lora_unet_", "lora_unet_unet_"), KOHYA),
    "OneTrainer": (spell_onetrainer, KOHYA),
    "OMI": (lambda name, part, family: f"{OMI[family, part]}.{name}", KOHYA),
    "ai-toolkit": (spell_dotted, ("lora_A.weight", "lora_B.weight", "alpha", "lora_magnitude_vector")),
    "ai-toolkit, unnamed": (
        lambda name, part, family: f"diffusion_model.{name}" if part == "unet" else spell_dotted(name, part, family),
        ("lora_A.weight", "lora_B.weight", "alpha", None),
    ),
    "old diffusers": (spell_dotted, ("lora.down.weight", "lora.up.weight", "alpha", None)),
    "linear layers of old diffusers": (
        spell_dotted,
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight", "alpha", None),
    ),
    "ComfyUI": (lambda *of: spell_comfyui(*of), KOHYA),
    "prefix twice": (
        lambda name, part, family: f"unet.unet.{name}" if part == "unet" else spell_dotted(name, part, family),
        ("lora.down.weight", "lora.up.weight", None, None),
    ),
}
OMI = {
    (family, part): {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5"}.get(
        part, FAMILIES[family].denoiser
    )
    for family in FAMILIES
    for part in FAMILIES[family].networks
} | {("flux", "text_encoder_2"): "t5"}


def write_spelled(path: Path, family: str, spelling: str, networks: Mapping[str, nn.Module]) -> None:
    """Write trained adapters in the spelling of a program, with its alpha where it has one."""
    stem, (down, up, alpha, magnitude) = SPELLINGS[spelling]
    tensors = {}
    for part, network in networks.items():
        for name, module in lora_layers(network).items():
            start = stem(name, part, family)
            tensors |= {
                f"{start}.{down}": module.lora_A["default"].weight,
                f"{start}.{up}": module.lora_B["default"].weight,
            }
            if alpha is not None:
                tensors[f"{start}.{alpha}"] = torch.tensor(float(module.lora_alpha["default"]))
            if magnitude is not None and module.lora_magnitude_vector:
                tensors[f"{start}.{magnitude}"] = module.lora_magnitude_vector["default"].weight
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize("option", ["conv", "dora"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_program_spells_the_same_change(tmp_path: Path, family: str, spelling: str, option: str) -> None:
    _, (*_, alpha, magnitude) = SPELLINGS[spelling]
    if option == "dora" and magnitude is None:
        pytest.skip("the program writes no magnitudes")
    own = {part: trained(family, part, option) for part in parts_of(family, with_t5=True)}
    for network in own.values():
        for module in lora_layers(network).values():
            module.use_rslora = {}
            module.scaling["default"] = 1.0 if alpha is None else module.lora_alpha["default"] / module.r["default"]
    path = tmp_path / "a.safetensors"
    write_spelled(path, family, spelling, own)
    for part, network in own.items():
        for module in lora_layers(network).values():
            module.merge()
        assert_same(ours(path, family, part), difference(network, base(family, part)))


@pytest.mark.parametrize("option", ["rslora", "alpha_pattern", "dora", "bias"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "my-style.safetensors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_peft_saves_is_read_under_any_name(tmp_path: Path, family: str, name: str, option: str) -> None:
    network = get_peft_model(deepcopy(base(family, "unet")), config(family, "unet", option))
    randomize(network)
    network.save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / name)
    (tmp_path / "another.safetensors").touch()
    merged = network.merge_and_unload()
    assert_same(ours(tmp_path / name, family, "unet"), difference(merged, base(family, "unet")))
    assert describe(tmp_path / name).assumed is None
    (tmp_path / "adapter_config.json").unlink()
    assert describe(tmp_path / name).assumed == "alpha = rank, as the file states no alpha"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_diffusers_converts_to_kohyas_names(tmp_path: Path, family: str) -> None:
    path = tmp_path / "a.safetensors"
    state: dict[str, Tensor] = {}
    for part in parts_of(family):
        own = get_peft_model_state_dict(trained(family, part, "alpha"))
        named = {f"{FAMILIES[family].denoiser if part == 'unet' else part}.{key}": value for key, value in own.items()}
        state |= convert_state_dict_to_kohya(convert_all_state_dict_to_peft(named))
    save_file({key: value.detach().contiguous() for key, value in state.items()}, path)
    for part in parts_of(family):
        assert_same(ours(path, family, part), theirs(path, family, part))


@pytest.mark.parametrize("option", ["rank_pattern"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_kohyas_names_are_loaded_as_diffusers_loads_them(tmp_path: Path, family: str, option: str) -> None:
    path = tmp_path / "a.safetensors"
    write_spelled(path, family, "kohya", {part: trained(family, part, option) for part in parts_of(family)})
    if family == "sdxl":
        originals = {ours: theirs for theirs, ours in sgm_names(shapes(family, "unet")).items()}
        renamed = {}
        for key, tensor in load_file(path).items():
            stem, _, role = key.partition(".")
            found = [name for name in originals if f"lora_unet_{name.replace('.', '_')}" == stem]
            renamed[f"lora_unet_{originals[found[0]].replace('.', '_')}.{role}" if found else key] = tensor
        save_file(renamed, path)
    for part in parts_of(family):
        assert_same(ours(path, family, part), theirs(path, family, part))
