"""A base model that is evaluated once with a trained LoRA, on the tiny base."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stylescore.assembly.one_step import load_one_step, place_one_step
from stylescore.assembly.stylizer import Stylizer
from stylescore.catalog.registry import resolve_style
from stylescore.diffusion.adapters import PLAIN, adaptable
from stylescore.diffusion.one_step import LoraGenerator
from stylescore.errors import ConfigError, ModelError, PictureError
from stylescore.generators import load_generator
from stylescore.generators.files import read_facts
from stylescore.lora import Product, bind, describe, read_lora
from stylescore.training.generator import session as sessions
from stylescore.training.generator.loop import held_out_batch, paint, train
from stylescore.training.generator.session import SavedGenerator, Session

Make = Callable[..., Session]
LORA: dict[str, Any] = {"network": "lora", "width": 0, "blocks": 0, "rank": 2, "pairs": {"count": 0}}


@pytest.fixture
def make(generator_session: Make) -> Make:
    """Return a maker of trainings of a LoRA."""
    return lambda *method, **given: generator_session(*method, **{**LORA, **given})


@pytest.fixture
def applied(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return `stylescore apply` as a function that returns its exit code and what it prints as errors."""
    from stylescore.cli.apply import open_network
    from stylescore_apply.cli import exit_code

    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        code = exit_code(list(map(str, arguments)), program="stylescore apply", open_network=open_network)
        return code, capfd.readouterr().err

    return call


def finish(session: Session) -> Path:
    *_, saved = session.run()
    assert isinstance(saved, SavedGenerator)
    return saved.file


def generator_of(session: Session) -> LoraGenerator:
    network = session.trainer.network
    assert isinstance(network, LoraGenerator)
    return network


def fill(generator: LoraGenerator) -> LoraGenerator:
    """Give the LoRA an effect."""
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in generator.adapter.layers.values():
            layer.lora_b.copy_(0.3 * torch.randn(layer.lora_b.shape, generator=rng))
    return generator


def inputs(height: int = 40, width: int = 56) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    cells = (-(-height // 8), -(-width // 8))
    return torch.rand(2, 3, height, width, generator=rng), torch.randn(2, 4, *cells, generator=rng)


def test_a_new_generator_is_the_plain_models_prediction_decoded(make: Make) -> None:
    session = make()
    generator, stylizer = generator_of(session), session.setup.stylizer
    networks, (photo, noise) = stylizer.networks, inputs()
    unet, vae = networks.base.network, networks.codec.vae
    scale, abar = vae.config.scaling_factor, networks.base.schedule.alphas_cumprod[399]
    with torch.no_grad():
        z_t = abar.sqrt() * scale * vae.encode(2 * photo - 1).latent_dist.mean + (1 - abar).sqrt() * noise
        tokens = networks.text([f"{stylizer.style_prompt}"]).tokens.expand(2, -1, -1)
        eps = unet(z_t, 399, encoder_hidden_states=tokens).sample
        z = (z_t - (1 - abar).sqrt() * eps) / abar.sqrt()
        expected = (vae.decode(z / scale).sample + 1) / 2
        torch.testing.assert_close(generator(photo, noise), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(generator.eval()(photo, noise), expected.clamp(0, 1), rtol=1e-4, atol=1e-5)


def test_its_weights_are_those_of_the_lora_alone(make: Make) -> None:
    generator = generator_of(make(rank=3))
    unet = generator.step.backbone.network
    shapes = adaptable(unet)
    layers = generator.adapter.layers
    assert {name.rpartition(".")[2] for name in layers} > {"to_q", "conv1", "proj_in"}
    expected = sum(3 * (shapes[name][0] + int(np.prod(shapes[name][1:]))) for name in layers)
    assert sum(weight.numel() for weight in generator.parameters()) == expected
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in generator.parameters())


def test_a_copy_shares_the_model_and_has_weights_of_its_own(make: Make) -> None:
    generator = generator_of(make())
    other = copy.deepcopy(generator)
    assert other.step is generator.step
    photo, noise = inputs()
    before = generator(photo, noise)
    fill(other)
    assert torch.equal(generator(photo, noise), before)
    assert not torch.allclose(other(photo, noise), before, atol=1e-3)
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in generator.named_parameters()]


def test_no_score_and_no_feature_sees_the_generators_adapter(make: Make, rngs: Any) -> None:
    session = make()
    matching, regression = session.trainer.matching, session.trainer.regression
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    draw = matching.objective.schedule.draw(z, z + 0.1, t=torch.tensor([100, 700]), eps=z.flip(0))

    def everything() -> dict[str, Tensor]:
        with torch.no_grad():
            scores = matching.scores(["", "a sky"]).predict(draw, ("style", "fake", "edit", "source"))
            return {**scores, "features": regression.distance(z, z + 0.1, rngs(1, 2))}

    before = everything()
    generator = fill(generator_of(session))
    generator(*inputs())
    after = everything()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert generator.step.backbone.adapters.switch.route == PLAIN


def test_gradients_reach_the_lora_through_decoder_and_latent_and_nothing_else(make: Make) -> None:
    session = make()
    generator = fill(generator_of(session))
    painting = paint(session.trainer, generator, held_out_batch(session.trainer, 0))
    (painting.pictures.square().mean() + painting.latent.square().mean()).backward()
    for name, weight in generator.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.abs().sum() > 0), name
    networks = session.trainer.matching.networks
    frozen = [*networks.codec.vae.parameters(), *networks.base.network.parameters()]
    assert all(weight.grad is None for weight in frozen)


def test_a_training_moves_the_lora_and_never_the_model(make: Make) -> None:
    session = make(measure_every=2)
    unet = session.trainer.matching.networks.base.network
    before = {name: weight.clone() for name, weight in unet.named_parameters()}
    start = [weight.clone() for weight in session.trainer.network.parameters()]
    steps = list(train(session.trainer))
    assert [step.phase for step in steps] == ["regression"] * 3 + ["matching"] * 2
    assert all(torch.equal(before[name], weight) for name, weight in unet.named_parameters())
    assert any(not torch.equal(a, b) for a, b in zip(start, session.trainer.network.parameters(), strict=True))


def test_without_pixels_the_regression_does_not_decode(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make(regression={"pixel": 0.0})
    vae = session.trainer.matching.networks.codec.vae
    monkeypatch.setattr(vae, "decode", None)
    assert next(step.parts for step in train(session.trainer)).keys() == {"pixel", "perceptual"}


def test_the_regression_learns_the_pairs(make: Make) -> None:
    phases = {"regression": {"steps": 40, "batch": 4, "learning_rate": 1e-2}, "matching": {"steps": 0}}
    session = make(**phases, pairs={"count": 6}, rank=4, ema=0.0)
    losses = [step.loss for step in train(session.trainer)]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_a_resumed_training_writes_the_same_lines_and_bytes(make: Make) -> None:
    whole = make(measure_every=2)
    expected = finish(whole).read_bytes()
    begun = make(measure_every=2)
    assert begun.folder is not None
    with pytest.raises(KeyboardInterrupt):
        list(begun.run(lambda: begun.trainer.step >= 4))
    folder, record, state = sessions.read_training(begun.folder.path)
    assert state is not None
    assert sum(tensor.numel() for tensor in state.tensors.values()) < 10 * sum(
        weight.numel() for weight in begun.trainer.network.parameters()
    )
    setup = sessions.set_up(sessions.restore_request(record.settings, folder))
    sessions.require_same_inputs(record, setup)
    assert finish(Session.open(setup, folder, state)).read_bytes() == expected
    assert whole.folder is not None
    assert folder.log_file.read_bytes() == whole.folder.log_file.read_bytes()


@pytest.fixture
def trained(make: Make) -> tuple[Session, Path]:
    """Return a training and the file of its filled LoRA."""
    session = make()
    fill(generator_of(session))
    session.trainer.average = copy.deepcopy(session.trainer.network).eval()
    assert session.folder is not None
    file = session.folder.path / "bands.safetensors"
    session.setup.kind.write(file, session.trainer.average, session.facts(), torch.float32)
    return session, file


def changes_of(session: Session) -> dict[str, Product]:
    generator = generator_of(session)
    return generator.adapter.changes(generator.step.backbone.network)


def test_the_file_is_a_lora_of_the_same_changes(trained: tuple[Session, Path]) -> None:
    session, file = trained
    lora, changes = read_lora(file), changes_of(session)
    bound = bind(lora, adaptable(generator_of(session).step.backbone.network))
    assert (lora.format, lora.kind, lora.ranks) == ("kohya", "LoCon", (2,))
    assert bound.keys() == changes.keys()
    for name, change in changes.items():
        found = bound[name]
        assert isinstance(found, Product)
        torch.testing.assert_close(found.dense(), change.dense(), rtol=1e-5, atol=1e-6)


def test_diffusers_loads_the_file_as_the_same_changes(trained: tuple[Session, Path], tiny_unet: Any) -> None:
    from diffusers import StableDiffusionPipeline

    session, file = trained
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(file))
    unet = tiny_unet()
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet=unet, adapter_name="generator")
    for name, change in changes_of(session).items():
        layer = unet.get_submodule(name)
        delta = layer.get_delta_weight("generator")
        torch.testing.assert_close(delta, change.dense(), rtol=1e-4, atol=1e-6)


def test_the_file_says_what_it_is(trained: tuple[Session, Path], tools: SimpleNamespace) -> None:
    session, file = trained
    facts, lora = read_facts(file), read_lora(file)
    assert (facts.network, facts.options) == ("lora", {"rank": 2, "timestep": 399})
    assert (facts.base, facts.style, facts.noise_channels) == ("tiny_base", "bands", 4)
    assert facts.prompt == facts.trigger == session.setup.stylizer.style_prompt
    assert lora.trigger_words == (facts.trigger,)
    assert lora.metadata["modelspec.prediction_type"] == "epsilon"
    assert describe(file).one_step == 399
    with pytest.raises(ModelError, match="is a LoRA of the model 'tiny_base'"):
        load_generator(file)


def test_it_is_applied_as_it_was_trained(trained: tuple[Session, Path], tools: SimpleNamespace) -> None:
    session, file = trained
    network = load_one_step(file, str(tools.tiny), "cpu")
    assert network.notes == ()
    for size in ((40, 56), (37, 90)):
        photo, noise = inputs(*size)
        with torch.no_grad():
            expected = session.trainer.average(photo, noise)
        found = network(photo.numpy(), noise.numpy())
        assert found.shape == photo.shape
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_it_is_applied_on_networks_that_are_loaded(trained: tuple[Session, Path], tools: SimpleNamespace) -> None:
    alone = load_one_step(trained[1], str(tools.tiny), "cpu")
    step = replace(alone.step, backbone=alone.stylizer.networks.base)
    photo, noise = inputs(37, 90)
    before = step.latent(photo, noise, PLAIN)
    placed = place_one_step(trained[1], alone.stylizer)
    np.testing.assert_allclose(placed(photo.numpy(), noise.numpy()), alone(photo.numpy(), noise.numpy()), atol=1e-5)
    assert torch.equal(before, step.latent(photo, noise, PLAIN)), "the networks are as they were"
    with pytest.raises(ModelError, match="cells of 8 pixels"):
        place_one_step(trained[1], Stylizer.load("van-gogh", device="cpu"))
    with pytest.raises(ModelError, match="is not a generator"):
        place_one_step(resolve_style("van-gogh").path, alone.stylizer)


def test_a_large_picture_is_computed_in_tiles(trained: tuple[Session, Path], tools: SimpleNamespace) -> None:
    network = load_one_step(trained[1], str(tools.tiny), "cpu")
    counter = network.step.backbone.counter
    native = network.stylizer.networks.native_size
    photo, noise = inputs(native * 2 + 8, native * 2 + 8)
    before = counter.forward
    picture = network(photo[:1].numpy(), noise[:1].numpy())
    assert picture.shape == (1, 3, native * 2 + 8, native * 2 + 8)
    assert counter.forward - before > 4


def test_a_base_that_is_not_found_or_another_one_is_said(
    trained: tuple[Session, Path], tools: SimpleNamespace, tmp_path: Path
) -> None:
    _, file = trained
    with pytest.raises(ModelError, match="a LoRA of the model 'tiny_base', which is not found") as caught:
        load_one_step(file)
    assert caught.value.hint is not None
    assert "--model" in caught.value.hint
    with pytest.raises(ModelError, match="noise has 4 channels and cells of 8 pixels"):
        load_one_step(_with_facts(resolve_style("van-gogh").path, file, tmp_path), "mini", "cpu")


def test_a_base_with_other_weights_is_said(
    trained: tuple[Session, Path], tools: SimpleNamespace, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    file = trained[1]
    assert load_one_step(file, str(tools.tiny), "cpu").notes == ()
    shutil.copytree(tools.tiny, tmp_path / "other")
    network = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight * 1.2 for name, weight in load_file(network).items()}, network, {"format": "pt"})
    (note,) = load_one_step(file, str(tmp_path / "other"), "cpu").notes
    assert "it was trained on other weights than the model's, which differ by 20%" in note


def _with_facts(lora: Path, generator: Path, folder: Path) -> Path:
    """Return a file with the tensors of a LoRA and the facts of a generator."""
    from safetensors.torch import load_file, save_file

    from stylescore.generators.files import facts_metadata

    path = folder / f"other-{lora.name}"
    save_file(load_file(lora), path, facts_metadata(read_facts(generator)))
    return path


def test_a_training_goes_on_from_a_lora(
    trained: tuple[Session, Path], generator_request: Any, tools: SimpleNamespace, tmp_path: Path
) -> None:
    from stylescore.training.generator.start import add_settings

    session, file = trained
    given = add_settings({"name": "bands"}, file)
    assert {name: given[name] for name in ("network", "rank", "timestep", "noise")} == {
        "network": "lora",
        "rank": 2,
        "timestep": 399,
        "noise": True,
    }
    other = session.setup.kind.make()
    session.setup.kind.start(file, other)
    for ours, theirs in zip(other.parameters(), session.trainer.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ConfigError, match="adapts 48 layers, the generator of this model"):
        session.setup.kind.start(_with_facts(tools.tiny.parent / "style_lora_kohya.safetensors", file, tmp_path), other)


def test_wrong_shapes_are_refused(make: Make) -> None:
    generator, (photo, noise) = generator_of(make()), inputs()
    with pytest.raises(PictureError, match="the noise for photos"):
        generator(photo, noise[..., :-1])
    with pytest.raises(PictureError, match="not none"):
        generator(photo)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise": False}, "the network lora takes noise"),
        ({"width": 8}, "the network lora has no option 'width'"),
        ({"network": "mobile", "rank": 4}, "the network mobile has no option 'rank'"),
        ({"timestep": 1000}, "timestep must be"),
        ({"rank": 513}, "rank must be"),
    ],
)
def test_unusable_settings_are_refused(generator_request: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sessions.set_up(generator_request(**{**LORA, **given}))


def test_a_style_model_beside_the_lora_is_refused(generator_request: Any, tools: SimpleNamespace) -> None:
    request = generator_request(**LORA)
    run = replace(request.config.run, style_model=str(tools.tiny))
    with pytest.raises(ConfigError, match="cannot have a --style-model"):
        sessions.set_up(replace(request, config=replace(request.config, run=run)))


def test_the_presets_optimiser_is_the_loras_own(generator_request: Any) -> None:
    own, other = generator_request(**LORA).config.regression, generator_request().config.regression
    assert (own.optimiser, own.learning_rate) == ("adam", 3e-4)
    assert generator_request(**LORA, regression={"learning_rate": 0.5}).config.regression.learning_rate == 0.5
    assert (other.optimiser, other.learning_rate) == ("muon", 2e-3)


def test_the_program_applies_lists_inspects_and_stylizes_with_it(
    trained: tuple[Session, Path],
    program: Any,
    applied: Any,
    photos: Path,
    tools: SimpleNamespace,
    own_styles: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, file = trained
    photo, model, out = photos / "p0.png", str(tools.tiny), tools.out / "painted"
    code, err = applied(file, photo, "--model", model, "--out", out, "--seed", 3)
    assert code == 0, err
    picture = Image.open(out / "p0.png")
    assert picture.size == Image.open(photo).size
    assert "one step: a generator, evaluated once at timestep 399" in " ".join(program("inspect", file).out.split())
    own_styles.mkdir()
    (own_styles / "bands.safetensors").write_bytes(file.read_bytes())
    assert "a one-step generator, for apply" in program("styles").out
    code, err = applied("bands", photo, "--model", model, "--out", tools.out / "named", "--seed", 3)
    assert code == 0, err
    monkeypatch.chdir(tools.tiny.parent)  # where the base is found by the name in the file
    fast = program("stylize", photo, "--style", "bands", "--fast", "--output", tools.out, "--seed", 3)
    assert fast.code == 0, fast.err
    for folder in ("named", "bands"):
        assert (tools.out / folder / "p0.png").read_bytes() == (out / "p0.png").read_bytes()
    plain = program("stylize", photo, "--style", file, "--model", model, "--iterations", 1, "--output", tools.out)
    assert plain.code == 0, plain.err
    assert "it is a one-step generator's LoRA" in plain.err


def test_it_is_pushed_without_an_onnx_file_where_its_base_is_not_found(
    trained: tuple[Session, Path], tmp_path: Path
) -> None:
    from stylescore.cli.push import _files

    _, file = trained
    files = _files(file, None, "me/bands", tmp_path, quiet=True)
    assert list(files) == ["README.md", "bands.safetensors"]
    card = files["README.md"]
    assert isinstance(card, bytes)
    text = card.decode()
    assert '"lora"' in text.split("---")[1]
    assert "the denoising network of tiny_base" in " ".join(text.split())
    assert "| network | lora (rank 2, timestep 399) |" in text
    assert not file.with_suffix(".onnx").exists()


def test_what_cannot_be_done_with_it_is_said(
    trained: tuple[Session, Path], program: Any, applied: Any, photos: Path, tools: SimpleNamespace, capfd: Any
) -> None:
    from stylescore_apply.cli import exit_code

    _, file = trained
    error, hint = program("export", file).complaint
    assert "is a LoRA of the model 'tiny_base', which is not found by this name" in error
    assert "--model" in hint
    code, err = applied(file, photos / "p0.png")
    assert code == 2
    assert "which is not found by this name" in err
    capfd.readouterr()
    assert exit_code([str(file), str(photos / "p0.png"), "--out", str(tools.out)]) == 2
    assert f"{str(file)!r} is a LoRA of the model 'tiny_base', which runs with torch" in capfd.readouterr().err
    assert exit_code(["any.onnx", str(photos / "p0.png"), "--model", "mini"]) == 2
    assert "--model mini is for a generator that is a LoRA" in capfd.readouterr().err


def test_the_command_trains_it(program: Any, photos: Path, tools: SimpleNamespace) -> None:
    style = tools.tiny.parent / "style_lora_kohya.safetensors"
    quick = ("rank=2", "warmup=0", "held_out=2", "measure_every=0", "pairs.batch=2", "run.method.iterations=2")
    done = program(
        *("train-generator", photos, "--style", style, "--name", "bands", "--model", tools.tiny, "--network", "lora"),
        *("--output", tools.out, "--size", 64, "--pairs", 4, "--steps", 2, "--matching-steps", 1, "--batch", 2),
        *("--samples-every", 0, "--device", "cpu", "--json", "--quiet", *(f"--set={item}" for item in quick)),
    )
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert (document["network"], document["options"]) == ("lora", {"rank": 2, "timestep": 399})
    assert describe(document["generator"]).usable
