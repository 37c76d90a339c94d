"""Going on: from the weights of a LoRA, for more steps than planned, and from a single picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stylescore.errors import ConfigError, ModelError, StyleError
from stylescore.training.config import B_LORA, resolve
from stylescore.training.lora import add_adapter, target_layers
from stylescore.training.start import find_start, read_start

Make = Callable[..., Any]
Program = Callable[..., Any]
CONSTANT = ("--set", "rate_schedule=constant")


def finish(session: Any) -> Path:
    *_, written = session.run()
    return written.style


def output_of(unet: Any) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    z, context = torch.randn(1, 4, 8, 8, generator=rng), torch.randn(1, 77, 32, generator=rng)
    with torch.no_grad():
        return unet(z, torch.tensor([400]), encoder_hidden_states=context).sample


# from a LoRA


@pytest.mark.parametrize("targets", ["attention", "attention+conv"])
def test_a_training_begins_with_the_weights_rank_and_layers_of_a_lora(
    session: Make, tmp_path: Path, targets: str
) -> None:
    first = session(targets=targets, rank=3, alpha=1.5, learning_rate=1e-2, file_dtype="float32", trigger="inky discs")
    file = shutil.copy(finish(first), tmp_path / "first.safetensors")
    second = session(name="more", origin=Path(file), rank=None, learning_rate=1e-2)
    config = second.base.config
    assert (config.rank, config.alpha, config.targets, config.trigger) == (3, 1.5, targets, "inky discs")
    torch.testing.assert_close(output_of(second.trainer.unet), output_of(first.trainer.unet), rtol=0, atol=1e-6)
    before = {name: weight.detach().clone() for name, weight in second.trainer.parameters.items()}
    style = finish(second)
    assert any(
        float((before[name] - weight.detach()).abs().max()) > 0 for name, weight in second.trainer.parameters.items()
    )
    assert load_file(style).keys() == load_file(file).keys()
    with safe_open(style, "pt") as opened:
        assert len(opened.metadata()["stylescore.start_sha256"]) == 64


def test_layers_of_another_program_are_kept(session: Make, tmp_path: Path, tiny_unet: Any) -> None:
    """Some tools adapt queries and values only."""
    layers = [name for name in target_layers(tiny_unet(), "attention") if name.endswith((".to_q", ".to_v"))]
    shapes = {name: tiny_unet().get_submodule(name).weight.shape for name in layers}
    rng = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        tensors[f"unet.{name}.lora_A.weight"] = torch.randn(2, inputs, generator=rng)
        tensors[f"unet.{name}.lora_B.weight"] = torch.randn(outputs, 2, generator=rng)
    file = tmp_path / "theirs.safetensors"
    save_file(tensors, file)
    made = session(origin=file, rank=None)
    assert (made.base.config.targets, made.base.config.rank) == ("from", 2)
    assert {name.partition(".lora_")[0] for name in made.trainer.parameters} == set(layers)
    assert len(load_file(finish(made))) == 3 * len(layers)


def test_a_training_that_went_on_is_resumed_without_the_first_file(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_style("--rank", 3).code == 0
    assert train_style("--from", "discs", name="more").code == 0
    expected = (own_styles / "more.safetensors").read_bytes()
    (own_styles / "more.safetensors").unlink()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        assert train_style("--from", "discs", name="more").code == 130
    (own_styles / "discs.safetensors").unlink()
    resumed = program("train-style", "--quiet", "--resume", tools.out / "more-2")
    assert resumed.code == 0, resumed.err
    assert (own_styles / "more.safetensors").read_bytes() == expected


def interrupt_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Send the signal of Ctrl-C when so many steps are done."""
    import os
    import signal

    from stylescore.training import session

    original = session.step_row

    def step_row(step: Any) -> Any:
        if step.index + 1 == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(step)

    patch.setattr(session, "step_row", step_row)


def test_a_style_is_found_by_its_name_its_file_and_the_folder_of_its_training(
    train_style: Program, tools: SimpleNamespace, own_styles: Path
) -> None:
    train_style()
    style = own_styles / "discs.safetensors"
    assert find_start("discs") == find_start(str(style)) == find_start(str(tools.out / "discs")) == style
    style.unlink()
    with pytest.raises(StyleError, match="of the training is gone"):
        find_start(str(tools.out / "discs"))
    (tools.out / "discs" / "result.json").unlink()
    with pytest.raises(ConfigError, match="has not written its style"):
        find_start(str(tools.out / "discs"))


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (("--rank", 8), "--rank 8 contradicts '{file}', which has rank 3"),
        (("--alpha", 8), "--alpha 8.0 contradicts '{file}', which has alpha 3"),
        (
            ("--targets", "attention+conv"),
            "--targets attention+conv contradicts the LoRA that the training goes on from",
        ),
    ],
)
def test_what_contradicts_the_lora_is_refused(
    train_style: Program, own_styles: Path, tools: SimpleNamespace, option: tuple[Any, ...], error: str
) -> None:
    train_style("--rank", 3, "--targets", "attention")
    told, hint = train_style("--from", "discs", *option, name="more").complaint
    assert told.startswith(error.format(file=own_styles / "discs.safetensors"))
    assert hint == f"leave {option[0]} out"
    assert not (tools.out / "more").exists()


def test_targets_from_need_a_lora(train_style: Program) -> None:
    assert train_style("--targets", "from").complaint[0] == "targets from needs a LoRA to go on from"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("text", "it has a part for text_encoder, and only U-Nets are trained"),
        ("ranks", "its layers differ: rank 2 with alpha 2, rank 4 with alpha 4"),
        ("dora", "it is a DoRA on LoRA, and only products of two matrices are trained"),
    ],
)
def test_a_lora_that_cannot_be_trained_on_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{stem}.lora_down.weight": torch.randn(4, 8), f"{stem}.lora_up.weight": torch.randn(8, 4)}
    if change == "text":
        other = "lora_te_text_model_encoder_layers_0_mlp_fc1"
        tensors |= {f"{other}.lora_down.weight": torch.randn(4, 8), f"{other}.lora_up.weight": torch.randn(8, 4)}
    if change == "ranks":
        other = stem.replace("_in", "_out")
        tensors |= {f"{other}.lora_down.weight": torch.randn(2, 8), f"{other}.lora_up.weight": torch.randn(8, 2)}
    if change == "dora":
        tensors[f"{stem}.dora_scale"] = torch.ones(8, 1)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(StyleError) as caught:
        read_start(tmp_path / "a.safetensors")
    assert reason in str(caught.value)
    assert caught.value.hint


def test_a_lora_of_another_model_is_refused(train_style: Program, tmp_path: Path, tools: SimpleNamespace) -> None:
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{stem}.lora_down.weight": torch.randn(4, 8), f"{stem}.lora_up.weight": torch.randn(8, 4)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert "does not fit the model" in train_style("--from", tmp_path / "a.safetensors").complaint[0]
    assert not tools.out.exists()


def test_one_line_says_what_is_taken(program: Program, train_style: Program, pictures: Path, tools: Any) -> None:
    train_style("--rank", 3, "--trigger", "inky discs")
    settings = ("--steps", 1, "--resolution", 64, "--batch", 1, "--device", "cpu", "--output", tools.out)
    done = program(
        "train-style", pictures, "--name", "more", "--model", tools.tiny, "--from", tools.out / "discs", *settings
    )
    assert done.code == 0, done.err
    assert "goes on from discs.safetensors: its weights, rank 3, alpha 3, " in done.err
    assert "trigger words 'inky discs'; the optimiser starts anew" in done.err
    assert "captions: 4 from .txt files" in done.err


# for more steps


@pytest.mark.parametrize("stopped", [True, False])
def test_a_longer_training_at_a_constant_rate_is_the_one_planned_so(
    train_style: Program,
    program: Program,
    tools: SimpleNamespace,
    own_styles: Path,
    monkeypatch: pytest.MonkeyPatch,
    stopped: bool,
) -> None:
    style = own_styles / "discs.safetensors"
    assert train_style("--steps", 6, *CONSTANT).code == 0
    expected, lines = style.read_bytes(), (tools.out / "discs" / "steps.jsonl").read_bytes()
    style.unlink()
    with monkeypatch.context() as patch:
        if stopped:
            interrupt_after(patch, 2)
        assert train_style("--steps", 3, *CONSTANT).code == (130 if stopped else 0)
    folder = tools.out / "discs-2"
    longer = program("train-style", "--quiet", "--resume", folder, "--steps", 6)
    assert longer.code == 0, longer.err
    assert style.read_bytes() == expected
    assert (folder / "steps.jsonl").read_bytes() == lines
    text = (folder / "config.toml").read_text("utf-8")
    assert "steps = 6" in text
    assert "extended = [\n    3,\n]" in text
    assert "is finished" in program("train-style", "--quiet", "--resume", folder).complaint[0]


def test_a_training_is_made_longer_again_and_again_also_when_killed(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style, folder = own_styles / "discs.safetensors", tools.out / "discs-2"
    train_style("--steps", 7, *CONSTANT)
    expected = style.read_bytes()
    style.unlink()
    train_style("--steps", 2, *CONSTANT)
    assert program("train-style", "--quiet", "--resume", folder, "--steps", 3).code == 0
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        assert program("train-style", "--quiet", "--resume", folder, "--steps", 7).code == 130
    assert program("train-style", "--quiet", "--resume", folder).code == 0
    assert style.read_bytes() == expected


@pytest.mark.parametrize("place", ["replace_record", "write_lora", "keep_state"])
def test_a_longer_training_that_is_killed_between_two_files_ends(
    train_style: Program,
    program: Program,
    tools: SimpleNamespace,
    own_styles: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    from stylescore.training import session
    from stylescore.training.folder import TrainingFolder

    style, folder = own_styles / "discs.safetensors", tools.out / "discs-2"
    train_style("--steps", 4, *CONSTANT)
    expected = style.read_bytes()
    style.unlink()
    train_style("--steps", 2, *CONSTANT)
    owner: Any = TrainingFolder if place == "keep_state" else session
    original = getattr(owner, place)

    def killed(*arguments: Any) -> None:
        if place == "replace_record":
            original(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed)
        assert program("train-style", "--quiet", "--resume", folder, "--steps", 4).code == 130
    resumed = program("train-style", "--quiet", "--resume", folder)
    assert resumed.code == 0, resumed.err
    assert style.read_bytes() == expected


def test_a_cosine_is_drawn_anew_and_that_is_said(
    train_style: Program, program: Program, tools: SimpleNamespace, own_styles: Path
) -> None:
    train_style("--steps", 3)
    done = program("train-style", "--resume", tools.out / "discs", "--steps", 6)
    assert done.code == 0
    assert (
        "6 steps instead of 3; the cosine now ends at step 6: the rate goes up again, from 0.00025 to 0.00075"
        in done.err
    )
    rates = [row["learning_rate"] for row in tools.rows(tools.out / "discs")]
    assert rates[2] == pytest.approx(0.00025)
    assert rates[3] == pytest.approx(0.0005)


def test_no_line_is_drawn_at_a_constant_rate(train_style: Program, program: Program, tools: SimpleNamespace) -> None:
    train_style("--steps", 2, *CONSTANT)
    done = program("train-style", "--resume", tools.out / "discs", "--steps", 3)
    assert "3 steps instead of 2; the rate is constant, so this is the training that was planned for 3" in done.err


@pytest.mark.parametrize("steps", [-1, 0, 2, 3])
def test_a_training_can_only_be_made_longer(
    train_style: Program, program: Program, tools: SimpleNamespace, steps: int
) -> None:
    train_style()
    before = (tools.out / "discs" / "config.toml").read_bytes()
    error, hint = program("train-style", "--resume", tools.out / "discs", "--steps", steps).complaint
    assert error == f"--steps must be more than the 3 steps that the training was planned for, not {steps}"
    assert hint == "leave --steps out to resume it as planned"
    assert "must be at most" in program("train-style", "--resume", tools.out / "discs", "--steps", 10**9).complaint[0]
    assert (tools.out / "discs" / "config.toml").read_bytes() == before


def test_without_its_final_state_a_finished_training_is_not_made_longer(
    train_style: Program, program: Program, tools: SimpleNamespace
) -> None:
    train_style()
    (tools.out / "discs" / "final-state.safetensors").unlink()
    error, hint = program("train-style", "--resume", tools.out / "discs", "--steps", 5).complaint
    assert error.endswith("cannot be made longer: its final state is gone")
    assert hint == f"train on from its weights: --from {tools.out / 'discs'}"


# from one picture


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return one picture, larger than the resolution."""
    path = tmp_path / "one.png"
    Image.effect_mandelbrot((200, 150), (-2, -1, 1, 1), 40).convert("RGB").save(path)
    return path


def test_a_style_comes_from_one_picture(program: Program, picture: Path, tools: SimpleNamespace) -> None:
    settings = ("--steps", 2, "--resolution", 64, "--batch", 2, "--device", "cpu", "--output", tools.out)
    done = program("train-style", picture, "--name", "one", "--model", tools.tiny, *settings)
    assert done.code == 0, done.err
    assert "one picture: expect its colours and texture, and some of its motifs too" in done.err
    config = (tools.out / "one" / "config.toml").read_text("utf-8")
    assert 'crop = "scales"' in config
    assert "flip = true" in config


def test_one_picture_is_cut_at_several_scales_and_mirrored(session: Make, picture: Path) -> None:
    made = session(folder=picture, steps=None)
    assert (made.base.config.crop, made.base.config.flip, made.base.config.steps) == ("scales", True, 500)
    views = made.trainer.cache.examples[0].views
    assert [tuple(view.mean.shape[-2:]) for view in views] == 2 * [(8, 11), (12, 16), (16, 21)]
    torch.testing.assert_close(views[0].mean.shape, views[3].mean.shape)
    drawn = {tuple(made.trainer.cache.draw(0, torch.Generator().manual_seed(n))[0].shape) for n in range(20)}
    assert drawn == {(1, 4, 8, 8)}


def test_a_small_picture_is_not_enlarged_for_more_scales(session: Make, tmp_path: Path) -> None:
    Image.effect_mandelbrot((70, 70), (-2, -1, 1, 1), 40).convert("RGB").save(tmp_path / "small.png")
    assert len(session(folder=tmp_path / "small.png").trainer.cache.examples[0].views) == 2


def test_a_file_that_is_no_picture_is_refused(train_style: Program, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    assert "is a text file, not a picture" in train_style(folder=tmp_path / "a.txt").complaint[0]


def sdxl_unet() -> Any:
    """Return a tiny U-Net with the blocks of SDXL."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(16, 16, 32),
        layers_per_block=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 2, 4),
        use_linear_projection=True,
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=40,
        sample_size=128,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=12 + 6 * 8,
    )


def test_b_lora_adapts_the_attention_of_two_blocks(tiny_unet: Any) -> None:
    unet = sdxl_unet()
    config = resolve({"name": "a", **B_LORA, "rank": 2}, "sdxl")
    parameters = add_adapter(unet, config)
    layers = {name.partition(".lora_")[0] for name in parameters}
    assert {name.split(".transformer")[0] for name in layers} == {
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    }
    assert len(layers) == 2 * 2 * 2 * 4  # blocks, transformer layers, attentions, projections
    with pytest.raises(ModelError, match="targets b-lora needs the blocks"):
        target_layers(tiny_unet(), "b-lora")


def test_one_picture_trains_b_lora_on_sdxl_and_diffusers_loads_the_style_block(
    session: Make, picture: Path, tmp_path: Path, sdxl_folder: Path
) -> None:
    from diffusers import StableDiffusionXLPipeline

    made = session(folder=picture, model=str(sdxl_folder), rank=None, steps=2, learning_rate=1e-2, batch=None)
    config = made.base.config
    assert (config.targets, config.rank, config.rate_schedule, config.loss) == ("b-lora", 64, "constant", "plain")
    assert {name.split(".transformer")[0] for name in made.trainer.parameters} == {
        *("up_blocks.0.attentions.0", "up_blocks.0.attentions.1")
    }
    file = finish(made)
    tensors = load_file(file)
    assert all(name.startswith("lora_unet_up_blocks_0_attentions_1_transformer_blocks_") for name in tensors)
    assert len(tensors) == 3 * 2 * 2 * 4
    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder, local_files_only=True)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, local_files_only=True)
    changed = [name for name, module in pipeline.unet.named_modules() if name.endswith("lora_B.default_0")]
    assert len(changed) == 2 * 2 * 4
    assert all(name.startswith("up_blocks.0.attentions.1.") for name in changed)
    again = session(folder=picture, name="more", model=str(sdxl_folder), origin=file, rank=None, steps=1)
    assert again.base.config.targets == "b-lora"
    assert load_file(finish(again)).keys() == tensors.keys()


@pytest.fixture
def sdxl_folder(tmp_path: Path) -> Path:
    """Return a tiny model of SDXL's shape, in diffusers layout."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(Path(__file__).parents[1] / "data" / "parity" / "tiny_base" / "tokenizer")

    def text(width: int, projection: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=projection,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text(16, 16)),
        text_encoder_2=CLIPTextModelWithProjection(text(24, 12)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=sdxl_unet(),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    pipeline.save_pretrained(tmp_path / "sdxl")
    return tmp_path / "sdxl"


def test_the_record_has_all_that_a_training_began_with(train_style: Program, tools: SimpleNamespace) -> None:
    train_style()
    train_style("--from", "discs", name="more")
    result = json.loads((tools.out / "more" / "result.json").read_text())
    assert result["style"].endswith("more.safetensors")
    assert (tools.out / "more" / "start.safetensors").is_file()
    assert 'start = "/' in (tools.out / "more" / "config.toml").read_text("utf-8")
