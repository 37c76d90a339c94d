"""InstantStyle: the U-Net's output beside diffusers' own pipeline, where the adapter acts, whole runs, refusals."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylescore import Stylizer, read_photo
from stylescore.catalog.families import usual_ip_adapter
from stylescore.catalog.places import Found
from stylescore.config.execution import ExecutionConfig
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.families.flux import FLUX
from stylescore.diffusion.families.sd import call
from stylescore.diffusion.ip_adapter import ImageEncoder, load_ip_adapter
from stylescore.errors import ConfigError, ModelError
from stylescore.method.fit import fit

PARITY = Path(__file__).parent.parent / "data" / "parity"
TINY = PARITY / "tiny_base"
PHOTO = PARITY / "input_128x128.png"
CPU = torch.device("cpu")
FEATURES, HIDDEN = 12, 16


def load() -> Components:
    return load_components(TINY, dtype=torch.float32, places=DevicePlacement.of_run(CPU, ExecutionConfig()))


def projection(plus: bool, width: int) -> dict[str, Tensor]:
    """Return the tensors between encoder and attention, in the published names."""
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    if not plus:
        shapes = {"proj.weight": (4 * width, FEATURES), "proj.bias": (4 * width,), "norm.weight": (width,)}
        return {name: torch.randn(shape) for name, shape in {**shapes, "norm.bias": (width,)}.items()}
    state = IPAdapterPlusImageProjection(
        embed_dims=HIDDEN, output_dims=width, hidden_dims=HIDDEN, depth=4, dim_head=64, heads=1, num_queries=4
    ).state_dict()
    renamed = {
        "ln0.": "0.norm1.",
        "ln1.": "0.norm2.",
        "attn.to_q.": "0.to_q.",
        "attn.to_out.0.": "0.to_out.",
        "ff.0.": "1.0.",
        "ff.1.net.0.proj.": "1.1.",
        "ff.1.net.2.": "1.3.",
    }
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = re.match(r"layers\.\d\.", name)
        head, rest = (layer[0], name[layer.end() :]) if layer else ("", name)
        theirs = next((new + rest.removeprefix(old) for old, new in renamed.items() if rest.startswith(old)), rest)
        found[head + theirs] = tensor
    for n in range(4):
        keys = [found.pop(f"layers.{n}.attn.to_{part}.weight") for part in "kv"]
        found[f"layers.{n}.0.to_kv.weight"] = torch.cat(keys)
    return found


def write_adapter(folder: Path, *, plus: bool = False, width: int = 32) -> Path:
    """Write a random IP-Adapter for the tiny U-Net, as its authors' files are."""
    torch.manual_seed(3)
    state = {f"image_proj.{name}": tensor for name, tensor in projection(plus, width).items()}
    unet, number = load().network, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            out = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in "kv":
                state[f"ip_adapter.{number}.to_{part}_ip.weight"] = 0.5 * torch.randn(out, width)
            number += 2
    path = folder / f"{'plus' if plus else 'plain'}-{width}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def write_encoder(folder: Path, projected: int = FEATURES) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=32,
        projection_dim=projected,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        initializer_range=0.5,
        initializer_factor=5.0,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ip-adapter")
    (folder / "encoder").mkdir()
    return {
        "plain": write_adapter(folder),
        "plus": write_adapter(folder, plus=True),
        "encoder": write_encoder(folder / "encoder"),
    }


def places(files: dict[str, Path], kind: str = "plain") -> dict[str, Found]:
    return {
        "ip-adapter": Found(files[kind], "here"),
        "image-encoder": Found(files["encoder"], "here"),
    }


def adapted(
    files: dict[str, Path], scales: tuple[float, float], kind: str = "plain"
) -> tuple[Components, ImageEncoder]:
    parts = load()
    return parts, load_ip_adapter(places(files, kind), parts, scales, CPU)


def inputs(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 4, 8, 8, generator=rng),
        torch.tensor([600] * batch),
        torch.randn(batch, 7, 32, generator=rng),
    )


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_the_network_gives_what_it_gives_in_diffusers_pipeline(
    files: dict[str, Path], style_picture: Path, kind: str
) -> None:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPVisionModelWithProjection

    pipeline = StableDiffusionPipeline.from_pretrained(
        TINY,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(files["encoder"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    file = files[kind]
    pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale({"up": {"block_1": [0.7, 0.7]}})
    shown = Image.open(style_picture).convert("RGB")
    embeds = pipeline.prepare_ip_adapter_image_embeds(shown, None, CPU, 1, True)
    latents, time, tokens = inputs()
    parts, encoder = adapted(files, (0.7, 0.0), kind)
    prompt = encoder([[shown]])
    with torch.no_grad():
        wanted = pipeline.unet(
            latents, time, encoder_hidden_states=tokens, added_cond_kwargs={"image_embeds": embeds}
        ).sample
        absent, given = Conditioning(tokens[:1], images=prompt.absent), Conditioning(tokens[1:], images=prompt.given)
        found = call(parts.network, latents, time, concatenate([absent, given]))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_it_acts_in_the_style_block_alone_and_not_at_all_at_scale_0(
    files: dict[str, Path], style_picture: Path
) -> None:
    parts, encoder = adapted(files, (1.0, 0.0))
    scales = {
        name: processor.scale
        for name, processor in parts.network.attn_processors.items()
        if hasattr(processor, "scale")
    }
    assert {name for name, scale in scales.items() if scale == [1.0]} == {
        n for n in scales if n.startswith("up_blocks.1")
    }
    assert {scale[0] for name, scale in scales.items() if not name.startswith("up_blocks.1")} == {0.0}
    assert not any(parameter.requires_grad for parameter in parts.network.parameters())
    latents, time, tokens = inputs()
    images = encoder([[Image.open(style_picture).convert("RGB")] * 2]).given
    with torch.no_grad():
        plain = call(load().network, latents, time, Conditioning(tokens))
        shown = call(parts.network, latents, time, Conditioning(tokens, images=images))
        without = call(adapted(files, (0.0, 0.0))[0].network, latents, time, Conditioning(tokens, images=images))
    assert torch.allclose(without, plain, atol=1e-6)
    assert not torch.allclose(shown, plain, atol=1e-2)


def test_rows_keep_their_pictures(files: dict[str, Path], style_picture: Path) -> None:
    parts, encoder = adapted(files, (1.0, 0.5))
    style, photo = Image.open(style_picture).convert("RGB"), Image.open(PHOTO).convert("RGB")
    images = encoder([[style, photo], [photo, style]]).given
    latents, time, tokens = inputs()
    every = Conditioning(tokens, images=images)
    with torch.no_grad():
        together = call(parts.network, latents, time, every)
        alone = [call(parts.network, latents[n : n + 1], time[n : n + 1], every[n : n + 1]) for n in range(2)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    swapped = every.select([1, 0]).images
    assert [torch.equal(a, b[[1, 0]]) for a, b in zip(swapped, images, strict=True)] == [True, True]


@pytest.fixture
def stylize(files: dict[str, Path], style_picture: Path) -> Callable[..., Stylizer]:
    def make(**options: Any) -> Stylizer:
        given: dict[str, Any] = {
            "model": TINY,
            "method": "instantstyle",
            "style_image": style_picture,
            "weights": {"ip-adapter": files["plain"], "image-encoder": files["encoder"]},
            "iterations": 2,
            "size": 64,
            "device": "cpu",
            "prompt": "a cat",
        }
        return Stylizer.load([], **{**given, **options})

    return make


def latents_of(stylizer: Stylizer, copies: int = 1) -> Tensor:
    fitting = stylizer.start([read_photo(PHOTO)] * copies)
    assert len(list(fit(fitting))) == fitting.iterations
    return fitting.subject.render()


def test_without_strength_it_gives_back_the_photo(stylize: Callable[..., Stylizer]) -> None:
    fitting = stylize(strength=0.0).start([read_photo(PHOTO)])
    assert list(fit(fitting)) == []
    assert torch.equal(fitting.subject.render(), fitting.subject.draw(fitting.rng)[1])


def test_the_picture_matters_and_at_scale_0_it_does_not(stylize: Callable[..., Stylizer]) -> None:
    first, other = latents_of(stylize()), latents_of(stylize(style_image=PHOTO))
    assert not torch.allclose(first, other, atol=1e-3)
    none = {"instantstyle": {"scale": 0.0}}
    assert torch.allclose(
        latents_of(stylize(settings=none)), latents_of(stylize(settings=none, style_image=PHOTO)), atol=1e-6
    )


def test_inverted_nothing_is_random(stylize: Callable[..., Stylizer]) -> None:
    inverted = {"instantstyle": {"start": "inversion", "content_scale": 0.2}}
    assert torch.equal(latents_of(stylize(settings=inverted)), latents_of(stylize(settings=inverted, seed=5)))
    assert not torch.allclose(latents_of(stylize()), latents_of(stylize(seed=5)), atol=1e-3)


def test_an_inversion_without_guidance_comes_back_to_the_photo(stylize: Callable[..., Stylizer]) -> None:
    """Denoising undoes inverting up to the change of the prediction between two steps, which many steps make small."""
    settings = {"instantstyle": {"start": "inversion"}, "guidance_scale": 1.0}
    errors = []
    for steps in (5, 40):
        fitting = stylize(settings=settings, iterations=steps, strength=0.5).start([read_photo(PHOTO)])
        list(fit(fitting))
        errors.append(float((fitting.subject.render() - fitting.subject.draw(fitting.rng)[1]).abs().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_a_batch_equals_its_pictures_and_scales_are_fixed_once_loaded(stylize: Callable[..., Stylizer]) -> None:
    stylizer = stylize()
    both, alone = latents_of(stylizer, copies=2), latents_of(stylizer)
    assert torch.allclose(both, alone.expand(2, -1, -1, -1), atol=1e-4)
    assert stylizer.has_loaded(stylize(content=0.8).run)
    assert not stylizer.has_loaded(stylize(settings={"instantstyle": {"scale": 0.5}}).run)


def test_a_controlnet_may_stand_beside_it(stylize: Callable[..., Stylizer], tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    control = ControlNetModel.from_unet(load().network)
    torch.nn.init.normal_(control.controlnet_mid_block.weight, std=0.3)
    control.save_pretrained(tmp_path)
    held = latents_of(stylize(control="tile", control_model=tmp_path))
    assert not torch.allclose(held, latents_of(stylize()), atol=1e-4)


def test_what_cannot_be_used_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    def refuse(message: str, *, parts: Components | None = None, **changed: Path) -> None:
        given = {**places(files), **{name.replace("_", "-"): Found(path, "x") for name, path in changed.items()}}
        with pytest.raises(ModelError, match=message) as caught:
            load_ip_adapter(given, parts or load(), (1.0, 0.0), CPU)
        assert caught.value.hint

    refuse("instantstyle is for Stable Diffusion 1.x and SDXL, the model is FLUX", parts=replace(load(), family=FLUX))
    other = write_adapter(tmp_path, width=40)
    refuse("does not fit the model: it has 40 text width, not 32", ip_adapter=other)
    shutil.copy(files["plain"], tmp_path / "adapter.bin")
    refuse("an IP-Adapter must be a .safetensors file, not 'adapter.bin'", ip_adapter=tmp_path / "adapter.bin")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    refuse("is neither a plain IP-Adapter nor one of the Plus kind", ip_adapter=tmp_path / "x.safetensors")
    state = load_file(files["plain"])
    state.pop("ip_adapter.1.to_v_ip.weight")
    save_file(state, tmp_path / "half.safetensors")
    refuse("the IP-Adapter of '.*half.safetensors' ", ip_adapter=tmp_path / "half.safetensors")
    (tmp_path / "half.bin.safetensors").write_bytes(b"no tensors")
    refuse("the IP-Adapter '.*' cannot be read", ip_adapter=tmp_path / "half.bin.safetensors")
    (tmp_path / "wide").mkdir()
    refuse("has no weights as .safetensors", image_encoder=tmp_path / "wide")
    refuse("it has 20 feature width, not 12", image_encoder=write_encoder(tmp_path / "wide", projected=20))
    with pytest.raises(ModelError, match="there is no usual IP-Adapter for 'tiny_base'"):
        load_ip_adapter({}, load(), (1.0, 0.0), CPU)


def test_the_usual_ones_are_those_of_the_family() -> None:
    assert (usual_ip_adapter(768) or ("",))[0].endswith("ip-adapter_sd15.safetensors")
    assert (usual_ip_adapter(2048) or ("",))[0].endswith("ip-adapter_sdxl.safetensors")
    assert usual_ip_adapter(1024) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"style_image": None}, "instantstyle needs a picture in the style, style_image"),
        ({"weights": {"vgg19": "x"}}, "instantstyle has no network 'vgg19'"),
        ({"settings": {"instantstyle": {"start": "middle"}}}, "instantstyle.start must be one of noise, inversion"),
    ],
)
def test_bad_options_are_refused(stylize: Callable[..., Stylizer], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stylize(**options)
    assert str(caught.value).startswith(message)
