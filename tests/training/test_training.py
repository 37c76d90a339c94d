"""The loop, the checkpoint and the written file, on the tiny base."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from stylescore.errors import ConfigError, NonFiniteError, OutputError
from stylescore.storage.safetensors_header import read_header
from stylescore.training import session as sessions
from stylescore.training.checkpoint import capture, restore
from stylescore.training.config import resolve
from stylescore.training.draws import batch_members
from stylescore.training.folder import TrainingFolder, TrainingState
from stylescore.training.loop import TrainStep, batch_loss, draw_batch, learning_rate, train
from stylescore.training.lora import target_layers
from stylescore.training.session import SavedStyle, Session

Make = Callable[..., Session]
PARAGRAPH = {"rank": 4, "alpha": 2.0, "targets": "attention+conv", "file_dtype": "float32"}


def finish(session: Session) -> Path:
    """Run a training to its end and return the style's file."""
    *_, written = session.run()
    assert isinstance(written, SavedStyle)
    return written.style


def read(folder: TrainingFolder) -> TrainingState:
    state = folder.load_state(TrainingState)
    assert state is not None
    return state


def output_of(unet: Any) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    z, context = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(1, 77, 32, generator=rng)
    with torch.no_grad():
        return unet(z, torch.tensor([400]), encoder_hidden_states=context).sample


def test_the_rate_warms_up_and_ends_near_zero() -> None:
    config = resolve({"name": "a", "steps": 100, "warmup": 9, "learning_rate": 0.1}, "sd1")
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[50] == pytest.approx(0.05)
    assert rates[99] < 1e-4
    flat = resolve({"name": "a", "rate_schedule": "constant", "warmup": 0, "learning_rate": 0.1}, "sd1")
    assert {learning_rate(flat, step) for step in (0, 10, 1000)} == {0.1}


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(session: Make, tiny_unet: Any) -> None:
    trainer = session(**PARAGRAPH).trainer
    torch.testing.assert_close(output_of(trainer.unet), output_of(tiny_unet()))
    assert all(".lora_" in name for name in trainer.parameters)
    assert {weight.dtype for weight in trainer.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_training_lowers_the_loss_on_a_fixed_probe(session: Make, kind: Any) -> None:
    trainer = session(steps=15, learning_rate=1e-2, batch=4, targets="attention", caption_dropout=0.0).trainer
    trainer.prediction_type = kind
    probe = draw_batch(trainer, [0, 1, 2, 3])
    with torch.no_grad():
        before = float(batch_loss(trainer, probe).mean())
    for _ in train(trainer):
        pass
    with torch.no_grad():
        after = float(batch_loss(trainer, probe).mean())
    assert after < 0.97 * before


def test_a_batch_costs_what_its_pictures_cost_one_by_one(session: Make) -> None:
    trainer = session(batch=3).trainer
    batch = draw_batch(trainer, batch_members(0, 0, 3, [range(4)]))
    with torch.no_grad():
        together = batch_loss(trainer, batch)
        alone = [
            batch_loss(trainer, type(batch)(*(part[n : n + 1] for part in vars(batch).values()))) for n in range(3)
        ]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("setting", [{}, {"crop": "random", "flip": True, "sample_posterior": True}])
def test_a_resumed_training_writes_the_same_lines_and_bytes(
    session: Make, tools: SimpleNamespace, setting: dict[str, Any], own_styles: Path
) -> None:
    whole = session(steps=5, **setting)
    expected = finish(whole).read_bytes()
    (own_styles / "discs.safetensors").unlink()
    begun = session(steps=5, **setting)
    assert begun.folder is not None
    with pytest.raises(KeyboardInterrupt):
        list(begun.run(lambda: begun.trainer.step >= 2))
    assert begun.folder.state_file.is_file()
    again = session(steps=5, **setting)
    restore(again.trainer, read(begun.folder))
    assert again.trainer.step == 2
    again.folder = begun.folder
    assert finish(again).read_bytes() == expected
    assert whole.folder is not None
    assert (begun.folder.path / "steps.jsonl").read_bytes() == (whole.folder.path / "steps.jsonl").read_bytes()
    assert not begun.folder.state_file.exists()


def test_a_checkpoint_holds_adapter_and_moments_and_no_pickle(session: Make) -> None:
    made = session(checkpoint_every=2)
    assert made.folder is not None
    list(islice(made.run(), 2))
    assert {key.rpartition(".")[2] for key in load_file(made.folder.state_file)} == {
        *("weight", "step", "exp_avg", "exp_avg_sq")
    }
    with safe_open(made.folder.state_file, "pt") as file:
        metadata = file.metadata()
    settings = json.loads(metadata.pop("settings"))
    assert metadata == {"iteration": "2", "scaler": "null"}
    assert settings["config.name"] == "discs"


@pytest.mark.parametrize("damage", ["cut", "rank", "nan", "plain"])
def test_a_checkpoint_that_does_not_fit_is_refused(session: Make, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    trainer, folder = session().trainer, TrainingFolder(tmp_path)
    tensors, file = dict(capture(trainer).tensors), folder.state_file
    if damage == "nan":
        next(iter(tensors.values()))[:] = math.nan
    if damage == "rank":
        tensors = {name: tensor[:1].contiguous() for name, tensor in tensors.items()}
    save_file(tensors, file, None if damage == "plain" else {"iteration": "1", "scaler": "null"})
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConfigError, match="has shape" if damage == "rank" else "is damaged"):
        restore(trainer, read(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iteration": 9}, "is that of iteration 9, the run has 3 iterations"),
        ({"drop": "exp_avg"}, r"the saved state has no '.*\.exp_avg'"),
        ({"drop": "weight"}, r"the saved state has no '.*\.weight'"),
        ({"add": "conv.weight"}, "the saved state has 'conv.weight', which this training does not have"),
        ({"scaler": {"scale": 2.0}}, "the saved state is one of float16"),
    ],
)
def test_a_state_of_another_training_is_refused(session: Make, change: dict[str, Any], message: str) -> None:
    trainer = session().trainer
    next(iter(train(trainer)))
    state = capture(trainer)
    dropped, added = change.pop("drop", None), change.pop("add", None)
    tensors = {name: tensor for name, tensor in state.tensors.items() if name.rpartition(".")[2] != dropped}
    tensors |= {added: torch.zeros(1)} if added else {}
    with pytest.raises(ConfigError, match=message):
        restore(session().trainer, replace(state, tensors=tensors, **change))


def test_a_loss_that_is_not_finite_stops_the_training_before_anything_moves(session: Make) -> None:
    trainer = session().trainer
    trainer.cache.examples[0].views[0].mean.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="the training loss became non-finite at step"):
        list(train(trainer))
    assert all(bool(tensor.isfinite().all()) for tensor in capture(trainer).tensors.values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_does_in_diffusers_what_the_trained_adapter_did(session: Make, tiny_unet: Any, dtype: Any) -> None:
    from diffusers import StableDiffusionPipeline

    made = session(**PARAGRAPH | {"file_dtype": dtype, "learning_rate": 1e-2})
    file = finish(made)
    trained = output_of(made.trainer.unet)
    untouched = output_of(tiny_unet())
    theirs = tiny_unet()
    state, alphas = StableDiffusionPipeline.lora_state_dict(file.parent, weight_name=file.name, local_files_only=True)
    theirs.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    atol = 1e-5 if dtype == "float32" else 2e-3
    torch.testing.assert_close(output_of(theirs), trained, rtol=0, atol=atol)
    assert float((trained - untouched).abs().max()) > 10 * atol


def test_the_file_loads_into_a_diffusers_pipeline(session: Make, tools: SimpleNamespace) -> None:
    from diffusers import StableDiffusionPipeline

    made = session(**PARAGRAPH, learning_rate=1e-2)
    file = finish(made)
    pipeline = StableDiffusionPipeline.from_pretrained(
        tools.tiny, local_files_only=True, safety_checker=None, feature_extractor=None
    )
    pipeline.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    torch.testing.assert_close(output_of(pipeline.unet), output_of(made.trainer.unet), rtol=0, atol=1e-5)


def test_the_file_does_here_what_the_trained_adapter_did(session: Make, tiny_unet: Any) -> None:
    from stylescore.diffusion.adapters import adaptable, merge
    from stylescore.lora import bind, read_lora

    made = session(**PARAGRAPH, learning_rate=1e-2)
    lora, ours = read_lora(finish(made)), tiny_unet()
    merge(ours, bind(lora, adaptable(ours)), 1.0)
    torch.testing.assert_close(output_of(ours), output_of(made.trainer.unet), rtol=0, atol=1e-5)
    assert lora.format == "kohya"
    assert lora.ranks == (4,)
    assert {change.scale for change in lora.parts["unet"].values()} == {0.5}


def test_keys_shapes_and_alphas_are_what_kohyas_tools_expect(session: Make) -> None:
    file = finish(session(**PARAGRAPH))
    tensors = load_file(file)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert tensors[f"{stem}.lora_down.weight"].shape == (4, 32)
    assert tensors[f"{stem}.lora_up.weight"].shape == (24, 4)
    conv = "lora_unet_mid_block_resnets_0_conv1"
    assert tensors[f"{conv}.lora_down.weight"].shape == (4, 48, 3, 3)
    assert tensors[f"{conv}.lora_up.weight"].shape == (48, 4, 1, 1)
    assert {float(value) for name, value in tensors.items() if name.endswith(".alpha")} == {2.0}
    assert {name.rpartition(".")[0].partition(".")[0] + ".alpha" for name in tensors} <= set(tensors)


@pytest.mark.parametrize(("targets", "count"), [("attention", 192), ("attention+conv", 192 + 44)])
def test_sd15_gets_as_many_adapted_layers_as_from_kohyas_tools(targets: Any, count: int) -> None:
    """Theirs are 12 in each of 16 attention blocks; with convolutions we add the two of each of 22 resnets."""
    from diffusers import UNet2DConditionModel

    from stylescore.diffusion.checkpoints.layouts import SD1_LAYOUT

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD1_LAYOUT.configs / "unet"))
    assert len(target_layers(unet, targets)) == count


def test_the_file_tells_where_it_comes_from_and_never_a_folder(session: Make, pictures: Path) -> None:
    file = finish(session(trigger="inky discs"))
    metadata = read_header(file, error=ConfigError).metadata
    assert metadata["modelspec.trigger_phrase"] == "inky discs"
    assert metadata["ss_base_model_version"] == "stylescore-tiny_base"
    assert (metadata["ss_steps"], metadata["ss_num_train_images"]) == ("3", "4")
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "4")
    assert len(metadata["stylescore.data_sha256"]) == 64
    assert str(pictures.parent) not in "".join(metadata.values())
    assert list(metadata) == sorted(metadata)


def test_a_sample_sheet_and_curves_are_kept(session: Make) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = session(steps=2, samples_every=2)
    assert made.folder is not None
    finish(made)
    assert [file.name for file in sorted((made.folder.path / "samples").iterdir())] == ["step-000002.png"]
    curves = EventAccumulator(str(made.folder.curves))
    curves.Reload()
    rows = [json.loads(line) for line in (made.folder.path / "steps.jsonl").read_text().splitlines()]
    assert [event.value for event in curves.Scalars("loss")] == pytest.approx([row["loss"] for row in rows])


def test_a_sheet_does_not_disturb_the_training(session: Make, own_styles: Path) -> None:
    plain = finish(session(steps=3)).read_bytes()
    (own_styles / "discs.safetensors").unlink()
    assert finish(session(steps=3, samples_every=2)).read_bytes() == plain


@pytest.mark.parametrize("setting", [{"gradient_checkpointing": True}, {"dtype": "bfloat16"}])
def test_memory_saving_ways_train_too(session: Make, setting: dict[str, Any]) -> None:
    made = session(steps=2, **setting)
    steps = [event for event in made.run() if isinstance(event, TrainStep)]
    assert all(math.isfinite(step.loss) for step in steps)
    moved = [weight for name, weight in made.trainer.parameters.items() if "lora_B" in name]
    assert any(float(weight.detach().abs().max()) > 0 for weight in moved)


def test_checkpointed_activations_give_the_same_loss(session: Make) -> None:
    losses = []
    for checkpointing in (False, True):
        trainer = session(gradient_checkpointing=checkpointing).trainer
        losses.append([step.loss for step in train(trainer)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_full_disk_at_the_end_keeps_the_training(
    session: Make, monkeypatch: pytest.MonkeyPatch, own_styles: Path
) -> None:
    def full(*_: Any) -> None:
        raise OutputError("'x' cannot be written: No space left on device", hint="free some space")

    made = session()
    assert made.folder is not None
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "write_lora", full)
        with pytest.raises(OutputError, match="No space left"):
            finish(made)
    assert not list(own_styles.glob("*.safetensors"))
    again = session()
    again.folder = made.folder
    restore(again.trainer, read(made.folder))
    assert [type(event) for event in again.run()] == [SavedStyle]
