"""The recorded run of the reference, replayed through public objects with the recorded random draws.

What each recorded tensor is, and how closely it must be met, is told in data/parity/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from stylescore.assembly.fitting import Prompts, fit_latents
from stylescore.assembly.networks import Networks
from stylescore.config import presets
from stylescore.config.method import MethodConfig
from stylescore.diffusion.batching import BatchedScores, PromptedScore
from stylescore.method.directions import Direction
from stylescore.method.fake_score import FakeScore
from stylescore.method.fit import Fitting, Iteration, fit
from stylescore.method.schedule import alpha_bar_squared_weight, unit_weight
from stylescore.method.scores import Predictions, ScoreName, score_latent
from stylescore.method.spectrum import cutoff, dct2, low_pass_mask
from stylescore.method.types import Draw

NAME = "a_sms_single_base"
FULL = (0, 1, 2, 3, 4, 29)
END = 29


@dataclass(frozen=True)
class Recorder(PromptedScore):
    """A score that keeps its last conditional and unconditional prediction."""

    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, prompted: PromptedScore) -> Recorder:
        return cls(**{name: getattr(prompted, name) for name in PromptedScore.__dataclass_fields__})

    def finish(self, predictions: Tensor) -> Tensor:
        eps_c, eps_u = predictions.chunk(2)
        self.pairs[:] = [(eps_c, eps_u)]
        return super().finish(predictions)


@dataclass(frozen=True)
class Watched:
    """A direction that keeps its last draw."""

    direction: Direction
    draws: list[Draw] = field(default_factory=list)

    @property
    def needs(self) -> Collection[ScoreName]:
        return self.direction.needs

    def __call__(self, draw: Draw, eps: Predictions) -> Tensor:
        self.draws[:] = [draw]
        return self.direction(draw, eps)


@dataclass
class Predictor:
    """Makes one prediction and keeps the last one."""

    predict: Callable[[Tensor, Tensor], Tensor]
    last: tuple[Tensor, Tensor] | None = None

    def __call__(self, z_t: Tensor, t: Tensor) -> Tensor:
        eps = self.predict(z_t, t)
        self.last = (z_t, eps.detach())
        return eps


@dataclass(frozen=True)
class Golden:
    tensors: dict[str, Tensor]
    table: dict[str, Any]

    def rows(self, key: str) -> list[Any]:
        return [row[key] for row in self.table["iterations"]]

    def timesteps(self, key: str) -> Callable[..., Tensor]:
        """Return a sampler that gives the recorded timesteps in turn."""
        turn = iter(self.rows(key))
        return lambda progress, rng: torch.tensor([next(turn)])

    def noises(self, key: str) -> Callable[..., Tensor]:
        """Return a noise sampler that gives the recorded noises in turn."""
        turn: Iterator[Tensor] = (self.tensors[f"{key}/{i}"] for i in range(len(self.rows("t"))))
        return lambda like, rng: next(turn)

    def adapter(self, what: str) -> dict[str, Tensor]:
        """Return the adapter's tensors under our names."""
        prefix = f"adapter/{what}/"
        return {
            name.removeprefix(prefix).replace(".lora_A.weight", ".lora_a").replace(".lora_B.weight", ".lora_b"): x
            for name, x in self.tensors.items()
            if name.startswith(prefix)
        }


@pytest.fixture(scope="module")
def golden(parity: Path) -> Golden:
    folder = parity / "golden"
    table = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    return Golden(load_file(folder / f"{NAME}.safetensors"), table)


@pytest.fixture(scope="module")
def picture(parity: Path) -> Tensor:
    with Image.open(parity / "input_128x128.png") as image:
        pixels = torch.from_numpy(np.asarray(image.convert("RGB")).copy())
    return (pixels.permute(2, 0, 1).float() / 255 * 2 - 1)[None]


def reference_method() -> MethodConfig:
    return replace(presets.load("reference"), iterations=30)


def prompts_of(golden: Golden, method: MethodConfig) -> Prompts:
    config = golden.table["config"]
    return Prompts.of(method, config["style_prompt"], [config["image_prompt"]])


def assembled(models: Networks, golden: Golden, method: MethodConfig) -> Fitting:
    """Assemble the run from the method and feed it the recorded start, timesteps, noises and adapter."""
    fitting = fit_latents(models, method, prompts_of(golden, method), golden.tensors["src_x0"], [torch.Generator()])
    assert isinstance(fitting.fake, FakeScore)
    fitting.objective = replace(fitting.objective, timesteps=golden.timesteps("t"), noise=golden.noises("noise_gen"))
    fitting.fake = replace(fitting.fake, timesteps=golden.timesteps("lora_t"), noise=golden.noises("noise_lora"))
    state = fitting.scores["fake"].fake.state
    recorded = golden.adapter("init")
    assert state.keys() == recorded.keys()
    for name, parameter in state.items():
        parameter.data.copy_(recorded[name][None])
    return fitting


@dataclass(frozen=True)
class Moment:
    """What is looked at after an iteration."""

    iteration: Iteration
    z: Tensor
    z_grad: Tensor
    predicted: dict[str, tuple[Tensor, Tensor, Tensor]]
    trained: tuple[Tensor, Tensor]
    adapter: dict[str, Tensor]
    adapter_grad: dict[str, Tensor]


@dataclass(frozen=True)
class Replay:
    models: Networks
    fitting: Fitting
    moments: Sequence[Moment]


@pytest.fixture(scope="module")
def replay(tiny_models: Callable[..., Networks], golden: Golden) -> Replay:
    """Replay the whole run once, looking at everything."""
    method = reference_method()
    models = tiny_models(method.style_strength)
    fitting = assembled(models, golden, method)
    state = fitting.scores["fake"].fake.state
    recorders: dict[ScoreName, Recorder] = {n: Recorder.of(fitting.scores[n]) for n in ("style", "fake", "edit")}
    fitting.scores = BatchedScores(recorders, batched=False)
    watched = Watched(fitting.objective.direction)
    fitting.objective = replace(fitting.objective, direction=watched)
    trained = Predictor(fitting.fake.predictor)
    fitting.fake = replace(fitting.fake, predictor=trained)
    moments = [
        Moment(
            iteration=iteration,
            z=fitting.subject.render().clone(),
            z_grad=fitting.subject.z.grad.clone(),
            predicted={n: (score_latent(watched.draws[-1], n), *r.pairs[-1]) for n, r in recorders.items()},
            trained=trained.last,
            adapter={name: p.detach()[0].clone() for name, p in state.items()},
            adapter_grad={name: p.grad[0].clone() for name, p in state.items()},
        )
        for iteration in fit(fitting)
    ]
    return Replay(models, fitting, moments)


def off_by(found: Tensor, recorded: Tensor) -> float:
    """Return the largest deviation relative to the largest recorded entry."""
    assert found.shape == recorded.shape
    return ((found - recorded).abs().max() / recorded.abs().max().clamp(min=1e-30)).item()


def test_the_posterior_of_the_picture(replay: Replay, golden: Golden, picture: Tensor) -> None:
    with torch.no_grad():
        mean, std = replay.models.codec.posterior(picture)
    assert off_by(mean, golden.tensors["vae_mean"]) < 2e-4
    assert off_by(std, golden.tensors["vae_std"]) < 2e-4
    z_source = replay.models.codec.scale_latent(mean + std * golden.tensors["vae_eps"])
    assert off_by(z_source, golden.tensors["src_x0"]) < 2e-4


def test_a_sample_of_the_posterior_is_mean_plus_std_times_noise(
    replay: Replay, golden: Golden, picture: Tensor
) -> None:
    found = replay.models.codec.encode(picture, [torch.Generator().manual_seed(3)])
    eps = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    expected = (golden.tensors["vae_mean"] + golden.tensors["vae_std"] * eps) * 0.18215
    assert off_by(found, expected) < 2e-4


def test_the_prompts_and_their_features(replay: Replay, golden: Golden) -> None:
    config, prompts = golden.table["config"], prompts_of(golden, reference_method())
    assert prompts.target == [config["tgt_prompt"]]
    assert prompts.edit == [config["src_prompt"]]
    for name, prompt in (("tgt", prompts.target), ("src", prompts.edit), ("null", [""])):
        tokens = replay.models.text.readers[0].tokenizer(prompt, padding="max_length", max_length=77).input_ids
        assert tokens == [golden.table["input_ids"][name]]
        assert off_by(replay.models.text(prompt).tokens, golden.tensors[f"text/{name}"]) < 2e-4


def test_timesteps_learning_rates_and_cutoffs(replay: Replay, golden: Golden) -> None:
    t = torch.cat([m.iteration.step.t for m in replay.moments])
    schedule = replay.models.base.schedule
    assert t.tolist() == golden.rows("t")
    assert (t - schedule.stride).tolist() == golden.rows("t_prev")
    assert torch.cat([m.iteration.fake.t for m in replay.moments]).tolist() == golden.rows("lora_t")
    assert [m.iteration.learning_rate for m in replay.moments] == pytest.approx(golden.rows("lr"))
    assert schedule.posterior_variance(t).flatten().tolist() == pytest.approx(golden.rows("sigma_t_sq"), rel=1e-6)
    assert cutoff(t, 16, 16).tolist() == golden.rows("psr_threshold")


def test_the_range_of_timesteps_that_was_open(replay: Replay, golden: Golden) -> None:
    from stylescore.assembly.objectives import make_sampler

    sampler = make_sampler(reference_method().timesteps, 2)
    ours = [[sampler.grid.low, sampler.high(i / 30)] for i in range(30)]
    recorded = zip(golden.rows("idx_low"), golden.rows("idx_high_exclusive"), strict=True)
    assert ours == [list(pair) for pair in recorded]


def test_losses(replay: Replay, golden: Golden) -> None:
    steps = [m.iteration.step for m in replay.moments]
    assert [s.loss.item() for s in steps] == pytest.approx(golden.rows("loss"), rel=1e-4)
    assert [s.spectrum_loss.item() for s in steps] == pytest.approx(golden.rows("psr_loss"), rel=1e-4, abs=1e-12)
    assert [s.score_loss.item() for s in steps] == pytest.approx(golden.rows("score_loss"), rel=5e-4)
    fake = [m.iteration.fake.loss.item() for m in replay.moments]
    assert fake == pytest.approx(golden.rows("lora_loss"), rel=1e-4)


@pytest.mark.parametrize("i", FULL)
def test_predictions(replay: Replay, golden: Golden, i: int) -> None:
    predicted, full = replay.moments[i].predicted, f"full/{i}"
    recorded = {
        "style": ("x_t", "real_cond", "real_uncond"),
        "fake": ("x_t", "fake_cond", "fake_uncond"),
        "edit": ("x_t_ref", "ref_cond", "ref_uncond"),
    }
    for name, keys in recorded.items():
        for found, key in zip(predicted[name], keys, strict=True):
            assert off_by(found, golden.tensors[f"{full}/{key}"]) < 2e-4, (name, key)


@pytest.mark.parametrize("i", FULL)
def test_guided_predictions_and_their_difference(replay: Replay, golden: Golden, i: int) -> None:
    moment, full = replay.moments[i], f"full/{i}"
    schedule, t = replay.models.base.schedule, replay.moments[i].iteration.step.t
    guided_eps = {}
    for name, key in (("style", "teacher_pred"), ("fake", "lora_pred")):
        _, eps_c, eps_u = moment.predicted[name]
        guided_eps[name] = replay.fitting.scores[name].combine(eps_c, eps_u)
        assert off_by(guided_eps[name], golden.tensors[f"{full}/{key}"]) < 2e-4
    score_grad = schedule.posterior_variance(t) * (guided_eps["style"] - guided_eps["fake"])
    assert off_by(score_grad, golden.tensors[f"{full}/score_grad"]) < 1e-3


@pytest.mark.parametrize("i", FULL)
def test_relevance_and_gradients(replay: Replay, golden: Golden, i: int) -> None:
    moment, full = replay.moments[i], f"full/{i}"
    assert off_by(moment.iteration.step.relevance[0, 0], golden.tensors[f"{full}/relevance"]) < 2e-4
    assert off_by(moment.iteration.step.gradient, golden.tensors[f"{full}/weighted_grad"]) < 1e-3
    assert off_by(moment.z_grad, golden.tensors[f"{full}/tgt_grad"]) < 1e-3


@pytest.mark.parametrize("i", FULL)
def test_low_passed_spectra(replay: Replay, golden: Golden, i: int) -> None:
    mask = low_pass_mask(cutoff(replay.moments[i].iteration.step.t, 16, 16), 16, 16)
    before = golden.tensors["src_x0"] if i == 0 else replay.moments[i - 1].z
    source = dct2(golden.tensors["src_x0"]) * mask
    assert off_by(source, golden.tensors[f"full/{i}/src_dct_lowpassed"]) < 2e-4
    assert off_by(dct2(before) * mask, golden.tensors[f"full/{i}/tgt_dct_lowpassed"]) < 2e-4


def test_the_gradients_length_in_every_iteration(replay: Replay, golden: Golden) -> None:
    lengths = [m.z_grad.norm().item() for m in replay.moments]
    assert lengths == pytest.approx(golden.rows("tgt_grad_l2"), rel=1e-3)


@pytest.mark.parametrize("i", FULL)
def test_the_fake_scores_training_step(replay: Replay, golden: Golden, i: int) -> None:
    moment, full = replay.moments[i], f"full/{i}/lora_step"
    (z_t, eps), t = moment.trained, moment.iteration.fake.t
    abar = replay.models.base.schedule.alpha_bar(t)
    assert off_by(z_t, golden.tensors[f"{full}/x_t"]) < 2e-4
    assert off_by(abar * eps, golden.tensors[f"{full}/weighted_pred"]) < 2e-4
    noise = golden.tensors[f"noise_lora/{i}"]
    assert off_by(abar * noise, golden.tensors[f"{full}/weighted_target"]) < 1e-6


@pytest.mark.parametrize("i", FULL)
def test_the_adapters_gradients_and_values(replay: Replay, golden: Golden, i: int) -> None:
    moment, gradients, values = replay.moments[i], golden.adapter(f"grad/{i}"), golden.adapter(f"after/{i}")
    assert moment.adapter.keys() == gradients.keys() == values.keys()
    scale = max(g.abs().max().item() for g in gradients.values())
    for name, gradient in gradients.items():
        assert (moment.adapter_grad[name] - gradient).abs().max().item() < 1e-3 * scale, name
        assert (moment.adapter[name] - values[name]).abs().max().item() < 1e-4, name


def test_the_latent_after_every_iteration(replay: Replay, golden: Golden) -> None:
    deviations = [(m.z - golden.tensors[f"tgt_x0/{i}"]).abs().max().item() for i, m in enumerate(replay.moments)]
    assert max(deviations) < 3e-4
    moved = [(m.z - golden.tensors["src_x0"]).norm().item() for m in replay.moments]
    assert moved == pytest.approx(golden.rows("tgt_x0_minus_src_l2"), rel=1e-3, abs=1e-6)


def test_batched_scores_end_in_the_recorded_latent(tiny_models: Callable[..., Networks], golden: Golden) -> None:
    method = reference_method()
    fitting = assembled(tiny_models(method.style_strength), golden, method)
    assert fitting.scores.batched
    for _ in fit(fitting):
        pass
    assert (fitting.subject.render() - golden.tensors[f"tgt_x0/{END}"]).abs().max().item() < 3e-4


def test_the_decoded_picture(replay: Replay, golden: Golden) -> None:
    decoded = replay.models.codec.decode(replay.moments[END].z)
    found = (decoded / 2 + 0.5).clamp(0, 1)
    assert off_by(found, golden.tensors["final_decoded"]) < 2e-4


def test_passes_per_iteration(replay: Replay, golden: Golden) -> None:
    """The reference also trains on the unconditional half, whose gradient is zero."""
    recorded = golden.table["compute_per_iteration"]
    forward = recorded["style_base_forward_samples"] + recorded["real_fake_unet_forward_samples_no_grad"]
    assert recorded["max_abs_output_gradient_uncond_half"] == 0
    assert {(m.iteration.forward_passes, m.iteration.trained_passes) for m in replay.moments} == {(int(forward), 1)}


def with_method(**changes: dict[str, Any]) -> Callable[[MethodConfig], MethodConfig]:
    """Return a change of some fields of some parts of the method."""
    return lambda method: replace(
        method, **{part: replace(getattr(method, part), **fields) for part, fields in changes.items()}
    )


def unchanged(fitting: Fitting) -> None:
    """Change nothing."""


def single_step_before(fitting: Fitting) -> None:
    schedule = replace(fitting.objective.schedule, stride=1)
    direction = replace(fitting.objective.direction, schedule=schedule)
    fitting.objective = replace(fitting.objective, direction=direction)


def swapped_scores(fitting: Fitting) -> None:
    found = fitting.scores.scores
    fitting.scores = BatchedScores({**found, "style": found["fake"], "fake": found["style"]}, batched=False)


def map_from_the_picture(fitting: Fitting) -> None:
    class FromThePicture(BatchedScores):
        def predict(self, draw: Draw, names: Collection[ScoreName]) -> Predictions:
            return super().predict(replace(draw, z_source_t=draw.z_t), names)

    fitting.scores = FromThePicture(fitting.scores.scores, batched=False)


def learning_rate_off_by_one(fitting: Fitting) -> None:
    rate = fitting.learning_rate
    fitting.learning_rate = lambda i: rate(i + 1)


def fake_trained_unweighted(fitting: Fitting) -> None:
    assert fitting.fake.weight is alpha_bar_squared_weight
    fitting.fake = replace(fitting.fake, weight=unit_weight)


def fake_trained_on_the_edit_prompt(fitting: Fitting) -> None:
    other = replace(fitting.fake.predictor, conditional=fitting.scores["edit"].conditional)
    fitting.fake = replace(fitting.fake, predictor=other)


def fake_unguided(fitting: Fitting) -> None:
    found = fitting.scores.scores
    fitting.scores = BatchedScores({**found, "fake": replace(found["fake"], combine=None)}, batched=False)


WRONG = {
    "no weight decay": (with_method(optimiser={"weight_decay": 0.0}), unchanged),
    "absolute before mean": (with_method(relevance={"reduction": "absolute_then_mean"}), unchanged),
    "cutoff t / 1000": (with_method(spectrum={"period": 1000}), unchanged),
    "squared spectrum": (with_method(spectrum={"distance": "l2"}), unchanged),
    "no map": (with_method(relevance={"strength": 0.0}), unchanged),
    "adapter scale 1": (with_method(fake={"alpha": 8.0}), unchanged),
    "weight 1": (lambda method: replace(method, weight="unit"), unchanged),
    "previous timestep t - 1": (lambda method: method, single_step_before),
    "style and fake swapped": (lambda method: method, swapped_scores),
    "map from the picture": (lambda method: method, map_from_the_picture),
    "learning rate off by one": (lambda method: method, learning_rate_off_by_one),
    "fake trained unweighted": (lambda method: method, fake_trained_unweighted),
    "fake trained on the edit prompt": (lambda method: method, fake_trained_on_the_edit_prompt),
    "fake unguided": (lambda method: method, fake_unguided),
    "style strength 1": (lambda method: replace(method, style_strength=1.0), unchanged),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_variant_leaves_the_tolerance(tiny_models: Callable[..., Networks], golden: Golden, name: str) -> None:
    change_method, change_fitting = WRONG[name]
    method = change_method(reference_method())
    fitting = assembled(tiny_models(method.style_strength), golden, method)
    change_fitting(fitting)
    for iteration in fit(fitting):
        recorded = golden.tensors[f"tgt_x0/{iteration.index}"]
        if (fitting.subject.render() - recorded).abs().max().item() > 6e-4:
            return
    pytest.fail(f"the run with {name} stayed within twice the tolerance")
