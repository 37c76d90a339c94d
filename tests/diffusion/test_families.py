"""Every family against diffusers' own pipeline, and through a whole run."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stylescore import RunConfig, StyleChoice, Stylizer
from stylescore.assembly.fitting import Prompts, make_fake_score, make_scores, new_fake_adapter
from stylescore.assembly.networks import _adapt_text, _check_match
from stylescore.config.method import MethodConfig
from stylescore.config.presets import load
from stylescore.config.run import with_options
from stylescore.config.toml import overlay
from stylescore.diffusion.adapters import Adapters, adaptable
from stylescore.diffusion.backbone import Backbone
from stylescore.diffusion.batching import PromptedScore
from stylescore.diffusion.checkpoints.loading import Components, load_components
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import Conditioning, concatenate
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.families.flux import pack, unpack
from stylescore.errors import ModelError, StyleError
from stylescore.images import Photo
from stylescore.lora import bind, read_lora
from stylescore.method.fake_score import denoising_loss
from stylescore.method.fit import Fitting, fit
from stylescore.method.state import capture

Families = Callable[[str], Any]
Rngs = Callable[..., list[torch.Generator]]
CPU = torch.device("cpu")
T = torch.tensor([401])
PROMPT = "a cat by the lake"
EVERY = ("sd2", "sdxl", "sd3", "sd3 without T5", "flux-dev", "flux-schnell")
FLOWS = EVERY[2:]
MAIN = ("sd2", "sdxl", "sd3", "flux-dev")


def parts_of(tiny: Any) -> Components:
    return load_components(tiny.folder, dtype=torch.float32, places=DevicePlacement.on(CPU))


def close(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)


# what the network is told, against the pipeline


@pytest.fixture
def seen(tiny_family: Families) -> Callable[[str], tuple[Any, dict[str, Any], Tensor]]:
    """Return a maker of a pipeline's own first call of its network: what went in by name, and what came out."""

    def see(family: str) -> tuple[Any, dict[str, Any], Tensor]:
        tiny, calls = tiny_family(family), []
        hook = tiny.network.register_forward_hook(
            lambda module, given, named, out: calls.append((given, named, out[0])), with_kwargs=True
        )
        options: dict[str, Any] = {"guidance_scale": 1.0} if "flux" in family else {"guidance_scale": 3.0}
        if family == "flux-schnell":
            options["max_sequence_length"] = 256
        rng = torch.Generator().manual_seed(5)
        tiny.pipeline(
            PROMPT, height=64, width=96, num_inference_steps=2, generator=rng, output_type="latent", **options
        )
        hook.remove()
        given, named, out = calls[0]
        return tiny, {**dict(zip(("sample", "timestep"), given, strict=False)), **named}, out

    return see


def conditioning_of(parts: Components, both: bool) -> Conditioning:
    return concatenate([parts.text([""]), parts.text([PROMPT])]) if both else parts.text([PROMPT])


@pytest.mark.parametrize("family", EVERY)
def test_the_text_features_are_those_of_the_pipeline(seen: Any, family: str) -> None:
    tiny, told, _ = seen(family)
    found = conditioning_of(parts_of(tiny), "flux" not in family)
    assert close(found.tokens, told["encoder_hidden_states"])
    pooled = told.get("pooled_projections", (told.get("added_cond_kwargs") or {}).get("text_embeds"))
    assert found.pooled is None if pooled is None else close(found.pooled, pooled)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_unet_is_called_as_the_pipeline_calls_it(seen: Any, family: str) -> None:
    tiny, told, out = seen(family)
    parts, time = parts_of(tiny), told["timestep"].reshape(1).expand(2)
    found = parts.call(parts.network, told["sample"], time, conditioning_of(parts, True))
    assert close(found, out)
    assert found.std() > 0.01


@pytest.mark.parametrize("family", ["sd3", "sd3 without T5"])
def test_sd3_is_called_as_the_pipeline_calls_it(seen: Any, family: str) -> None:
    tiny, told, out = seen(family)
    parts = parts_of(tiny)
    found = parts.call(parts.network, told["hidden_states"], told["timestep"] / 1000, conditioning_of(parts, True))
    assert close(found, out)


@pytest.mark.parametrize("family", ["flux-dev", "flux-schnell"])
def test_flux_is_called_as_the_pipeline_calls_it(seen: Any, family: str) -> None:
    tiny, told, out = seen(family)
    parts = parts_of(tiny)
    latents = tiny.pipeline._unpack_latents(told["hidden_states"], 64, 96, 8)
    found = parts.call(parts.network, latents, told["timestep"], conditioning_of(parts, False))
    assert close(pack(found), out)


def test_packing_is_undone_and_equals_that_of_the_pipeline(tiny_family: Families) -> None:
    latents = torch.randn(2, 16, 6, 10, generator=torch.Generator().manual_seed(0))
    theirs = tiny_family("flux-dev").pipeline._pack_latents(latents, 2, 16, 6, 10)
    assert torch.equal(pack(latents), theirs)
    assert torch.equal(unpack(theirs, 6, 10), latents)


@pytest.mark.parametrize("family", MAIN)
def test_everything_a_network_is_told_changes_its_answer(tiny_family: Families, family: str) -> None:
    parts = parts_of(tiny_family(family))
    z = torch.randn(1, parts.vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    time, told = torch.tensor([0.4 if "sd3" in family or "flux" in family else 400]), parts.text([PROMPT])
    plain = parts.call(parts.network, z, time, told)
    others = [
        parts.call(parts.network, z, time / 2, told),
        parts.call(parts.network, z, time, Conditioning(told.tokens + 1, told.pooled)),
    ]
    if told.pooled is not None:
        others.append(parts.call(parts.network, z, time, Conditioning(told.tokens, told.pooled + 1)))
    assert all((other - plain).abs().max() > 1e-5 for other in others)


@pytest.mark.parametrize("family", EVERY)
def test_rows_of_a_batch_stay_rows_in_every_layer(tiny_family: Families, family: str) -> None:
    parts, sizes = parts_of(tiny_family(family)), {}
    for name, layer in parts.network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_pre_hook(lambda _, given, name=name: sizes.update({name: given[0].shape}))
    z = torch.randn(3, parts.vae.config.latent_channels, 8, 4, generator=torch.Generator().manual_seed(1))
    parts.call(parts.network, z, torch.full((3,), 0.5), parts.text([PROMPT, "a cat", ""]))
    assert {shape[0] for shape in sizes.values()} == {3}
    targets = {name: shape for name, shape in sizes.items() if name.endswith(("to_q", "to_v"))}
    assert len(targets) >= 4
    assert {len(shape) for shape in targets.values()} == {3}


@pytest.mark.parametrize("family", EVERY)
def test_a_model_in_half_precision_answers_in_full(tiny_family: Families, schedule: Any, family: str) -> None:
    exact, half = (
        load_components(tiny_family(family).folder, dtype=dtype, places=DevicePlacement.on(CPU))
        for dtype in (torch.float32, torch.bfloat16)
    )
    z = torch.randn(1, exact.vae.config.latent_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    t, answers = torch.tensor([401]), []
    for parts in (exact, half):
        told = parts.text([PROMPT])
        backbone = Backbone(parts.network, Adapters.of(parts.network), parts.prediction(schedule), parts.call)
        answers.append(PromptedScore(backbone, told, told)(z, t))
    assert {answer.dtype for answer in answers} == {torch.float32}
    assert torch.allclose(*answers, rtol=0, atol=0.1 * answers[0].abs().max().item())


@pytest.mark.parametrize("family", FLOWS)
def test_a_flow_model_is_asked_about_the_flow_and_answers_with_noise(
    tiny_family: Families, schedule: Any, family: str
) -> None:
    parts, (alpha, sigma) = parts_of(tiny_family(family)), (schedule.alpha(T).item(), schedule.sigma(T).item())
    z_t = torch.randn(1, 16, 8, 4, generator=torch.Generator().manual_seed(1))
    told, s = parts.text([PROMPT]), sigma / (alpha + sigma)
    backbone = Backbone(parts.network, Adapters.of(parts.network), parts.prediction(schedule), parts.call)
    velocity = parts.call(parts.network, z_t / (alpha + sigma), torch.tensor([s]), told)
    noise = z_t / (alpha + sigma) + (1 - s) * velocity
    assert torch.allclose(PromptedScore(backbone, told, told)(z_t, T), noise, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_pictures_become_the_latents_of_the_pipeline(tiny_family: Families, family: str) -> None:
    tiny = tiny_family(family)
    codec, vae = Codec(parts_of(tiny).vae), tiny.pipeline.vae
    picture = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    raw = vae.encode(picture).latent_dist.mean
    shift = vae.config.shift_factor or 0.0
    latent = codec.encode(picture, None)
    assert close(latent, (raw - shift) * vae.config.scaling_factor)
    assert close(codec.decode(latent), vae.decode(raw).sample)


# what a model is


@pytest.mark.parametrize(
    ("family", "size", "multiple", "kind"),
    [
        ("sd2", 768, 8, "v_prediction"),
        ("sdxl", 1024, 8, "epsilon"),
        ("sd3", 1024, 16, None),
        ("flux-dev", 1024, 16, None),
    ],
)
def test_sizes_and_predictions(tiny_family: Families, family: str, size: int, multiple: int, kind: str | None) -> None:
    parts = parts_of(tiny_family(family))
    assert (parts.native_size, parts.multiple, parts.prediction_type) == (size, multiple, kind)


@pytest.mark.parametrize("family", FLOWS)
def test_a_flow_has_the_schedule_of_stable_diffusion(tiny_family: Families, schedule: Any, family: str) -> None:
    assert torch.allclose(parts_of(tiny_family(family)).betas, schedule.betas, rtol=1e-5, atol=0)


def test_a_prompt_is_truncated_where_the_longest_text_model_ends(tiny_family: Families) -> None:
    long = " ".join(["cat"] * 300)
    assert parts_of(tiny_family("sd3")).text.truncated_end(long).count("cat") == 300 - 255
    assert parts_of(tiny_family("flux-dev")).text.truncated_end(long) == ""
    without = parts_of(tiny_family("sd3 without T5")).text
    assert without.truncated_end(long) == without.models[0].truncated_end(long) != ""


# whole runs


def method(**more: Any) -> MethodConfig:
    quick: dict[str, Any] = {
        "iterations": 3,
        "optimiser": {"name": "sgd", "lr": 2.0, "warmup": 0, "warmup_fraction": 0.0},
        "fake": {"rank": 2},
        "relevance": {"timesteps": 0},
    }
    return overlay(load("balanced"), {**quick, **more})


def stylizer_of(tiny: Any, **more: Any) -> Stylizer:
    run = RunConfig(
        styles=(StyleChoice(name=str(tiny.lora)),),
        model=str(tiny.folder),
        size=64,
        caption="a red house",
        method=method(),
    )
    return Stylizer(with_options(run, {"device": "cpu", **more}))


def ended(fitting: Fitting) -> Tensor:
    for _ in fit(fitting):
        pass
    return fitting.subject.render()


@pytest.mark.parametrize("family", EVERY)
def test_a_run_is_the_same_alone_in_a_batch_and_resumed(
    tiny_family: Families, photos: Sequence[Photo], family: str
) -> None:
    stylizer, photos = stylizer_of(tiny_family(family)), photos[:2]
    together = ended(stylizer.start(photos))
    start = stylizer.start(photos).subject.z_source
    assert (together - start).abs().mean() > 1e-6
    assert all(side % stylizer._networks.multiple == 0 for side in stylizer.working_size(photos[0]))
    for n, photo in enumerate(photos):
        fitting = stylizer.start([photo])
        next(iter(fit(fitting)))
        state = capture(fitting, 0)
        alone = ended(fitting)
        assert torch.allclose(alone[0], together[n], atol=1e-4)
        assert torch.equal(ended(stylizer.start([photo], [state])), alone)
    result = list(stylizer(photos[:1]))[-1]
    assert result.picture.size == photos[0].picture.size


@pytest.mark.parametrize("weight", ["clean", "normalised"])
@pytest.mark.parametrize("family", EVERY)
def test_a_step_in_clean_units_goes_from_one_clean_prediction_to_the_other(
    tiny_family: Families, photos: Sequence[Photo], family: str, weight: str
) -> None:
    rate = 0.5
    constants = method(
        weight=weight,
        optimiser={"name": "sgd", "lr": rate, "warmup": 0, "warmup_fraction": 0.0, "cosine_length": 0.0},
        relevance={"strength": 0.0},
        spectrum={"weight": 0.0},
        fake={"rank": 2, "anchor": 0.1},
    )
    stylizer = stylizer_of(tiny_family(family))
    fitting = stylizer.with_run(replace(stylizer.run, method=constants)).start(photos[:1])
    z, schedule = fitting.subject.render().clone(), fitting.objective.schedule
    rng = [copy.deepcopy(generator) for generator in fitting.rng]
    draw = fitting.objective.draw(z, z, progress=0.0, rng=rng)
    with torch.no_grad():
        style = schedule.to_clean(fitting.scores["style"](draw.z_t, draw.t), draw.z_t, draw.t)
        fake = schedule.to_clean(fitting.scores["fake"](draw.z_t, draw.t), draw.z_t, draw.t)
    way = style - (0.9 * fake + 0.1 * z)
    expected = z + rate * (way / (z - style).abs().mean() if weight == "normalised" else way)
    next(iter(fit(fitting)))
    assert torch.allclose(fitting.subject.render(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", EVERY)
def test_one_training_step_of_the_fake_score_lowers_its_loss(tiny_family: Families, rngs: Rngs, family: str) -> None:
    models = stylizer_of(tiny_family(family))._networks
    chosen = method()
    adapter = new_fake_adapter(models, chosen, rngs(1, 2))
    scores = make_scores(models, chosen, Prompts.of(chosen, "ink", ["a cat", "a lake"]), adapter)
    fake = make_fake_score(replace(chosen, fake=replace(chosen.fake, lr=1e-2)), adapter, scores)
    rng = torch.Generator().manual_seed(4)
    shape = (2, models.codec.vae.config.latent_channels, 8, 4)
    z, eps, t = torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), torch.tensor([181, 321])
    z_t = models.base.schedule.add_noise(z, eps, t)
    weight = fake.weight(fake.schedule, t)
    before = fake.learn(fake.predict(z_t, t), eps, t)
    assert all(p.grad is not None for p in fake.parameters)
    moved = [p for p in fake.parameters if p.grad.flatten(1).any(dim=1).all()]
    assert len(moved) == len(fake.parameters) / 2, "of every pair that starts at zero, each sample's has a gradient"
    after = denoising_loss(fake.predict(z_t, t), eps, weight)
    assert bool((after < before.loss).all())


@pytest.mark.parametrize("family", MAIN)
def test_the_style_acts_on_the_network_and_on_the_words(tiny_family: Families, family: str) -> None:
    models = stylizer_of(tiny_family(family))._networks
    channels, rng = models.codec.vae.config.latent_channels, torch.Generator().manual_seed(6)
    z, t, told = torch.randn(1, channels, 8, 8, generator=rng), torch.tensor([301]), models.text([PROMPT])
    with torch.no_grad():
        plain, styled = (PromptedScore(models.base, told, told, style=style)(z, t) for style in (False, True))
    assert (plain - styled).abs().max() > 1e-3
    for base, style in zip(models.text.models, models.style_text.models, strict=True):
        is_same = base.model is style.model
        assert is_same == ("T5" in type(base.model).__name__)


# refusals


@pytest.mark.parametrize(("one", "other"), [("sd2", "sdxl"), ("sd3", "flux-dev")])
def test_models_of_two_families_do_not_go_together(tiny_family: Families, one: str, other: str) -> None:
    with pytest.raises(ModelError, match="must have the same family"):
        _check_match(parts_of(tiny_family(one)), parts_of(tiny_family(other)))


def test_the_model_of_a_style_must_have_latents_of_the_same_unit(tiny_family: Families) -> None:
    parts = parts_of(tiny_family("sd2"))
    vae = SimpleNamespace(config=SimpleNamespace(**{**parts.vae.config, "scaling_factor": 1.0}))
    with pytest.raises(ModelError, match="must have the same latent scale"):
        _check_match(parts, replace(parts, vae=vae))


@pytest.mark.parametrize("family", ["sdxl", "flux-dev"])
def test_a_style_on_a_model_of_its_own(tiny_family: Families, photos: Sequence[Photo], family: str) -> None:
    tiny = tiny_family(family)
    stylizer = stylizer_of(tiny, style_model=str(tiny.folder))
    models = stylizer._networks
    assert models.base.network is not models.style.network
    assert ended(stylizer.start(photos[:1])).isfinite().all()


def test_a_style_for_a_text_model_that_is_not_there(tiny_family: Families) -> None:
    lora = read_lora(tiny_family("sdxl").lora)
    with pytest.raises(StyleError, match="it changes a text_encoder_2, the model has none"):
        _adapt_text(parts_of(tiny_family("sd2")).text, [(lora, 1.0)], method())


def test_a_t5_that_the_index_names_must_be_there(tiny_family: Families, tmp_path: Any) -> None:
    folder = shutil.copytree(tiny_family("sd3").folder, tmp_path / "model")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(ModelError, match="lacks its text_encoder_3"):
        load_components(folder, dtype=torch.float32, places=DevicePlacement.on(CPU))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    parts = load_components(folder, dtype=torch.float32, places=DevicePlacement.on(CPU))
    assert not parts.text([PROMPT]).tokens[:, 77:].any()


def test_a_flow_model_with_a_schedule_of_betas(tiny_family: Families, tmp_path: Any) -> None:
    folder = shutil.copytree(tiny_family("flux-schnell").folder, tmp_path / "model")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises(ModelError, match="which is not for flow models, but FLUX"):
        load_components(folder, dtype=torch.float32, places=DevicePlacement.on(CPU))


def test_an_autoencoder_that_overflows_stays_in_full_precision(tiny_family: Families) -> None:
    parts = load_components(tiny_family("sdxl").folder, dtype=torch.float16, places=DevicePlacement.on(CPU))
    assert (parts.network.dtype, parts.vae.dtype) == (torch.float16, torch.float32)


# training


@pytest.fixture
def plan_for(tmp_path: Any, photos: Sequence[Photo], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    from accelerate.state import AcceleratorState

    from stylescore.images.captions import CaptionSource
    from stylescore.training.plan import Request, make_plan

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("STYLESCORE_STYLES", str(tmp_path / "styles"))
    given = {"name": "x", "steps": 2, "rank": 2, "resolution": 64, "samples_every": 2, "warmup": 0, "device": "cpu"}
    folder = tmp_path / "pictures"
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo.path, folder)
    return lambda tiny: make_plan(
        Request(pictures=folder, given={**given, "model": str(tiny.folder)}, captions=CaptionSource(caption="a cat")),
        sheets=1,
    )


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_style_can_be_trained_on_a_unet_of_any_family(
    tiny_family: Families, plan_for: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    from stylescore.training import samples
    from stylescore.training.cache import Cache
    from stylescore.training.session import SavedStyle, encode, load_base, start

    monkeypatch.setattr(samples, "STEPS", 2)
    plan = plan_for(tiny_family(family))
    base = load_base(plan)
    cache = next(event for event in encode(base, plan) if isinstance(event, Cache))
    *steps, written = start(base, plan, cache, tmp_path / "out").run()
    assert isinstance(written, SavedStyle)
    assert [step.loss > 0 and step.gradient_norm > 0 for step in steps] == [True, True]
    change = read_lora(written.style).parts["unet"]
    assert bind(read_lora(written.style), adaptable(tiny_family(family).network)).keys()
    assert change


def test_a_flow_model_cannot_be_trained(tiny_family: Families, plan_for: Any) -> None:
    from stylescore.training.session import load_base

    with pytest.raises(ModelError, match=r"is a flow model \(FLUX.1\)"):
        load_base(plan_for(tiny_family("flux-dev")))
