"""A tiny random model of every family, saved as diffusers saves it, with a style LoRA that fits it."""

from __future__ import annotations

import importlib.util
import shutil
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylescore.config.method import FakeConfig, MethodConfig, SpectrumConfig
from stylescore.config.run import RunConfig, StyleChoice, with_options
from stylescore.diffusion.checkpoints import loading, single_file
from stylescore.images import Photo, read_photo

PARITY = Path(__file__).parents[1] / "data" / "parity"
WIDTH = 16
GROUPS = 4


@dataclass(frozen=True)
class Tiny:
    """A model on disk.

    Attributes:
        family: its name in these tests.
        folder: where it is.
        pipeline: the diffusers pipeline that was saved there.
        lora: a style for it.
    """

    family: str
    folder: Path
    pipeline: Any
    lora: Path

    @property
    def network(self) -> Any:
        return getattr(self.pipeline, "unet", None) or self.pipeline.transformer


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(PARITY / "tiny_base" / "tokenizer")


def t5_tokenizer() -> Any:
    """Return a tokenizer of whole words that ends every text with </s>, as T5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ("<pad>", "</s>", "<unk>", "a", "cat", "red", "house", "by", "the", "lake", "ink", ",")
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=600
    )


def clip(projection: int | None = None, width: int = WIDTH, **more: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=projection or width,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )
    return (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config)


def t5(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=16, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        )
    )


def vae(channels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        sample_size=64,
        **more,
    )


def unet(**more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        **more,
    )


def schedule(**more: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        steps_offset=1, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, **more
    )


def sd2() -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(hidden_act="gelu"),
        tokenizer=clip_tokenizer(),
        unet=unet(cross_attention_dim=WIDTH, sample_size=96),
        scheduler=schedule(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=clip(),
        text_encoder_2=clip(projection=12, width=24, hidden_act="gelu"),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=WIDTH + 24,
            sample_size=128,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
            transformer_layers_per_block=(1, 2),
        ),
        scheduler=schedule(),
    )


def flow_scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def sd3(with_t5: bool = True) -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=128,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=32,
            pooled_projection_dim=WIDTH + 12,
            out_channels=16,
            pos_embed_max_size=24,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=flow_scheduler(),
        vae=vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(projection=WIDTH),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projection=12, width=24, hidden_act="gelu"),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(48) if with_t5 else None,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(guided: bool = True) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    return FluxPipeline(
        scheduler=flow_scheduler(),
        vae=vae(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(24),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=24,
            pooled_projection_dim=WIDTH,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        ),
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "sd2": sd2,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3 without T5": lambda: sd3(with_t5=False),
    "flux-dev": flux,
    "flux-schnell": lambda: flux(guided=False),
}


def stirred(pipeline: Any) -> Any:
    """Give every weight that starts at zero an effect, so that nothing a network is told goes unheard."""
    rng = torch.Generator().manual_seed(8)
    for module in pipeline.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
            for weight in module.parameters():
                if not weight.any():
                    weight.copy_(0.05 * torch.randn(weight.shape, generator=rng))
    return pipeline


def style(pipeline: Any, path: Path) -> Path:
    """Write a LoRA in peft's spelling that changes queries of the network and of the text models that may change."""
    rng = torch.Generator().manual_seed(9)
    tensors: dict[str, Tensor] = {}
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        network = getattr(pipeline, part, None)
        if network is None or "T5" in type(network).__name__:
            continue
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith(("to_q", "self_attn.q_proj")):
                out, inner = layer.weight.shape
                tensors[f"{part}.{name}.lora_A.weight"] = torch.randn(2, inner, generator=rng)
                tensors[f"{part}.{name}.lora_B.weight"] = 0.3 * torch.randn(out, 2, generator=rng)
    save_file(tensors, path)
    return path


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Return a maker of the tiny model of a family, made once."""
    made: dict[str, Tiny] = {}

    def make(family: str) -> Tiny:
        if family not in made:
            home = tmp_path_factory.mktemp("family")
            with torch.random.fork_rng():
                torch.manual_seed(3)
                pipeline = stirred(MAKERS[family]())
            pipeline.save_pretrained(home / "model")
            pipeline.set_progress_bar_config(disable=True)
            made[family] = Tiny(family, home / "model", pipeline, style(pipeline, home / "style.safetensors"))
        return made[family]

    return make


@pytest.fixture
def photos(tmp_path: Any) -> list[Photo]:
    found = []
    for n in range(3):
        noise = torch.rand(64, 80, 3, generator=torch.Generator().manual_seed(n))
        Image.fromarray((255 * noise).byte().numpy()).save(tmp_path / f"{n}.png")
        found.append(read_photo(tmp_path / f"{n}.png"))
    return found


@pytest.fixture(scope="session")
def run_on() -> Callable[..., RunConfig]:
    """Return a maker of short runs on a tiny model with its own style."""
    method = MethodConfig(
        iterations=2,
        style_strength=1.0,
        fake=FakeConfig(targets=("to_q",), lr=1e-2),
        spectrum=SpectrumConfig(weight=1e-4),
    )

    def make(tiny: Tiny, **more: Any) -> RunConfig:
        usual = {"size": 64, "device": "cpu", "method": method}
        run = RunConfig(styles=(StyleChoice(name=str(tiny.lora)),), model=str(tiny.folder))
        return with_options(run, {**usual, **more})

    return make


@pytest.fixture(scope="session")
def originals() -> Any:
    """Return the module that writes models by the original tensor names."""
    spec = importlib.util.spec_from_file_location("originals", Path(__file__).with_name("originals.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Single:
    """A tiny model as one file.

    Attributes:
        path: the file; tokenizers are beside it.
        folder: the same model in diffusers layout.
        tensors: what the file holds.
    """

    path: Path
    folder: Path
    tensors: dict[str, Tensor]


@pytest.fixture
def single(
    tiny_family: Callable[[str], Tiny], tmp_path: Path, originals: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Single]:
    """Return a maker of a family's tiny model in one file, whose text models are named as the released files do."""

    def make(kind: str) -> Single:
        folder = Path(shutil.copytree(tiny_family(kind).folder, tmp_path / "model"))
        network = originals.stored(folder, "transformer")
        if kind == "sd3":
            _remove_projection(folder)
            tensors = originals.original_sd3(network)
            texts = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
        else:
            tensors = originals.original_flux(network)
            texts = {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}
            _shrink_conversion(monkeypatch, tiny_family(kind).network.inner_dim)
        tensors = originals.prefixed("model.diffusion_model.", tensors)
        tensors |= originals.original_vae(originals.stored(folder, "vae"), 4)
        for part, name in texts.items():
            weights = {wrapped(key, name): tensor for key, tensor in originals.stored(folder, part).items()}
            tensors |= originals.prefixed(f"text_encoders.{name}.transformer.", weights)
        if kind == "sd3":
            tensors.pop("text_encoders.clip_l.transformer.text_projection.weight")
        save_file(tensors, tmp_path / "a.safetensors")
        for tokenizer in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            if (folder / tokenizer).is_dir():
                shutil.copytree(folder / tokenizer, tmp_path / tokenizer)
        real: Callable[..., Any] = single_file.load_single_file
        monkeypatch.setattr(
            loading, "load_single_file", lambda path, dtype, options: real(path, dtype, options, configs=folder)
        )
        return Single(tmp_path / "a.safetensors", folder, tensors)

    return make


def wrapped(name: str, model: str) -> str:
    """Return the name that a text model's tensor has in the released files, where CLIP's stand below `text_model`."""
    plain = model == "t5xxl" or name.startswith(("text_model.", "text_projection"))
    return name if plain else f"text_model.{name}"


def _remove_projection(folder: Path) -> None:
    """Give the first CLIP of SD3 the projection that it has in the released models: none."""
    path = folder / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    weights["text_projection.weight"] = torch.eye(len(weights["text_projection.weight"]))
    save_file(weights, path, {"format": "pt"})


def _shrink_conversion(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Let diffusers' own conversion, which takes FLUX.1's width for granted, convert a narrower network."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as known

    entry = known["FluxTransformer2DModel"]
    function = entry["checkpoint_mapping_fn"]
    constants = tuple(width if constant == 3072 else constant for constant in function.__code__.co_consts)
    assert constants != function.__code__.co_consts
    code = function.__code__.replace(co_consts=constants)
    smaller = types.FunctionType(code, function.__globals__)
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", smaller)
