"""The loop, its resuming, and what it writes, on the tiny base."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from stylescore.errors import ConfigError, NonFiniteError
from stylescore.generators import load_generator
from stylescore.method.types import Latent
from stylescore.training.generator import session as sessions
from stylescore.training.generator.average import copy_weights, update_average
from stylescore.training.generator.batches import Batch
from stylescore.training.generator.checkpoint import GeneratorState, capture, restore
from stylescore.training.generator.folder import GeneratorFolder
from stylescore.training.generator.loop import (
    PHASES,
    TrainStep,
    held_out_batch,
    paint,
    paint_as_applied,
    step_batches,
    take_measure,
    train,
)
from stylescore.training.generator.losses import Matching
from stylescore.training.generator.networks import Painting, encode
from stylescore.training.generator.session import SavedGenerator, Session
from stylescore.training.generator.teacher import load_teacher
from stylescore_apply import Settings, stylize

Make = Callable[..., Session]


def finish(session: Session) -> Path:
    """Run a training to its end and return the generator's file."""
    *_, saved = session.run()
    assert isinstance(saved, SavedGenerator)
    return saved.file


def stop_after(session: Session, steps: int) -> GeneratorFolder:
    """Run so many steps, save the state, and return the folder."""
    with pytest.raises(KeyboardInterrupt):
        list(session.run(lambda: session.trainer.step >= steps))
    assert session.folder is not None
    return session.folder


def reopen(folder: GeneratorFolder) -> Session:
    """Return the training of a folder, where its state says."""
    read, record, state = sessions.read_training(folder.path)
    assert state is not None
    setup = sessions.set_up(sessions.restore_request(record.settings, read))
    sessions.require_same_inputs(record, setup)
    return Session.open(setup, read, state)


def steps_of(session: Session) -> list[TrainStep]:
    return list(train(session.trainer))


def test_both_phases_run_and_the_file_is_a_generator(generator_session: Make) -> None:
    session = generator_session(measure_every=2)
    file = finish(session)
    module, facts = load_generator(file)
    assert (facts.network, facts.size, facts.noise_channels, facts.style) == ("mobile", 64, 4, "bands")
    assert facts.training["steps"] == 5
    assert facts.training["hashes"]["photos"] == session.setup.digest
    for name, value in session.trainer.average.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)
    photo, noise = torch.rand(1, 3, 40, 56), torch.randn(1, 4, 5, 7)
    assert not torch.equal(module(photo, noise), photo)


def test_the_log_names_phases_and_parts(generator_session: Make, tools: SimpleNamespace) -> None:
    session = generator_session(measure_every=2)
    finish(session)
    assert session.folder is not None
    rows = tools.rows(session.folder.path)
    assert [row["phase"] for row in rows] == ["regression"] * 3 + ["matching"] * 2
    assert [set(row["parts"]) for row in rows[2:4]] == [{"pixel", "perceptual"}, {"score", "spectrum", "fake"}]
    assert [row["measure"] is None for row in rows] == [True, False, False, True, False]
    assert [len(row["t"]) for row in rows] == [0, 0, 0, 2, 2]
    assert [row["ends_phase"] for row in rows] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("stop", "setting"),
    [
        (1, {"measure_every": 1}),
        (3, {"network": "resnet9", "accumulate": 2}),
        (4, {"measure_every": 2}),
        (2, {"measure_every": 1, "stability": 0.5, "regression": {"adversarial": 0.5, "texture": 1.0}}),
        (4, {"measure_every": 1, "matching": {"fake_warmup": 2}}),
        (6, {"matching": {"fake_warmup": 2}}),
        (4, {"regression": {"optimiser": "adam"}, "matching": {"optimiser": "muon"}}),
        (2, {"measure_every": 1, "size": 72, "regression": {"crop": 64}}),
    ],
)
def test_a_resumed_training_writes_the_same_lines_and_bytes(
    generator_session: Make, stop: int, setting: dict[str, Any]
) -> None:
    whole = generator_session(**setting)
    expected = finish(whole).read_bytes()
    begun = generator_session(**setting)
    folder = stop_after(begun, stop)
    again = reopen(folder)
    assert again.trainer.step == stop
    assert finish(again).read_bytes() == expected
    assert whole.folder is not None
    assert folder.log_file.read_bytes() == whole.folder.log_file.read_bytes()
    assert not folder.state_file.exists()


def test_pairs_are_cropped_for_the_steps_and_not_for_the_measure(generator_session: Make) -> None:
    trainer = generator_session(size=80, regression={"crop": 64}).trainer
    (part,) = step_batches(trainer)[0]
    assert (part.photo.shape[-2:], part.noise.shape[-2:], part.target.shape[-2:]) == ((64, 64), (8, 8), (64, 64))
    assert held_out_batch(trainer, 0).target.shape[-2:] == (80, 80)
    (photos,) = step_batches(trainer, 2)[0]
    assert photos.photo.shape[-2:] == (80, 80)


def test_accumulated_parts_are_one_batch(generator_session: Make) -> None:
    whole, parts = (
        generator_session(
            accumulate=count,
            stability=0.5,
            regression={"batch": 4, "adversarial": 0.5, "texture": 1.0},
            matching={"batch": 4},
        )
        for count in (1, 4)
    )
    for one, two in zip(steps_of(whole), steps_of(parts), strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-4)
        assert two.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
        assert two.t == one.t
        assert two.parts == pytest.approx(one.parts, rel=1e-3)


@pytest.mark.parametrize("method", ["sms", "vsd", "sds", "dds", "pds"])
def test_every_method_moves_the_generator(generator_session: Make, method: str) -> None:
    session = generator_session(method, regression={"steps": 0}, pairs={"count": 0})
    before = copy_weights(session.trainer.network)
    steps = steps_of(session)
    assert [step.phase for step in steps] == ["matching"] * 2
    assert ("fake" in steps[0].parts) == (method in ("sms", "vsd"))
    after = copy_weights(session.trainer.network)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_fake_score_is_trained_several_times_a_step_and_the_base_never(generator_session: Make) -> None:
    session = generator_session(regression={"steps": 0})
    matching = session.trainer.matching
    assert matching.fake is not None
    adapter = {id(parameter) for parameter in matching.fake.parameters}
    network = matching.networks.base.network
    frozen = {n: p.clone() for n, p in network.named_parameters() if id(p) not in adapter}
    steps_of(session)
    optimiser = session.trainer.fake_optimiser
    assert optimiser is not None
    assert {float(state["step"]) for state in optimiser.state.values()} == {4.0}
    assert all(torch.equal(frozen[n], p) for n, p in network.named_parameters() if n in frozen)


def test_the_fake_score_can_be_trained_before_the_generator_moves(generator_session: Make) -> None:
    session = generator_session(
        regression={"steps": 0}, matching={"fake_warmup": 30, "steps": 1, "batch": 4, "method": {"fake": {"lr": 1e-2}}}
    )
    trainer = session.trainer
    assert trainer.matching.fake is not None
    generator, fake = copy_weights(trainer.network), [p.detach().clone() for p in trainer.matching.fake.parameters]
    steps = train(trainer)
    warmup = [next(steps) for _ in range(30)]
    assert {step.phase for step in warmup} == {"fake"}
    assert {(step.measure, step.best, len(step.t)) for step in warmup} == {(None, None, 4)}
    assert [step.ends_phase for step in warmup] == [False] * 29 + [True]
    assert all(not torch.equal(old, new) for old, new in zip(fake, trainer.matching.fake.parameters, strict=True))
    for network in (trainer.network, trainer.average):
        assert all(torch.equal(generator[name], value) for name, value in copy_weights(network).items())
    (last,) = steps
    assert last.phase == "matching"
    assert any(not torch.equal(generator[name], value) for name, value in copy_weights(trainer.network).items())


def test_a_warm_up_fits_the_fake_score_to_the_generators_pictures(generator_session: Make) -> None:
    session = generator_session(
        regression={"steps": 0}, matching={"fake_warmup": 40, "batch": 4, "method": {"fake": {"lr": 1e-2}}}
    )
    trainer = session.trainer

    def loss_of_the_fake_score() -> float:
        batch = held_out_batch(trainer, 0)
        with torch.no_grad():
            z = paint(trainer, trainer.network, batch).latent.expand(32, -1, -1, -1)
            rng = [torch.Generator().manual_seed(number) for number in range(32)]
            return float(trainer.matching.fake_loss(z, batch.captions * 32, 0.0, rng)[0].mean())

    before = loss_of_the_fake_score()
    steps = train(trainer)
    for _ in range(40):
        next(steps)
    assert loss_of_the_fake_score() < 0.98 * before


@pytest.mark.parametrize(("stated", "steps", "expected"), [(None, 500, 200), (None, 3, 3), (7, 3, 7), (0, 3, 0)])
def test_a_warm_up_is_no_longer_than_what_follows_unless_it_is_stated(
    generator_request: Callable[..., Any], stated: int | None, steps: int, expected: int
) -> None:
    config = generator_request(matching={"fake_warmup": stated, "steps": steps}).config
    assert config.lengths == (3, expected, steps)


@pytest.mark.parametrize("method", ["sds", "dds"])
def test_a_method_without_a_fake_score_has_no_warm_up(generator_session: Make, method: str) -> None:
    session = generator_session(method, regression={"steps": 0}, pairs={"count": 0}, matching={"fake_warmup": 5})
    assert [step.phase for step in steps_of(session)] == ["matching"] * 2
    assert session.trainer.config.total == 2


def test_regression_learns_the_pairs_with_their_own_noise(generator_session: Make) -> None:
    session = generator_session(
        regression={"steps": 60, "batch": 4, "learning_rate": 1e-2}, matching={"steps": 0}, width=8, ema=0.0
    )
    before = take_measure(session.trainer)
    losses = [step.loss for step in train(session.trainer)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert before > 0


def test_the_second_phase_is_measured_as_apply_applies_the_file(generator_session: Make) -> None:
    session = generator_session(regression={"learning_rate": 3e-2, "steps": 12}, passes=3, strength=0.6)
    trainer, file = session.trainer, finish(session)
    batch = held_out_batch(trainer, 0)
    network = load_teacher(file, "", trainer.process.device).network
    pixels = (batch.photo[0].permute(1, 2, 0) * 255).round().byte().numpy()
    expected = torch.from_numpy(stylize(network, pixels, Settings(passes=3, strength=0.6), batch.noise.numpy())) / 255
    with torch.no_grad():
        found = paint_as_applied(trainer, trainer.average, batch).pictures[0].permute(1, 2, 0)
        once = paint(trainer, trainer.average, batch).pictures[0].permute(1, 2, 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=3 / 255)  # apply rounds after each pass
    assert float((once - expected).abs().max()) > 10 / 255
    trainer.phase, second = PHASES.index("matching"), trainer.config
    measured = take_measure(trainer)
    trainer.config = replace(second, passes=1, strength=1.0)
    assert take_measure(trainer) != pytest.approx(measured, rel=1e-3)
    trainer.phase = PHASES.index("regression")
    measured = take_measure(trainer)
    trainer.config = second
    assert take_measure(trainer) == measured


@pytest.mark.parametrize(("passes", "strength"), [(1, 1.0), (3, 1.0), (1, 0.5), (3, 0.5)])
def test_the_second_phase_can_move_pictures_as_they_are_applied(
    generator_session: Make, monkeypatch: pytest.MonkeyPatch, passes: int, strength: float
) -> None:
    """The score is asked about the mixture of the last pass with the photo, and so is the fake score before it."""
    session = generator_session(
        regression={"learning_rate": 3e-2, "steps": 12},
        matching={"as_applied": True, "steps": 1, "fake_warmup": 1, "fake_steps": 1},
        passes=passes,
        strength=strength,
    )
    trainer, seen, fake = session.trainer, [], []
    step, fake_loss = Matching.step, Matching.fake_loss

    def spy(self: Matching, painting: Painting, batch: Batch, *rest: Any) -> Any:
        with torch.no_grad():
            pictures = batch.photo
            for _ in range(passes):
                pictures = trainer.network(pictures.clamp(0, 1), batch.noise)
            seen.append((painting.pictures.detach(), torch.lerp(batch.photo, pictures, strength)))
        return step(self, painting, batch, *rest)

    def spy_fake(self: Matching, z: Latent, *rest: Any) -> Any:
        fake.append(z)
        return fake_loss(self, z, *rest)

    monkeypatch.setattr(Matching, "step", spy)
    monkeypatch.setattr(Matching, "fake_loss", spy_fake)
    steps = steps_of(session)
    assert [step.phase for step in steps[12:]] == ["fake", "matching"]
    (found, expected), (warmed, moved) = seen[0], fake
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(moved, encode(trainer.matching.networks, expected))
    assert warmed.shape == moved.shape
    assert steps[-1].gradient_norm > 0


def test_what_passes_before_the_last_do_is_not_differentiated(generator_session: Make) -> None:
    """The gradient is that of one pass over what the others made, times the strength."""
    session = generator_session(regression={"learning_rate": 3e-2, "steps": 12}, passes=3, strength=0.5)
    trainer = session.trainer
    finish(session)
    batch = held_out_batch(trainer, 0)
    with torch.no_grad():
        twice = paint(trainer, trainer.network, batch).pictures.clamp(0, 1)
        twice = paint(trainer, trainer.network, replace(batch, photo=twice)).pictures.clamp(0, 1)
    weights = list(trainer.network.parameters())
    last = paint(trainer, trainer.network, replace(batch, photo=twice)).pictures
    expected = torch.autograd.grad(last.square().sum() * 0.5, weights)
    applied = paint_as_applied(trainer, trainer.network, batch).pictures
    found = torch.autograd.grad((applied * last.detach() * 2).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_kept_regression_joins_the_second_phase(generator_session: Make) -> None:
    session = generator_session(matching={"regression": 0.5})
    assert [set(step.parts) for step in steps_of(session)][3:] == [{"score", "spectrum", "regression", "fake"}] * 2


def test_without_pairs_the_first_phase_keeps_the_photo(generator_session: Make) -> None:
    session = generator_session(pairs={"count": 0}, matching={"steps": 0})
    assert next(step.loss for step in steps_of(session)) == pytest.approx(0, abs=1e-6)


def test_a_generator_without_noise_has_no_second_input(generator_session: Make) -> None:
    session = generator_session(noise=False)
    _, facts = load_generator(finish(session))
    assert facts.noise_channels == 0


def test_a_phase_ends_when_the_measure_stops_falling_and_the_best_weights_go_on(generator_session: Make) -> None:
    session = generator_session(
        measure_every=1, patience=2, ema=0.0, regression={"steps": 50, "learning_rate": 1.0}, matching={"steps": 0}
    )
    start = copy_weights(session.trainer.network)
    steps = steps_of(session)
    assert len(steps) == 2
    assert steps[-1].ends_phase
    assert steps[-1].measure is not None
    assert steps[-1].best is not None
    assert steps[-1].best < steps[-1].measure
    assert all(torch.equal(start[name], value) for name, value in copy_weights(session.trainer.average).items())


@pytest.mark.parametrize(("phase", "what"), [(0, "the gradient"), (1, "the gradient")])
def test_what_is_not_finite_stops_the_training_and_names_the_step(
    generator_session: Make, phase: int, what: str
) -> None:
    session = generator_session(regression={"steps": 2 if phase == 0 else 0})
    trainer = session.trainer
    steps = train(trainer)
    next(steps)
    before = copy_weights(trainer.average)
    with torch.no_grad():
        next(iter(trainer.network.parameters())).fill_(math.inf)
    with pytest.raises(NonFiniteError, match=f"{what} became non-finite at step 1"):
        next(steps)
    assert trainer.step == 1
    assert all(torch.equal(before[name], value) for name, value in copy_weights(trainer.average).items())


def test_the_fake_score_names_its_step_too(generator_session: Make) -> None:
    session = generator_session(regression={"steps": 0})
    assert session.trainer.matching.fake is not None
    steps = train(session.trainer)
    next(steps)
    with torch.no_grad():
        session.trainer.matching.fake.parameters[0].fill_(math.nan)
    with pytest.raises(NonFiniteError):
        next(steps)


def test_only_the_last_generators_and_due_sheets_are_kept(generator_session: Make) -> None:
    session = generator_session(checkpoint_every=1, keep=2, samples_every=2)
    finish(session)
    assert session.folder is not None
    assert [path.name for path in sorted(session.folder.checkpoints.iterdir())] == [
        "step-000004.safetensors",
        "step-000005.safetensors",
    ]
    sheets = [path.name for path in sorted(session.folder.samples.iterdir())]
    assert sheets == [f"step-{n:06d}.png" for n in (0, 2, 4, 5)]
    load_generator(session.folder.checkpoint(4))


def test_a_generator_that_is_due_is_kept_though_the_process_was_killed_before(generator_session: Make) -> None:
    setting = {"checkpoint_every": 2, "keep": 1}
    whole, folder = generator_session(**setting), stop_after(generator_session(**setting), 4)
    finish(whole)
    assert whole.folder is not None
    shutil.move(folder.checkpoint(4), folder.checkpoint(2))  # the state is written before
    finish(reopen(folder))
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000004.safetensors"]
    assert folder.checkpoint(4).read_bytes() == whole.folder.checkpoint(4).read_bytes()


def test_the_average_forgets_its_first_weights_soon() -> None:
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    nn.init.ones_(network.weight)
    update_average(average, network, 0.999, 0)
    assert average.weight.item() == pytest.approx(0.9)
    update_average(average, network, 0.5, 10**6)
    assert average.weight.item() == pytest.approx(0.95)


def test_a_state_of_another_training_is_refused(generator_session: Make) -> None:
    session = generator_session()
    state = capture(session.trainer)
    for wrong in (
        {"phase": 4},
        {"phase": 1, "phase_step": 1},
        {"phase": 0, "phase_step": 7},
        {"phase": -1},
        {"misses": -1},
        {"best_measure": math.inf},
        {"iteration": 99},
        {"tensors": {**state.tensors, "average.last.bias": torch.zeros(7)}},
        {"tensors": {k: v for k, v in state.tensors.items() if k != "network.last.bias"}},
    ):
        with pytest.raises(ConfigError):
            restore(session.trainer, GeneratorState(**{**vars(state), **wrong}))


def test_photos_that_changed_are_refused(generator_session: Make, photos: Path) -> None:
    session = generator_session(checkpoint_every=1)
    assert session.folder is not None
    with pytest.raises(KeyboardInterrupt):
        list(session.run(lambda: True))
    (photos / "p1.txt").write_text("another caption", encoding="utf-8")
    folder, record, _ = sessions.read_training(session.folder.path)
    setup = sessions.set_up(sessions.restore_request(record.settings, folder))
    with pytest.raises(ConfigError, match="the photos changed after the run began"):
        sessions.require_same_inputs(record, setup)


def test_a_finished_training_has_nothing_to_resume(generator_session: Make) -> None:
    session = generator_session()
    finish(session)
    assert session.folder is not None
    with pytest.raises(ConfigError, match="is finished"):
        sessions.read_training(session.folder.path)


def test_two_processes_draw_what_one_draws(generator_session: Make) -> None:
    from dataclasses import replace

    trainer = generator_session(regression={"batch": 4}).trainer
    whole = step_batches(trainer)
    (one,) = whole[3]
    halves = [replace(whole, rank=rank, processes=2)[3][0] for rank in (0, 1)]
    for name in ("photo", "noise", "target"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(one, name))
    assert sum((half.positions for half in halves), ()) == one.positions
