"""A ControlNet beside SDEdit: what it adds, which are refused, and that it changes the picture it holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image

from stylescore import Stylizer, read_photo
from stylescore.catalog.registry import ModelSource
from stylescore.config.execution import ExecutionConfig
from stylescore.diffusion.checkpoints.loading import load_components
from stylescore.diffusion.conditioning import Conditioning, Control, concatenate
from stylescore.diffusion.control import load_control
from stylescore.diffusion.execution.devices import DevicePlacement
from stylescore.diffusion.families.flux import FLUX
from stylescore.diffusion.families.sd import call
from stylescore.errors import ConfigError, ModelError
from stylescore.images.controls import control_picture

PARITY = Path(__file__).parent.parent / "data" / "parity"
TINY = str(PARITY / "tiny_base")
PHOTO = PARITY / "input_128x128.png"
QUICK: dict[str, Any] = {"model": TINY, "method": "sdedit", "iterations": 2, "size": 64, "strength": 0.5}


@pytest.fixture(scope="module")
def unet() -> Any:
    return UNet2DConditionModel.from_pretrained(PARITY / "tiny_base" / "unet").eval().requires_grad_(False)


def make_control(unet: Any, *, zero: bool) -> Any:
    """Return a ControlNet of the U-Net's sizes: as it begins its training, or one that adds something."""
    torch.manual_seed(0)
    control = ControlNetModel.from_unet(unet).eval().requires_grad_(False)
    if not zero:
        for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            torch.nn.init.normal_(layer.weight, std=0.3)
        torch.nn.init.normal_(control.controlnet_cond_embedding.conv_out.weight, std=0.3)
    return control


@pytest.fixture(scope="module")
def folder(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("control")
    make_control(unet, zero=False).save_pretrained(path)
    return path


@pytest.fixture
def inputs(unet: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    latents = torch.randn(3, unet.config.in_channels, 8, 8, generator=rng)
    tokens = torch.randn(3, 5, unet.config.cross_attention_dim, generator=rng)
    return latents, torch.tensor([10, 500, 900]), tokens, torch.rand(3, 3, 64, 64, generator=rng)


def test_an_untrained_one_adds_nothing(unet: Any, inputs: Any) -> None:
    latents, time, tokens, picture = inputs
    control = Control(make_control(unet, zero=True), picture)
    plain = call(unet, latents, time, Conditioning(tokens))
    assert torch.allclose(call(unet, latents, time, Conditioning(tokens, None, control)), plain, atol=1e-6)


def test_what_it_adds_is_the_libraries_own(unet: Any, inputs: Any) -> None:
    """The whole sum is written out: residuals times scale go to the skip connections and the middle block."""
    latents, time, tokens, picture = inputs
    network = make_control(unet, zero=False)
    found = call(unet, latents, time, Conditioning(tokens, None, Control(network, picture, 0.5)))
    one = network(latents, time, encoder_hidden_states=tokens, controlnet_cond=picture)
    down = [0.5 * residual for residual in one.down_block_res_samples]
    wanted = unet(
        latents,
        time,
        encoder_hidden_states=tokens,
        down_block_additional_residuals=down,
        mid_block_additional_residual=0.5 * one.mid_block_res_sample,
    ).sample
    assert torch.allclose(found, wanted, atol=1e-5)
    assert not torch.allclose(found, call(unet, latents, time, Conditioning(tokens)), atol=1e-3)


def test_rows_keep_their_pictures(unet: Any, inputs: Any) -> None:
    latents, time, tokens, picture = inputs
    control = Control(make_control(unet, zero=False), picture)
    every = Conditioning(tokens, None, control)
    together = call(unet, latents, time, every)
    parts = [every[n : n + 1] for n in range(3)]
    alone = torch.cat([call(unet, latents[n : n + 1], time[n : n + 1], part) for n, part in enumerate(parts)])
    assert torch.allclose(together, alone, atol=1e-5)
    again = concatenate(parts)
    assert again.control is not None
    assert torch.equal(again.control.picture, picture)
    selected = every.select([2, 0]).control
    assert selected is not None
    assert torch.equal(selected.picture, picture[[2, 0]])


def test_edges_are_where_the_brightness_jumps() -> None:
    photo = Image.new("RGB", (40, 24))
    photo.paste((255, 255, 255), (20, 0, 40, 24))
    edges = np.asarray(control_picture(photo, "edges"))
    assert edges.shape == (24, 40, 3)
    columns = sorted(set(np.nonzero(edges[..., 0])[1].tolist()))
    assert columns
    assert set(columns) <= {18, 19, 20, 21}
    assert control_picture(photo, "tile").tobytes() == photo.tobytes()


@pytest.fixture(scope="module")
def pictures(folder: Path) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        style = PARITY / "style_lora_kohya.safetensors"
        with Stylizer.load(style, **QUICK, **options) as stylizer:
            return np.asarray(stylizer.stylize(read_photo(PHOTO), progress=False).model_picture, int)

    return make


@pytest.mark.parametrize("kind", ["edges", "tile"])
def test_it_changes_sdedit_and_scale_0_does_not(pictures: Callable[..., Any], folder: Path, kind: str) -> None:
    plain = pictures()
    held = pictures(control=kind, control_model=folder)
    without = pictures(control=kind, control_model=folder, control_scale=0.0)
    assert np.abs(without - plain).max() <= 1
    assert np.abs(held - plain).max() > 1


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    sd = load_components(
        PARITY / "tiny_base", dtype=torch.float32, places=DevicePlacement.of_run(torch.device("cpu"), ExecutionConfig())
    )
    source = ModelSource(name="control", kind="folder", location=folder)
    with pytest.raises(ModelError, match=r"control is for Stable Diffusion 1\.x, 2\.x and SDXL, the model is FLUX"):
        load_control("edges", source, replace(sd, family=FLUX), torch.device("cpu"))

    config = json.loads((folder / "config.json").read_text("utf-8"))
    other = ControlNetModel.from_config({**config, "cross_attention_dim": 40})
    other.save_pretrained(tmp_path / "wider")
    wider = ModelSource(name="wider", kind="folder", location=tmp_path / "wider")
    with pytest.raises(ModelError, match="does not fit the model: it has 40 text width"):
        load_control("edges", wider, sd, torch.device("cpu"))
    with pytest.raises(ModelError, match="there is no usual ControlNet for tile on 'tiny_base'"):
        load_control("tile", None, sd, torch.device("cpu"))
    (tmp_path / "empty").mkdir()
    empty = ModelSource(name="empty", kind="folder", location=tmp_path / "empty")
    with pytest.raises(ModelError, match=r"is no ControlNet: it has no config\.json"):
        load_control("edges", empty, sd, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"control": "edges", "method": "sms", "strength": None},
            "control is of the methods sdedit and instantstyle, not of sms",
        ),
        ({"control_scale": 0.5}, "control_model and control_scale need control"),
        ({"control": "lines"}, "control must be one of edges, tile, not 'lines'"),
        ({"control": "edges", "control_scale": 5.0}, "control_scale must be at most 4, not 5.0"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Stylizer.load(PARITY / "style_lora_kohya.safetensors", **{**QUICK, **options})
    assert str(caught.value) == message


def test_tiles_are_refused(folder: Path) -> None:
    given = {**QUICK, "size": 128, "tile": 64, "control": "tile", "control_model": folder}
    stylizer = Stylizer.load(PARITY / "style_lora_kohya.safetensors", **given)
    with pytest.raises(ConfigError, match="control needs the picture whole, not in tiles of"):
        stylizer.stylize(read_photo(PHOTO), progress=False)
