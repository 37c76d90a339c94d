"""Quantised networks: GGUF files and bitsandbytes' layers compute and are adapted; what cannot run is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import resolve_text_encoders, resolve_vae
from stylescore.diffusion import quantisation
from stylescore.diffusion.adapters import Adapters, Route, adaptable, merge, trained_route
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.quantisation import compute_dtype, full_weight, has_quantised, is_quantised, weight_shape
from stylescore.errors import ModelError
from stylescore.images import Photo
from stylescore.lora import bind, read_lora
from stylescore.lora.deltas import Product
from stylescore.method.fit import fit

Families = Callable[[str], Any]
needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="the extra gguf is not installed")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the extra bitsandbytes is missing")


def load(source: Path, folder: Path, **options: Any) -> Components:
    """Load a network's file with the other parts of a folder."""
    places, texts = DevicePlacement.on(torch.device("cpu")), resolve_text_encoders(str(folder))
    options = {"vae": resolve_vae(str(folder)), "text_encoders": texts, **options}
    return load_components(source, dtype=torch.float32, places=places, options=ModelOptions(**options))


def write_gguf(path: Path, tensors: Mapping[str, Tensor], kind: str = "Q8_0") -> Path:
    """Write a GGUF file; matrices whose rows are blocks of 32 are quantised, and convolutions are in bfloat16."""
    import gguf

    quantised, plain = gguf.GGMLQuantizationType[kind], gguf.GGMLQuantizationType.BF16
    writer = gguf.GGUFWriter(str(path), "flux")
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        fits = tensor.ndim == 2 and tensor.shape[1] % 32 == 0
        if fits or tensor.ndim == 4:
            chosen = quantised if fits else plain
            writer.add_tensor(name, gguf.quants.quantize(numbers, chosen), raw_dtype=chosen)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dense(network: Any) -> Any:
    """Return a copy of a network with ordinary layers that hold the dequantised weights."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear) and is_quantised(layer)]
    full = {id(layer.weight): nn.Parameter(full_weight(layer), requires_grad=False) for layer in layers}
    copy = deepcopy(network, full)
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and is_quantised(layer):
            parent, _, leaf = name.rpartition(".")
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            plain.weight = full[id(layer.weight)]
            if layer.bias is not None:
                plain.bias = nn.Parameter(layer.bias.detach().float(), requires_grad=False)
            setattr(copy.get_submodule(parent), leaf, plain)
    return copy


def output(parts: Components, network: Any) -> Tensor:
    rng = torch.Generator().manual_seed(4)
    latents = torch.randn(2, parts.vae.config.latent_channels, 8, 8, generator=rng)
    return parts.call(network, latents, torch.tensor([0.5, 0.7]), parts.text(["a cat", "a lake"]))


@pytest.fixture
def flux(single: Any) -> Callable[[str], tuple[Path, Path]]:
    """Return a maker of a FLUX.1 transformer as GGUF, with the folder of the whole model."""

    def make(kind: str = "Q8_0", prefix: str = "") -> tuple[Path, Path]:
        made = single("flux-dev")
        bare = {n: t for n, t in made.tensors.items() if n.startswith("model.diffusion_model.")}
        named = {name.replace("model.diffusion_model.", prefix): tensor for name, tensor in bare.items()}
        return write_gguf(made.path.with_name("a.gguf"), named, kind), made.folder

    return make


@needs_gguf
@pytest.mark.parametrize(("kind", "most"), [("Q8_0", 0.02), ("Q5_1", 0.15), ("Q4_0", 0.3)])
def test_a_gguf_transformer_is_the_folders_up_to_rounding(flux: Any, kind: str, most: float) -> None:
    path, folder = flux(kind)
    parts = load(path, folder)
    whole = load_components(folder, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu")))
    assert has_quantised(parts.network)
    with torch.no_grad():
        ours, exact = output(parts, parts.network), output(whole, whole.network)
        torch.testing.assert_close(ours, output(parts, dense(parts.network)), rtol=1e-4, atol=1e-4)
    assert 0 < (ours - exact).norm() / exact.norm() < most
    assert adaptable(parts.network) == adaptable(whole.network)
    assert parts.network.dtype == torch.float32


@needs_gguf
def test_a_gguf_file_with_prefixed_names_and_one_that_lacks_parts(flux: Any) -> None:
    path, folder = flux(prefix="model.diffusion_model.")
    assert has_quantised(load(path, folder).network)
    with pytest.raises(ModelError, match=r"lacks its vae, text_encoder, text_encoder_2$") as caught:
        load(path, folder, vae=None, text_encoders=None)
    assert "--text-encoders FOLDER" in str(caught.value.hint)


@needs_gguf
@pytest.mark.parametrize("family", ["sdxl", "sd2"])
def test_a_gguf_unet(tiny_family: Families, originals: Any, tmp_path: Path, monkeypatch: Any, family: str) -> None:
    from stylescore.diffusion.checkpoints import layouts, loading, single_file

    folder = tiny_family(family).folder
    clips = {"sdxl": {}, "sd2": {}}[family]
    tensors = originals.original(folder, {}, clips)
    bare = {n.removeprefix("model.diffusion_model."): t for n, t in tensors.items() if n.startswith("model.diff")}
    path = write_gguf(tmp_path / "a.gguf", bare)
    real = single_file.load_single_file
    layout = {"sdxl": layouts.SDXL_LAYOUT, "sd2": layouts.SD2_LAYOUT}[family]
    monkeypatch.setattr(layouts, "family_of_text_width", lambda width: layout.facts)
    monkeypatch.setattr(loading, "load_single_file", lambda p, dtype, options: real(p, dtype, options, configs=folder))
    given = "v" if family == "sd2" else "epsilon"
    parts = load(path, folder, prediction=given)
    assert (has_quantised(parts.network), parts.predicts) == (True, given)
    places = DevicePlacement.on(torch.device("cpu"))
    whole = load_components(folder, dtype=torch.float32, places=places)
    with torch.no_grad():
        ours, exact = output(parts, parts.network), output(whole, whole.network)
    assert 0 < (ours - exact).norm() / exact.norm() < 0.05


@needs_gguf
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_a_whole_run_on_a_gguf_file(
    flux: Any, tiny_family: Families, run_on: Any, photos: list[Photo], memory: str
) -> None:
    path, folder = flux()
    tiny = tiny_family("flux-dev")
    parts = {"vae": str(folder), "text_encoders": str(folder)}
    stylizer = Stylizer(run_on(tiny, model=str(path), memory=memory, **parts))
    fitting = stylizer.start(photos[:1])
    start = fitting.subject.render().detach().clone()
    losses = [iteration.fake.loss.item() for iteration in fit(fitting)]
    assert all(loss > 0 for loss in losses)
    assert fitting.subject.render().isfinite().all()
    assert not torch.equal(fitting.subject.render(), start)


@needs_gguf
def test_what_quantised_weights_cannot_do_is_refused(flux: Any, tiny_family: Families, run_on: Any) -> None:
    path, folder = flux()
    parts = {"vae": str(folder), "text_encoders": str(folder)}
    with pytest.raises(ModelError, match="a style cannot be merged into 'a', whose weights are quantised"):
        Stylizer(run_on(tiny_family("flux-dev"), model=str(path), style_weights="merged", **parts))
    both = Stylizer(run_on(tiny_family("flux-dev"), model=str(path), style_model=str(path), **parts))
    assert both.style_has_network


@needs_gguf
def test_a_damaged_gguf_file_and_a_missing_package(flux: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = flux()
    content = path.read_bytes()
    path.write_bytes(content[:200])
    with pytest.raises(ModelError, match=r"the header of .* cannot be loaded"):
        load(path, folder)
    path.write_bytes(content)
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="is quantised, and gguf is not installed") as caught:
        load(path, folder)
    assert caught.value.hint == "pip install '.[gguf]'"


def network_of(kind: str, flux: Any, tiny_family: Families) -> tuple[Components, Path]:
    """Return FLUX.1's tiny transformer, quantised, and a style for it."""
    path, folder = flux()
    lora = tiny_family("flux-dev").lora
    if kind == "gguf":
        return load(path, folder), lora
    whole = load_components(folder, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu")))
    quantise_by_bitsandbytes(whole.network, kind)
    return whole, lora


def quantise_by_bitsandbytes(network: Any, kind: str) -> None:
    """Replace all linear layers by those of bitsandbytes, which quantise their weights on their way to a device."""
    import bitsandbytes as bnb

    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear):
            parent, _, leaf = name.rpartition(".")
            shape = (layer.in_features, layer.out_features, layer.bias is not None)
            if kind == "nf4":
                new = bnb.nn.Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
            else:
                new = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, threshold=6.0)
            new.load_state_dict(layer.state_dict())
            setattr(network.get_submodule(parent), leaf, new.to("cpu").requires_grad_(False))


BACKENDS = [
    pytest.param("gguf", marks=needs_gguf),
    pytest.param("nf4", marks=[needs_gguf, needs_bitsandbytes]),
    pytest.param("int8", marks=[needs_gguf, needs_bitsandbytes]),
]


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_style_acts_on_quantised_weights_as_on_dequantised_ones(flux: Any, tiny_family: Families, kind: str) -> None:
    parts, lora = network_of(kind, flux, tiny_family)
    network, reference = parts.network, dense(parts.network)
    deltas = bind(read_lora(lora), adaptable(network))
    adapters = Adapters.of(network)
    with torch.no_grad():
        plain = output(parts, network)
        adapters.add_style(deltas, 5.0)
        with adapters.switch.set(Route(style=True)):
            styled = output(parts, network)
        torch.testing.assert_close(output(parts, network), plain)
        before = output(parts, reference)
        merge(reference, deltas, 5.0)
        change = output(parts, reference) - before
    limit = 1e-4 if kind == "gguf" else 0.1  # bitsandbytes rounds what a layer receives, or multiplies in blocks
    assert change.norm() > 0.005 * plain.norm()
    assert (styled - plain - change).norm() < limit * change.norm()


@pytest.mark.parametrize("kind", BACKENDS)
def test_the_gradient_of_the_fake_adapter_passes_through_quantised_layers(
    flux: Any, tiny_family: Families, kind: str
) -> None:
    parts, _ = network_of(kind, flux, tiny_family)
    found = []
    for network in (parts.network, dense(parts.network)):
        adapters = Adapters.of(network)
        fake = adapters.new_fake(("to_q", "to_v"), 2, 2.0, [torch.Generator().manual_seed(n) for n in (0, 1)])
        for parameter in fake.parameters:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
        with adapters.switch.set(trained_route(fake, 2, 2, torch.device("cpu"))):
            output(parts, network).square().sum().backward()
        assert all(parameter.grad is not None for parameter in fake.parameters)
        found.append(torch.cat([parameter.grad.flatten() for parameter in fake.parameters]))
    limit = 1e-4 if kind == "gguf" else 0.15
    assert (found[0] - found[1]).norm() < limit * found[1].norm()


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_quantised_layer_has_the_shape_and_weight_of_its_dense_one(
    flux: Any, tiny_family: Families, kind: str
) -> None:
    parts, _ = network_of(kind, flux, tiny_family)
    layer = parts.network.get_submodule("transformer_blocks.0.attn.to_q")
    assert is_quantised(layer)
    assert (weight_shape(layer), compute_dtype(layer)) == ((32, 32), torch.float32)
    assert full_weight(layer).shape == (32, 32)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.linear(x, full_weight(layer), layer.bias)
    assert (layer(x) - expected).norm() < 0.02 * expected.norm()
    with pytest.raises(ModelError, match="cannot be merged"):
        merge(parts.network, {"transformer_blocks.0.attn.to_q": Product(torch.ones(1, 32), torch.ones(32, 1))}, 1.0)


def test_folders_that_are_quantised_are_refused_where_they_cannot_run(
    tiny_family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_family("flux-dev").folder, tmp_path / "model"))
    path = folder / "transformer" / "config.json"
    plain = json.loads(path.read_text())

    def refused(match: str, **settings: Any) -> ModelError:
        path.write_text(json.dumps(plain | {"quantization_config": settings}))
        with pytest.raises(ModelError, match=match) as caught:
            load_components(folder, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu")))
        return caught.value

    refused("the transformer of .* is quantised by 'torchao', which is not supported", quant_method="torchao")
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    missing = refused("is quantised, and bitsandbytes is not installed", quant_method="bitsandbytes", load_in_4bit=True)
    assert missing.hint == "pip install '.[bitsandbytes]'"
    monkeypatch.setattr(quantisation, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("is quantised by bitsandbytes, which needs a CUDA GPU; there is none", quant_method="bitsandbytes")


@needs_gguf
@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_folder_in_bitsandbytes_format_is_loaded_by_diffusers(
    flux: Any, tiny_family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """diffusers asks for a GPU first; its loading itself, which is tested here, does not need one."""
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    for quantizer in ("BnB4BitDiffusersQuantizer", "BnB8BitDiffusersQuantizer"):
        kind_of = getattr(bnb_quantizer, quantizer)
        monkeypatch.setattr(kind_of, "validate_environment", lambda *_, **__: None)
        monkeypatch.setattr(kind_of, "update_device_map", lambda *_: {"": "cpu"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    folder = Path(shutil.copytree(tiny_family("flux-dev").folder, tmp_path / "model-b"))
    whole, _ = network_of(kind, flux, tiny_family)
    from diffusers import BitsAndBytesConfig

    settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if kind == "nf4" else {"load_in_8bit": True}
    from safetensors.torch import save_file

    save_file(
        whole.network.state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"}
    )
    path = folder / "transformer" / "config.json"
    table = BitsAndBytesConfig(**settings).to_dict()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": table}))
    parts = load_components(folder, dtype=torch.float32, places=DevicePlacement.on(torch.device("cpu")))
    assert has_quantised(parts.network)
    for name, layer in whole.network.named_modules():
        if isinstance(layer, nn.Linear):
            torch.testing.assert_close(full_weight(parts.network.get_submodule(name)), full_weight(layer))
