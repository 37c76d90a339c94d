from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylescore.diffusion.checkpoints import folders, layouts, loading, single_file
from stylescore.diffusion.checkpoints.folders import network_class
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.checkpoints.options import ModelOptions
from stylescore.diffusion.execution.devices import DevicePlacement, avoid_cudnn_attention
from stylescore.diffusion.families import SD, Checkpoint
from stylescore.errors import ModelError

PARITY = Path(__file__).parents[1] / "data" / "parity"
TINY = PARITY / "tiny_base"
CPU = torch.device("cpu")
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def load(source: Path | str) -> Components:
    return load_components(source, dtype=torch.float32, places=DevicePlacement.on(CPU))


def refused(source: Path | str, match: str) -> ModelError:
    with pytest.raises(ModelError, match=match) as caught:
        load(source)
    return caught.value


@pytest.fixture(scope="module")
def tiny() -> Components:
    return load(TINY)


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_components_of_a_folder(tiny):
    assert (tiny.name, tiny.native_size, tiny.vae_scale) == ("tiny_base", 128, 8)
    assert (tiny.prediction_type, tiny.scheduler_config["_class_name"]) == ("epsilon", "PNDMScheduler")


def test_everything_is_frozen(tiny):
    for model in (tiny.network, tiny.vae, tiny.text.models[0].model):
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())


def test_unet_and_tokenizer_give_the_recorded_values(tiny):
    units = load_file(PARITY / "golden" / "units.safetensors")
    with torch.no_grad():
        out = tiny.network(units["unet/x"], units["unet/t"], encoder_hidden_states=units["unet/text"]).sample
    assert (out - units["unet/base"]).abs().max() <= 2e-4 * units["unet/base"].abs().max()
    for known in json.loads((PARITY / "golden" / "units.json").read_text())["tokenizer"]:
        ids = (
            tiny.text.models[0]
            .tokenizer(known["prompt"], padding="max_length", max_length=77, truncation=True)
            .input_ids
        )
        assert ids == known["input_ids"]


def test_schedule_equals_the_recorded_one(tiny):
    units = load_file(PARITY / "golden" / "units.safetensors")
    torch.testing.assert_close((1 - tiny.betas).cumprod(dim=0), units["schedule/alphas_cumprod"], rtol=0, atol=1e-7)


SCHEDULES: list[dict[str, Any]] = [
    {},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"rescale_betas_zero_snr": True},
    {"trained_betas": [0.1, 0.2, 0.3]},
    {"num_train_timesteps": 50},
]


@pytest.mark.parametrize("changes", SCHEDULES)
def test_schedule_equals_that_of_diffusers(changes):
    from diffusers import DDPMScheduler

    config = json.loads((TINY / "scheduler" / "scheduler_config.json").read_text()) | changes
    ours, theirs = loading._make_scheduler("x", config), DDPMScheduler.from_config(config)
    assert ours.alphas_cumprod.dtype == torch.float32
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    assert torch.equal(ours.betas, theirs.betas)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_prediction_types(copy, kind):
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type=kind)
    parts = load(copy)
    assert (parts.prediction_type, parts.notes) == (kind, ())


def test_other_prediction_types_and_schedules(copy):
    path = copy / "scheduler" / "scheduler_config.json"
    edit(path, prediction_type="flow")
    refused(copy, "prediction_type 'flow', not one of epsilon, v_prediction, sample")
    edit(path, prediction_type="epsilon", beta_schedule="odd")
    refused(copy, "scheduler of 'copy' cannot be used")
    edit(path, beta_schedule="scaled_linear", _class_name="FlowMatchEulerDiscreteScheduler")
    assert load(copy).predicts == "flow"
    edit(path, _class_name="EDMEulerScheduler")
    refused(copy, "is a 'EDMEulerScheduler', whose noise schedule is not supported")


def test_half_precision_and_a_variant(copy):
    home = copy / "unet"
    weights = {name: tensor.half() for name, tensor in load_file(home / WEIGHTS["unet"]).items()}
    (home / WEIGHTS["unet"]).unlink()
    save_file(weights, home / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    parts = load_components(copy, dtype=torch.bfloat16, places=DevicePlacement.on(CPU))
    assert parts.network.dtype == parts.vae.dtype == parts.text.models[0].model.dtype == torch.bfloat16


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_missing_part(copy, part):
    shutil.rmtree(copy / part)
    assert refused(copy, f"lacks its {part}").hint is not None


@pytest.mark.parametrize("part", WEIGHTS)
def test_missing_weights(copy, part):
    (copy / part / WEIGHTS[part]).unlink()
    refused(copy, f"lacks its {part}")


def test_missing_vocabulary(copy):
    (copy / "tokenizer" / "vocab.json").unlink()
    refused(copy, "lacks its tokenizer")


@pytest.mark.parametrize("part", WEIGHTS)
def test_truncated_weights(copy, part):
    path = copy / part / WEIGHTS[part]
    path.write_bytes(path.read_bytes()[:-100])
    refused(copy, f"the {part} of .* is truncated")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_lack_a_tensor(copy, part):
    path = copy / part / WEIGHTS[part]
    weights = load_file(path)
    weights.pop(next(name for name in weights if name.endswith("weight")))
    save_file(weights, path, {"format": "pt"})
    refused(copy, f"the {part} of .* lacks 1 of its weights")


def test_weights_of_another_shape(copy):
    edit(copy / "unet" / "config.json", block_out_channels=[32, 48])
    refused(copy, "the unet of")


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("suffix", [".bin", ".ckpt"])
def test_pickled_weights_are_never_opened(copy, part, suffix):
    path = copy / part / WEIGHTS[part]
    path.rename(path.with_suffix(suffix))
    refused(copy, f"the {part} of .* is a pickle .*may run code")


@pytest.mark.parametrize(
    "pipeline", ["StableDiffusionControlNetPipeline", "StableDiffusionInpaintPipeline", "FluxFillPipeline", None, 3]
)
def test_other_pipelines(copy, pipeline):
    edit(copy / "model_index.json", _class_name=pipeline)
    assert "Stable Diffusion 1.x" in str(refused(copy, "which is not supported").hint)


def test_refiner(copy):
    edit(copy / "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline", text_encoder=[None, None])
    assert "base" in str(refused(copy, "without a text_encoder, such as a refiner").hint)


def test_model_of_another_family_than_its_index_says(copy):
    edit(copy / "model_index.json", _class_name="StableDiffusionXLPipeline")
    refused(copy, "lacks its text_encoder_2")


def test_other_classes_of_a_part(copy):
    edit(copy / "unet" / "config.json", _class_name="UNet2DModel")
    refused(copy, "the unet of .* is a 'UNet2DModel'")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_unreadable_configuration(copy, text):
    (copy / "vae" / "config.json").write_text(text)
    refused(copy, "the vae of .* cannot be read")


def unet_for(**config: int) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config))


def checkpoint_with(tiny: Components, unet: Any) -> Checkpoint:
    text = tiny.text.models[0]
    networks = {"unet": unet, "vae": tiny.vae, "text_encoder": text.model}
    return Checkpoint(
        family=SD, networks=networks, tokenizers={"tokenizer": None}, scheduler_config={}, index={}, configs=TINY
    )


def test_text_encoder_of_another_width(tiny):
    unet = unet_for(in_channels=4, out_channels=4, cross_attention_dim=99)
    with pytest.raises(ModelError, match="width 99, but text_encoder of width 32"):
        SD.require_fit("x", checkpoint_with(tiny, unet))


def test_inpainting_model(tiny):
    unet = unet_for(in_channels=9, out_channels=4, cross_attention_dim=32)
    with pytest.raises(ModelError, match="not a plain text-to-image model"):
        SD.require_fit("x", checkpoint_with(tiny, unet))


def test_folder_that_is_no_model(tmp_path):
    (tmp_path / "a.safetensors").touch()
    assert "a.safetensors" in str(refused(tmp_path, "no model_index.json").hint)


@pytest.mark.parametrize("source", [Path("/nowhere/model"), "/nowhere/at/all", "nonsense"])
def test_nothing_there(source):
    refused(source, "there is no model")


def test_hub_model(monkeypatch):
    monkeypatch.setattr(loading, "download_model", lambda hub_id: TINY)
    assert load("maker/model").name == "maker/model"


def test_the_verbosity_of_libraries_is_restored():
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    load(TINY)
    assert before == (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity())
    assert transformers_logging.is_progress_bar_enabled()


LAYOUTS = [layouts.SD1_LAYOUT, layouts.SD2_LAYOUT, layouts.SDXL_LAYOUT]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.facts.key)
def test_schedule_config_of_single_files_is_that_of_stable_diffusion(layout):
    config = json.loads((layout.configs / "scheduler" / "scheduler_config.json").read_text())
    assert torch.equal(loading._make_scheduler("x", config).betas, load(TINY).betas)


COUNTS = {
    layouts.SD1_LAYOUT.configs: {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    layouts.SD2_LAYOUT.configs: {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    layouts.SDXL_LAYOUT.configs: {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


@pytest.mark.parametrize(("shapes", "part"), [(shapes, part) for shapes, counts in COUNTS.items() for part in counts])
def test_bundled_shapes_have_the_known_numbers_of_weights(shapes, part):
    config = json.loads((shapes / part / "config.json").read_text())
    kind = network_class(config.get("_class_name") or config["architectures"][0])
    with torch.device("meta"):
        model = kind.from_config(config) if "_class_name" in config else kind(kind.config_class(**config))
    assert sum(weight.numel() for weight in model.parameters()) == COUNTS[shapes][part]


def networks(parts: Components) -> list[Any]:
    return [parts.network, parts.vae, *(text.model for text in parts.text.models)]


def same_weights(one: Any, other: Any) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, originals) -> Path:
    home = tmp_path_factory.mktemp("single")
    parts = {part: load_file(TINY / part / file) for part, file in WEIGHTS.items()}
    text = {f"cond_stage_model.transformer.{name}": tensor for name, tensor in parts["text_encoder"].items()}
    save_file(
        originals.original_unet(parts["unet"]) | originals.original_vae(parts["vae"], 4) | text,
        home / "tiny.safetensors",
    )
    shutil.copytree(TINY / "tokenizer", home / "tokenizer")
    return home / "tiny.safetensors"


@pytest.fixture
def tiny_shapes(monkeypatch) -> None:
    load_single: Callable[..., Any] = single_file.load_single_file
    monkeypatch.setattr(
        loading, "load_single_file", lambda path, dtype, options: load_single(path, dtype, options, TINY)
    )


@pytest.mark.usefixtures("tiny_shapes")
def test_single_file_holds_the_same_model(checkpoint, tiny):
    single = load(checkpoint)
    assert single.name == "tiny"
    for ours, theirs in zip(networks(single), networks(tiny), strict=True):
        assert same_weights(ours, theirs)


@pytest.mark.usefixtures("tiny_shapes")
def test_what_training_leaves_in_a_single_file_changes_nothing(checkpoint, tiny):
    left = {
        "model_ema.diffusion_modeltime_embed0weight": torch.zeros(4, 4),
        "model_ema.decay": torch.zeros(()),
        "betas": torch.zeros(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "ztsnr": torch.zeros(()),
    }
    path = checkpoint.with_name("pruned-not-at-all.safetensors")
    save_file(load_file(checkpoint) | left, path)
    single = load(path)
    for ours, theirs in zip(networks(single), networks(tiny), strict=True):
        assert same_weights(ours, theirs)
    averaged, marked = single.notes
    assert "averaged in training (EMA)" in averaged
    assert "ztsnr without v_pred" in marked
    assert load(checkpoint).notes == ()


@pytest.mark.usefixtures("tiny_shapes")
@pytest.mark.parametrize("prefix", layouts.SD1_LAYOUT.prefixes.values())
def test_single_file_that_lacks_a_tensor(checkpoint, prefix):
    weights = load_file(checkpoint)
    weights.pop(next(name for name in weights if name.startswith(prefix) and "norm" in name))
    path = checkpoint.with_name("lacking.safetensors")
    save_file(weights, path)
    refused(path, "lacks (1|some) of its weights")


@pytest.mark.parametrize(("part", "prefix"), layouts.SD1_LAYOUT.prefixes.items())
def test_single_file_that_lacks_a_part(checkpoint, tmp_path, part, prefix):
    weights = {name: t for name, t in load_file(checkpoint).items() if not name.startswith(prefix)}
    save_file(weights, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", f"lacks its {part}")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("conditioner.embedders.0.model.x", "an SDXL refiner, which cannot be used"),
        ("conditioner.embedders.0.transformer.x", "lacks its unet, vae, text_encoder_2"),
        ("cond_stage_model.model.x", "lacks its unet, vae"),
        ("double_stream_modulation_img.lin.weight", "a FLUX.2 checkpoint, which cannot be used"),
        ("model.diffusion_model.distilled_guidance_layer.x", "a Chroma checkpoint, which cannot be used"),
        ("edm_mean", "was trained on EDM's noise schedule, as 'edm_mean' shows"),
        ("lora_unet_x.lora_up.weight", "a LoRA"),
        ("x", "no Stable Diffusion checkpoint"),
    ],
)
def test_single_file_of_another_kind(tmp_path, name, match):
    save_file({name: torch.ones(2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", match)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
def test_pickled_single_file_is_never_opened(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(60))
    refused(path, "may run code when loaded")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(path, "is a ZIP archive")


def test_single_file_without_tokenizer_and_network(checkpoint, tmp_path, monkeypatch):
    def fail(hub_id: str) -> Path:
        raise ModelError(f"{hub_id} cannot be fetched")

    path = tmp_path / "tiny.safetensors"
    shutil.copy(checkpoint, path)
    monkeypatch.setattr(single_file, "download_tokenizer", fail)
    hint = refused(path, "needs CLIP's tokenizer").hint
    assert str(tmp_path / "tokenizer") in str(hint)


SINGLE = {
    "sd2": ({"text_encoder": "cond_stage_model.model."}, {}),
    "sdxl": (
        {"text_encoder_2": "conditioner.embedders.1.model."},
        {"text_encoder": "conditioner.embedders.0.transformer."},
    ),
}


@pytest.fixture
def single(tiny_family, tmp_path, monkeypatch, originals) -> Callable[..., tuple[Path, Components]]:
    """Return a maker of a family's tiny model as one file, with what the folder of the same model holds."""

    def make(family: str, marks: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[Path, Components]:
        folder = tiny_family(family).folder
        tensors = originals.original(folder, *SINGLE[family])
        if family == "sd2":
            last = {name: t.clone() for name, t in tensors.items() if ".resblocks.2." in name}
            tensors |= {name.replace(".resblocks.2.", ".resblocks.3."): tensor for name, tensor in last.items()}
        save_file(tensors | marks, tmp_path / "a.safetensors", metadata)
        shutil.copytree(TINY / "tokenizer", tmp_path / "tokenizer")
        load_single: Callable[..., Any] = single_file.load_single_file
        monkeypatch.setattr(
            loading, "load_single_file", lambda path, dtype, options: load_single(path, dtype, options, folder)
        )
        return tmp_path / "a.safetensors", load(folder)

    return make


@pytest.mark.parametrize("family", SINGLE)
def test_single_files_of_other_families_hold_the_same_model(single, family):
    path, whole = single(family, {}, {"modelspec.prediction_type": "v" if family == "sd2" else "epsilon"})
    one = load(path)
    assert (one.family, one.prediction_type) == (whole.family, whole.prediction_type)
    for ours, theirs in zip(networks(one), networks(whole), strict=True):
        assert same_weights(ours, theirs)
    pads = [text.tokenizer.pad_token for text in one.text.models]
    assert pads == {"sd2": ["!"], "sdxl": ["<|endoftext|>", "!"]}[family]


def test_single_file_marked_as_predicting_v(single):
    path, _ = single("sdxl", {"v_pred": torch.ones(()), "ztsnr": torch.ones(())}, {})
    parts = load(path)
    assert parts.prediction_type == "v_prediction"
    assert parts.betas[-1] == 1


def test_what_was_measured_is_said_and_an_option_takes_its_place(single):
    path, _ = single("sd2", {}, {})
    (note,) = load(path).notes
    assert note.startswith("a.safetensors does not state what it predicts; on noise it was found to predict ")
    options = ModelOptions(prediction="v")
    given = load_components(path, dtype=torch.float32, places=DevicePlacement.on(CPU), options=options)
    assert (given.predicts, given.notes) == ("v", ())


class Returning(torch.nn.Module):
    """A network that returns a fraction of its input."""

    config = SimpleNamespace(in_channels=4, cross_attention_dim=8)
    dtype = torch.float32

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, z_t: torch.Tensor, t: int, encoder_hidden_states: torch.Tensor) -> Any:
        rng = torch.Generator().manual_seed(1)
        return SimpleNamespace(sample=self.share * z_t - 0.3 * torch.randn(z_t.shape, generator=rng))


@pytest.mark.parametrize(("share", "kind"), [(0.99, "epsilon"), (0.07, "v_prediction")])
def test_what_a_checkpoint_predicts_is_measured_if_it_does_not_state_it(share, kind):
    network = Returning(share)
    assert single_file.noise_slope(network) == pytest.approx(share, abs=0.02)
    assert single_file._measured_prediction(network, layouts.SD2_LAYOUT) == {"prediction_type": kind}
    assert single_file._measured_prediction(network, layouts.SD1_LAYOUT) == {}


NUMBERS: list[tuple[str, dict[str, Any], str]] = [
    ("scheduler", {"num_train_timesteps": 0}, "num_train_timesteps must be a whole number between 1 and 10,000, not 0"),
    ("scheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps must be .* not 1000000000"),
    ("scheduler", {"num_train_timesteps": "1000"}, "num_train_timesteps must be .* not '1000'"),
    ("scheduler", {"beta_start": 0}, "a beta must be a number above 0 and at most 1, not 0"),
    ("scheduler", {"beta_end": 7.5}, "a beta must be .* not 7.5"),
    ("scheduler", {"beta_end": None}, "a beta must be .* not None"),
    ("scheduler", {"trained_betas": [0.1, -1]}, "a beta must be .* not -1"),
    ("scheduler", {"trained_betas": "many"}, "trained_betas must be a list"),
    ("scheduler", {"trained_betas": [0.1] * 20_000}, "trained_betas must be a list of 1 to 10,000 numbers"),
    ("scheduler", {"beta_start": float("nan")}, "NaN is no number"),
    ("vae", {"scaling_factor": 0}, "scaling_factor must be a number above 0 and at most 1,000, not 0"),
    ("vae", {"scaling_factor": -0.18}, "scaling_factor must be .* not -0.18"),
    ("vae", {"scaling_factor": 1e6}, "scaling_factor must be .* not 1000000"),
    ("vae", {"scaling_factor": None}, "scaling_factor must be .* not None"),
    ("vae", {"scaling_factor": float("nan")}, "NaN is no number"),
    ("vae", {"scaling_factor": float("inf")}, "Infinity is no number"),
    ("vae", {"shift_factor": "x"}, "shift_factor must be"),
    ("vae", {"block_out_channels": [32] * 9}, "block_out_channels must be a list of 1 to 8 numbers"),
    ("vae", {"block_out_channels": []}, "block_out_channels must be"),
    ("vae", {"latent_channels": 0}, "latent_channels must be a whole number above 0, not 0"),
    ("vae", {"latents_mean": [0.1] * 4}, "latents_std must be a list of 4 numbers of at most 1,000, not None"),
    ("vae", {"latents_mean": [0.1] * 3, "latents_std": [1.0] * 4}, "latents_mean must be a list of 4 numbers"),
    ("vae", {"latents_mean": [0.1] * 4, "latents_std": [1.0, 1.0, 1.0, 0.0]}, "latents_std must be above 0"),
    ("vae", {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "both latents_mean and shift_"),
    ("vae", {"patch_size": [2, 2]}, "its setting 'patch_size' is not known here, and may change the pictures"),
    ("unet", {"sample_size": 0}, "sample_size must be .* not 0"),
    ("unet", {"sample_size": 100_000}, "sample_size must be .* not 100000"),
    ("unet", {"sample_size": [64, "64"]}, "sample_size must be .* not .64, '64'."),
    ("unet", {"sample_size": 64.5}, "sample_size must be .* not 64.5"),
    ("unet", {"in_channels": -4}, "in_channels must be a whole number above 0, not -4"),
    ("unet", {"block_out_channels": [32, 10**9]}, "has 1000000000 for block_out_channels, at most 10,000,000"),
    ("unet", {"layers_per_block": 100_000}, "has 100000 for layers_per_block, at most 512"),
    ("unet", {"attention_head_dim": 2.5}, "attention_head_dim must be a whole number above 0, not 2.5"),
    ("unet", {"block_out_channels": [32] * 5000}, "has 5000 for the length of block_out_channels, at most 1,024"),
    ("text_encoder", {"num_hidden_layers": 10**6}, "has 1000000 for num_hidden_layers, at most 512"),
    ("text_encoder", {"vocab_size": 10**12}, "has 1000000000000 for vocab_size"),
    ("text_encoder", {"hidden_size": 0}, "hidden_size must be a whole number above 0, not 0"),
    ("text_encoder", {"max_position_embeddings": 1e30}, "for max_position_embeddings, at most 10,000,000"),
]


@pytest.mark.parametrize(("part", "changes", "match"), NUMBERS)
def test_impossible_numbers_are_refused_before_weights_are_loaded(copy, monkeypatch, part, changes, match):
    def fail(*_: Any) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(folders, "load_network", fail)
    edit(copy / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **changes)
    error = refused(copy, match)
    assert f"the {part} of '" in str(error)
    assert error.hint
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@pytest.mark.parametrize("size", [16, [16, 32], None])
def test_usual_forms_of_sample_size(copy, size):
    edit(copy / "unet" / "config.json", sample_size=size)
    assert load(copy).native_size == (512 if size is None else 128)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("name", ["mid.weight_scale", "mid.scale_weight"])
def test_scaled_weights_of_a_folder_are_refused(copy, part, name):
    path = copy / part / WEIGHTS[part]
    save_file(load_file(path) | {name: torch.ones(())}, path, {"format": "pt"})
    assert refused(copy, f"the {part} of .* its weights are scaled, as '{name}' shows, which is not supported").hint


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_tensors_that_a_network_would_drop_are_refused(copy, part):
    path = copy / part / WEIGHTS[part]
    save_file(load_file(path) | {"mid.gate": torch.ones(3)}, path, {"format": "pt"})
    assert refused(copy, f"the {part} of .* holds 1 tensors that a .* does not have, such as 'mid.gate'").hint


def test_factors_of_weights_in_full_are_refused(tmp_path):
    names = ("model.diffusion_model.out.2.weight", "model.diffusion_model.out.2.scale_weight")
    save_file({name: torch.ones(1) for name in names}, tmp_path / "a.safetensors")
    assert refused(tmp_path / "a.safetensors", "its weights are quantised").hint


def stated_by(path: Path, metadata: dict[str, str], yaml: str | None = None) -> dict[str, Any]:
    if yaml is not None:
        path.with_suffix(".yaml").write_text(yaml, encoding="utf-8")
    return single_file._stated_prediction(path, (), metadata)


@pytest.mark.parametrize("stated", ["v", "V", "v-prediction", "v_pred", "V Prediction", "velocity"])
def test_spellings_of_v_prediction(tmp_path, stated):
    known = {"prediction_type": "v_prediction"}
    assert stated_by(tmp_path / "a.safetensors", {"modelspec.prediction_type": stated}) == known


def test_a_checkpoint_that_comfyui_saved_states_what_it_predicts(tmp_path):
    path = tmp_path / "a.safetensors"
    assert stated_by(path, {"modelspec.predict_key": "v"}) == {"prediction_type": "v_prediction"}
    both = {"modelspec.predict_key": "v", "modelspec.prediction_type": "epsilon"}
    assert stated_by(path, both) == {"prediction_type": "epsilon"}


def test_the_original_settings_beside_a_checkpoint_state_what_it_predicts(tmp_path):
    path, yaml = tmp_path / "a.safetensors", 'model:\n  params:\n    parameterization: "v"\n'
    assert stated_by(path, {}) == {}
    assert stated_by(path, {}, "model:\n  # parameterization: v\n") == {}
    assert stated_by(path, {}, yaml) == {"prediction_type": "v_prediction"}
    assert stated_by(path, {"modelspec.prediction_type": "epsilon"}, yaml) == {"prediction_type": "epsilon"}


def test_an_unknown_or_unreadable_statement_is_not_taken_for_silence(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(ModelError, match="has the prediction type 'x0', not one of eps"):
        stated_by(path, {"modelspec.prediction_type": "x0"})
    path.with_suffix(".yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ModelError, match=r"a\.yaml' cannot be read: it is not UTF-8"):
        stated_by(path, {})


@pytest.mark.parametrize(("device", "left"), [("cpu", True), ("cuda", False)])
def test_attention_on_a_gpu_is_not_cudnns(monkeypatch: pytest.MonkeyPatch, device: str, left: bool) -> None:
    allowed = [True]
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: allowed.append(enabled))
    avoid_cudnn_attention(torch.device(device))
    assert allowed[-1] is left
