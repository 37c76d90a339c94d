"""What a user states about a model: its prediction type, another autoencoder, other text encoders, strengths apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylescore.assembly.networks import _adapt_text, bind_all
from stylescore.assembly.options import make_run
from stylescore.assembly.sources import resolve_sources
from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import resolve_text_encoders, resolve_vae
from stylescore.config.method import MethodConfig
from stylescore.config.ranges import check_method
from stylescore.diffusion.checkpoints import parts
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.errors import ConfigError, ModelError
from stylescore.lora import read_lora

Families = Callable[[str], Any]


def load(folder: Path, **options: Any) -> Components:
    places = DevicePlacement.on(torch.device("cpu"))
    return load_components(folder, dtype=torch.float32, places=places, options=ModelOptions(**options))


@pytest.fixture
def copied(tiny_family: Families, tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of a copy of a family's model."""
    return lambda family: Path(shutil.copytree(tiny_family(family).folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


# prediction


def test_an_assumed_prediction_type_is_said(copied: Any) -> None:
    folder = copied("sdxl")
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type=...)
    silent = load(folder)
    assert (silent.predicts, silent.prediction_type) == ("epsilon", "epsilon")
    assert silent.notes == ("model does not state what it predicts: epsilon is assumed, else give --prediction v",)
    for given, kind in {"v": "v_prediction", "sample": "sample", "epsilon": "epsilon", "flow": None}.items():
        stated = load(folder, prediction=given)
        assert (stated.predicts, stated.prediction_type, stated.notes) == (given, kind, ())


@pytest.mark.parametrize(
    ("family", "given", "states"), [("sd2", "epsilon", "v"), ("sdxl", "v", "epsilon"), ("flux-dev", "v", "flow")]
)
def test_a_prediction_type_that_the_files_contradict(
    tiny_family: Families, family: str, given: Any, states: str
) -> None:
    with pytest.raises(ModelError, match=f"state that it predicts {states}, not {given}") as caught:
        load(tiny_family(family).folder, prediction=given)
    assert f"leave out --prediction {given}" in str(caught.value.hint)
    assert load(tiny_family(family).folder, prediction=states).predicts == states


def test_a_unet_that_was_trained_as_a_flow_is_called_in_thousandths(copied: Any, schedule: Any) -> None:
    folder = copied("sdxl")
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler")
    model = load(folder)
    assert (model.predicts, model.notes) == ("flow", ())
    prediction = model.prediction(schedule)
    z, eps, t = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([501])
    z_t = schedule.alpha(t) * z + schedule.sigma(t) * eps
    x_s, time = prediction.network_inputs(z_t, t)
    s = time / 1000
    torch.testing.assert_close(x_s, (1 - s) * z + s * eps)
    torch.testing.assert_close(prediction.noise(eps - z, z_t, t), eps)


def test_the_prediction_type_is_recorded_and_used_again(copied: Any, tiny_family: Families, run_on: Any) -> None:
    folder = copied("sdxl")
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type=...)
    stylizer = Stylizer(run_on(tiny_family("sdxl"), model=str(folder)))
    assert stylizer.run.prediction is None
    assert stylizer.resolved_run.prediction == "epsilon"
    assumed = set(stylizer.notes) - set(Stylizer(stylizer.resolved_run).notes)
    assert len(assumed) == 1


# autoencoders


def saved_vae(folder: Path, tiny: Any, **config: Any) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(5)
    settings = {name: value for name, value in tiny.pipeline.vae.config.items() if not name.startswith("_")}
    vae = AutoencoderKL(**settings | config)
    vae.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("place", ["folder", "whole model", "hub"])
def test_an_autoencoder_of_a_folder_with_its_own_scale(
    tiny_family: Families, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    tiny = tiny_family("sdxl")
    folder = saved_vae(tmp_path / ("other/vae" if place == "whole model" else "other"), tiny, scaling_factor=0.5)
    monkeypatch.setattr(parts, "download_vae", lambda hub_id: tmp_path / "other")
    name = "owner/name" if place == "hub" else str(tmp_path / "other")
    model = load(tiny.folder, vae=resolve_vae(name))
    codec, weights = Codec(model.vae), load_file(folder / "diffusion_pytorch_model.safetensors")
    assert (codec.scale, model.notes) == ((0.5,), ())
    assert torch.equal(model.vae.state_dict()["encoder.conv_in.weight"], weights["encoder.conv_in.weight"])
    assert not torch.equal(load(tiny.folder).vae.encoder.conv_in.weight, weights["encoder.conv_in.weight"])


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_an_autoencoder_of_a_single_file_has_the_settings_of_the_models_own(
    tiny_family: Families, tmp_path: Path, originals: Any, prefix: str
) -> None:
    tiny = tiny_family("sdxl")
    weights = load_file(saved_vae(tmp_path / "other", tiny) / "diffusion_pytorch_model.safetensors")
    named = {name.replace("first_stage_model.", prefix): t for name, t in originals.original_vae(weights, 4).items()}
    save_file(named, tmp_path / "a.safetensors")
    model = load(tiny.folder, vae=resolve_vae(str(tmp_path / "a.safetensors")))
    assert all(torch.equal(model.vae.state_dict()[name], tensor) for name, tensor in weights.items())
    assert model.notes == (
        "the autoencoder a.safetensors states no settings; those of SDXL's are used, scaling_factor 0.13025",
    )
    named.popitem()
    save_file(named, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"the vae of '.*b\.safetensors' lacks some of its weights"):
        load(tiny.folder, vae=resolve_vae(str(tmp_path / "b.safetensors")))


def test_a_model_without_autoencoder_takes_the_one_that_is_given(copied: Any, tiny_family: Families) -> None:
    folder, other = copied("flux-dev"), tiny_family("flux-dev").folder
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelError, match="lacks its vae"):
        load(folder)
    assert Codec(load(folder, vae=resolve_vae(str(other))).vae).shift == (0.1159,)


def test_an_autoencoder_that_does_not_fit_or_is_none(tiny_family: Families, tmp_path: Path) -> None:
    sdxl, flux = tiny_family("sdxl").folder, tiny_family("flux-dev").folder
    with pytest.raises(ModelError, match="its latents have 16 channels, its unet takes 4"):
        load(sdxl, vae=resolve_vae(str(flux)))
    with pytest.raises(ModelError, match=r"is no autoencoder: it has neither config\.json nor vae/config\.json"):
        load(sdxl, vae=resolve_vae(str(tmp_path)))
    with pytest.raises(ModelError, match="is a 'UNet2DConditionModel', not a AutoencoderKL"):
        load(sdxl, vae=resolve_vae(str(sdxl / "unet")))
    with pytest.raises(ModelError, match="there is no autoencoder 'nothing'"):
        resolve_vae("nothing")


def test_latents_are_whitened_by_the_mean_and_deviation_of_an_edm_autoencoder(
    tiny_family: Families, tmp_path: Path
) -> None:
    """The formulas are those of diffusers' SDXL pipelines."""
    mean, std = [-1.6574, 1.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
    tiny = tiny_family("sdxl")
    folder = saved_vae(tmp_path / "edm", tiny, latents_mean=mean, latents_std=std, scaling_factor=0.5)
    codec = Codec(load(tiny.folder, vae=resolve_vae(str(folder))).vae)
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        raw = codec.vae.encode(picture).latent_dist.mean
    m, s = (torch.tensor(numbers).view(1, 4, 1, 1) for numbers in (mean, std))
    latent = codec.encode(picture, None)
    torch.testing.assert_close(latent, (raw - m) * 0.5 / s)
    with torch.no_grad():
        torch.testing.assert_close(codec.decode(latent), codec.vae.decode(latent * s / 0.5 + m).sample)


def test_two_bases_with_other_latents_are_refused_also_by_channel(
    copied: Any, tiny_family: Families, run_on: Any
) -> None:
    folder = copied("sdxl")
    edit(folder / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[2.0] * 4)
    with pytest.raises(ModelError, match="must have the same latent scale"):
        Stylizer(run_on(tiny_family("sdxl"), style_model=str(folder)))


# text encoders


def test_text_encoders_of_another_model(tiny_family: Families, copied: Any, run_on: Any) -> None:
    folder, other = copied("flux-dev"), tiny_family("flux-dev").folder
    for part in ("text_encoder", "text_encoder_2", "tokenizer_2"):
        shutil.rmtree(folder / part)
    model = load(folder, text_encoders=resolve_text_encoders(str(other)))
    assert torch.equal(model.text(["a cat"]).tokens, load(other).text(["a cat"]).tokens)
    with pytest.raises(ModelError, match="lacks text_encoder_2, which FLUX"):
        load(folder, text_encoders=resolve_text_encoders(str(tiny_family("sd2").folder)))
    with pytest.raises(ModelError, match="is a file, a folder is needed"):
        resolve_text_encoders(str(tiny_family("sd2").lora))


def test_the_parts_of_a_run_are_resolved_and_hashed(tiny_family: Families, run_on: Any) -> None:
    tiny = tiny_family("sdxl")
    run = run_on(tiny, vae=str(tiny.folder / "vae"), text_encoders=str(tiny.folder))
    sources = resolve_sources(run)
    assert sources.apply(run).vae == str(tiny.folder / "vae")
    assert all(len(sources.hashes[name]) == 64 for name in ("vae_sha256", "text_encoders_sha256"))
    assert resolve_sources(run_on(tiny)).hashes["vae_sha256"] == ""


# strengths


def test_the_text_part_has_a_strength_of_its_own(tiny_family: Families) -> None:
    tiny = tiny_family("sdxl")
    lora = read_lora(tiny.lora)
    for strengths, expected in (({"text_strength": 0.3}, 0.3), ({}, 0.8), ({"text_strength": 0.0}, 0.0)):
        text = load(tiny.folder).text
        method = MethodConfig(style_strength=0.8, **strengths)
        changed = _adapt_text(text, [(lora, 0.5)], method)
        for model in text.models:
            deltas = bind_all([(lora, 0.5)], model.model, model.name)
            assert deltas
            for name, change in deltas.items():
                before = model.model.get_submodule(name).weight
                found = changed.by_name[model.name].model.get_submodule(name).weight - before
                torch.testing.assert_close(found, expected * change.difference(before), rtol=1e-4, atol=1e-6)


def test_the_network_keeps_the_styles_strength(tiny_family: Families, run_on: Any) -> None:
    tiny = tiny_family("sdxl")
    one, other = (
        Stylizer(run_on(tiny, method=MethodConfig(style_strength=0.8, **more))) for more in ({}, {"text_strength": 0.1})
    )
    weights = [stylizer._networks.style.adapters.network.state_dict() for stylizer in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    ups = [
        {name: buffer for name, buffer in stylizer._networks.style.network.named_buffers() if name.endswith(".up")}
        for stylizer in (one, other)
    ]
    assert ups[0]
    assert all(torch.equal(ups[0][name], ups[1][name]) for name in ups[0])
    texts = [stylizer._networks.style_text(["a cat"]).tokens for stylizer in (one, other)]
    assert not torch.allclose(*texts)
    with pytest.raises(ConfigError, match="are fixed once loaded"):
        one.with_changes({"text_strength": 0.5})


def test_a_strength_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"text_strength 0\.5 has no effect where text_encoder_lora is false"):
        check_method(MethodConfig(text_strength=0.5, text_encoder_lora=False))


def test_python_has_the_names_of_the_command_line(tmp_path: Path) -> None:
    run = make_run(
        "oil-painting",
        prediction="sample",
        vae=tmp_path,
        text_encoders="owner/name",
        clip_skip=2,
        negative_prompt="blurry",
        prompt_weights="off",
        text_strength=0.5,
        settings={"guidance_scale": 3.0},
    )
    assert (run.prediction, run.vae, run.text_encoders) == ("sample", str(tmp_path), "owner/name")
    assert (run.clip_skip, run.negative_prompt, run.prompt_weights) == (2, "blurry", "off")
    assert run.method.text_strength == 0.5
    with pytest.raises(ConfigError, match="prediction must be one of epsilon, v, sample, flow, not 'eps'"):
        make_run("oil-painting", prediction="eps")
