"""Generators on the hub: what is uploaded, what the model card says, and that only a generator's file is downloaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from jaxtyping import config
from PIL import Image
from tests.apply.tiny import build
from tests.generators.hub import Hub, head
from tests.generators.test_export_lora import FACTS as LORA_FACTS
from tests.generators.test_export_lora import write_generator

from stylescore.assembly import one_step
from stylescore.catalog import hub
from stylescore.cli import apply as command
from stylescore.cli.main import exit_code
from stylescore.errors import ModelError
from stylescore.generators.card import model_card
from stylescore.generators.files import GeneratorFacts, save_generator
from stylescore.generators.kinds import make_generator

FACTS = GeneratorFacts(
    network="mobile",
    options={"width": 4, "blocks": 1},
    style="oil | paint\ning",
    trigger="an oil painting",
    base="mini",
    size=256,
    noise_channels=2,
    licence="CC0-1.0",
    training={"pairs": 120, "styles": ["oil"], "hashes": {"photos": "abc"}},
)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    found = Hub(folder=tmp_path)
    found.replace_client(monkeypatch)
    monkeypatch.setattr(config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def run_folder(client: Hub, tmp_path: Path) -> Path:
    """Return a training's folder with a generator, and a newer ONNX file beside it."""
    (tmp_path / "run").mkdir()
    save_generator(tmp_path / "run" / "oil.safetensors", make_generator("mobile", FACTS.options, 2), FACTS)
    onnx.save(build(), tmp_path / "run" / "oil.onnx")
    return tmp_path / "run"


def test_one_commit_has_the_generator_its_onnx_file_and_the_card(
    client: Hub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["push", "run", "me/oil", "--private", "--message", "first"]) == 0
    assert capsys.readouterr().out == "https://hub.example/me/oil\n"
    assert client.calls == [
        ("create_repo", "me/oil", {"private": True, "exist_ok": True}),
        ("create_commit", "me/oil", {"commit_message": "first"}),
    ]
    assert list(client.uploaded) == ["README.md", "oil.onnx", "oil.safetensors"]
    assert client.uploaded["README.md"] == model_card(FACTS, "me/oil").encode()
    assert Path(client.uploaded["oil.onnx"]).read_bytes() == (run_folder / "oil.onnx").read_bytes()
    assert Path(client.uploaded["oil.safetensors"]).read_bytes() == (run_folder / "oil.safetensors").read_bytes()


def test_the_card_tells_the_hub_and_people_what_the_file_states() -> None:
    card = model_card(FACTS, "me/oil")
    assert head(card) == {
        "license": "cc0-1.0",
        "library_name": "stylescore",
        "pipeline_tag": "image-to-image",
        "tags": ["stylescore", "image-to-image", "style-transfer", "onnx"],
    }
    assert "# oil \\| paint ing\n" in card
    assert "stylescore apply me/oil photo.jpg" in card
    for row in (
        "network | mobile (blocks 1, width 4)",
        "prompt of the style | an oil painting",
        "training: pairs | 120",
    ):
        assert f"| {row} |" in card
    assert "abc" not in card


def push_lora(folder: Path, base: str, *options: str) -> int:
    """Write a LoRA's generator into a new folder, and push it with the options."""
    folder.mkdir()
    write_generator(folder / "oil.safetensors", replace(LORA_FACTS, base=base))
    return exit_code(["push", str(folder), "me/oil", *options])


def test_a_lora_without_its_base_model_is_uploaded_alone_with_a_note(
    client: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push_lora(tmp_path / "run", "unknown") == 0
    assert list(client.uploaded) == ["README.md", "oil.safetensors"]
    assert "note: uploaded without an ONNX file: the generator" in capsys.readouterr().err
    card = client.uploaded["README.md"].decode()
    assert head(card)["tags"][-1] == "lora"
    assert "names the base model where it is not found as unknown" in card
    assert push_lora(tmp_path / "other", "unknown", "--model", "nowhere") == 2
    assert "there is no model 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [("MIT", {"license": "mit"}), ("my: own", {"license": "other", "license_name": "my: own"}), ("", {})],
)
def test_the_licence_is_one_that_the_hub_knows_or_another_by_its_name(licence: str, wanted: dict[str, str]) -> None:
    found = head(model_card(GeneratorFacts(network="mobile", style="ink", licence=licence), "me/ink"))
    assert {name: value for name, value in found.items() if name.startswith("license")} == wanted


def test_a_refusal_of_the_hub_is_one_line(
    client: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("401 Client Error\n\nmore")

    monkeypatch.setattr(client, "create_commit", refuse)
    assert exit_code(["push", "run", "me/oil", "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: 'me/oil' cannot be uploaded: 401 Client Error more"
    assert "hf auth login" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "me/.."], "a repository on the hub has the form owner/name, not 'me/..'"),
        (["run", "me/a--b"], "a repository on the hub has the form owner/name, not 'me/a--b'"),
        (["run", "oil"], "a repository on the hub has the form owner/name, not 'oil'"),
        (["run", "a/b/c"], "a repository on the hub has the form owner/name, not 'a/b/c'"),
        (["none.safetensors", "me/oil"], "there is no file 'none.safetensors'"),
        (["run", "me/oil", "--message", " "], "--message must not be empty"),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    client: Hub, run_folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["push", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not client.calls


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "oil.onnx", "oil.safetensors"], "oil.onnx"),
        (["oil.safetensors", "model.bin", "evil.pkl"], "oil.safetensors"),
    ],
)
def test_one_file_of_a_generator_is_downloaded_and_nothing_else(client: Hub, names: list[str], chosen: str) -> None:
    client.names = names
    assert hub.download_generator("me/oil", None).name == chosen
    assert [call for call in client.calls if call[0] == "download"] == [("download", "me/oil", {"name": chosen})]


@pytest.mark.parametrize(
    ("names", "file", "message"),
    [
        (["a.onnx", "b.onnx"], None, "'me/oil' has 2 files of generators, exactly one is needed"),
        (["model.bin", "weights.pt"], None, "'me/oil' has 0 files of generators"),
        (["weights.pt"], "weights.pt", "a generator is loaded from .onnx or .safetensors, not from 'weights.pt'"),
    ],
)
def test_files_of_other_kinds_are_never_downloaded(
    client: Hub, names: list[str], file: str | None, message: str
) -> None:
    client.names = names
    with pytest.raises(ModelError, match=message):
        hub.download_generator("me/oil", file)
    assert not [call for call in client.calls if call[0] == "download"]


@pytest.mark.parametrize("name", ["me/oil", "me/oil:oil.onnx"])
def test_a_generator_of_the_hub_is_applied(client: Hub, run_folder: Path, tmp_path: Path, name: str) -> None:
    client.names, client.folder = ["README.md", "oil.onnx"], run_folder
    Image.new("RGB", (40, 24), "red").save("a.png")
    assert exit_code(["apply", name, "a.png"]) == 0
    assert exit_code(["apply", "run/oil.onnx", "a.png", "--out", "local"]) == 0
    assert Path("out/oil/a.png").read_bytes() == Path("local/a.png").read_bytes()


def test_a_safetensors_file_of_the_hub_is_exported(
    client: Hub, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.folder = run_folder
    exported: list[Path] = []
    monkeypatch.setattr(one_step, "exported", lambda file, note: exported.append(file) or run_folder / "oil.onnx")
    network = command.open_network("me/oil:oil.safetensors", 1)
    assert exported == [run_folder / "oil.safetensors"]
    assert network(np.zeros((1, 3, 16, 16), "f4"), np.zeros((1, 2, 2, 2), "f4")).shape == (1, 3, 16, 16)


def test_what_is_on_this_machine_is_not_looked_for_on_the_hub(client: Hub, run_folder: Path) -> None:
    (run_folder / "net").mkdir()
    shutil.copy(run_folder / "oil.onnx", run_folder / "net")
    assert command.open_network("run/net", 1).facts.style == "blur"
    with pytest.raises(ModelError, match="there is no network"):
        command.open_network("run/none.onnx", 1)
    assert not client.calls
