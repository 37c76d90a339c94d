"""`stylescore tune` on the command line, with the tiny model and random weights of the distance."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylescore.catalog import places
from stylescore.cli.main import exit_code
from stylescore.metrics.perceptual import PUBLISHED_NAMES, PerceptualDistance

PARITY = Path(__file__).parent.parent / "data" / "parity"
MODEL = ("--model", str(PARITY / "tiny_base"), "--style", str(PARITY / "style_lora_kohya.safetensors"))
QUICK = ("--iterations", "2", "--set", "optimiser.warmup=0", "--device", "cpu", "--trials", "3", "--size", "64")


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "find_spec", lambda _: None)
    with Image.open(PARITY / "input_128x128.png") as picture:
        picture.convert("RGB").resize((96, 64)).save("cat.png")
    rng = torch.Generator().manual_seed(1)
    state = {
        PUBLISHED_NAMES[name]: tensor if "kernel" in name else 0.05 * torch.randn(tensor.shape, generator=rng).abs()
        for name, tensor in PerceptualDistance().state_dict().items()
    }
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, "distance.safetensors")
    return Path("cat.png")


def test_the_picture_is_made_with_the_knob_that_was_found(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--distance", "0.2", "--weights", "st-lpips=distance.safetensors", *MODEL, *QUICK)
    assert exit_code(["tune", str(photo), *given, "--search-only"]) == 0
    out, err = capsys.readouterr()
    content = float(out)
    assert "content 0: distance" in err
    assert exit_code(["tune", str(photo), *given, "--quiet"]) == 0
    picture = Path(capsys.readouterr().out.strip())
    record = tomllib.loads((picture.parent / "config.toml").read_text(encoding="utf-8"))
    assert record["run"]["content"] == content
    assert record["run"]["method"]["iterations"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "tune needs a PHOTO"),
        (("cat.png",), "tune needs a --distance"),
        (("cat.png", "--distance", "0.3"), "tune needs a --style"),
        (("cat.png", "--distance", "0.3", *MODEL, "--metric", "ssim"), "there is no distance 'ssim'"),
        (
            ("cat.png", "--distance", "0.3", *MODEL, "--weights", "alexnet=distance.safetensors"),
            "--metric st-lpips has no weights called 'alexnet'",
        ),
        (("cat.png", "--distance", "0.3", *MODEL), "no weights of shift-tolerant LPIPS"),
    ],
)
def test_refusals(photo: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    assert exit_code(["tune", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"error: {message}" in err
    assert not Path("out").exists()


def test_a_distance_out_of_range_is_refused(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--distance", "-1", "--weights", "st-lpips=distance.safetensors", *MODEL, *QUICK)
    assert exit_code(["tune", str(photo), *given]) == 2
    assert "error: --distance must be above 0 and below 10, not -1" in capsys.readouterr().err
