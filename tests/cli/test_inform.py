"""`styles`, `inspect` and `doctor`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylescore import __version__
from stylescore.cli.inform import format_duration, format_report, format_verdict

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def save_diffusers(path: Path) -> None:
    save_file(
        {
            f"unet.{LAYER}.lora.down.weight": torch.ones(3, 24),
            f"unet.{LAYER}.lora.up.weight": torch.ones(24, 3),
        },
        path,
    )


def save_peft(path: Path) -> None:
    save_file(
        {
            f"base_model.model.unet.{LAYER}.lora_A.weight": torch.ones(2, 24),
            f"base_model.model.unet.{LAYER}.lora_B.weight": torch.ones(24, 2),
        },
        path,
    )


def save_loha(path: Path) -> None:
    stem = f"lora_unet_{LAYER.replace('.', '_')}"
    parts = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    save_file({f"{stem}.{part}": torch.ones(4, 4) for part in parts}, path)


class TestStyles:
    def test_own_styles_are_listed_with_what_they_tell(
        self, program: Callable[..., Any], own_styles: Path, style: Path
    ) -> None:
        metadata = {"modelspec.trigger_phrase": "in thick oil", "ss_base_model_version": "sd_v1"}
        save_file(load_file(style), own_styles / "oil.safetensors", metadata)
        shutil.copy(style, own_styles / "plain.safetensors")
        (own_styles / "broken.safetensors").write_bytes(b"nothing")
        (own_styles / "notes.txt").write_text("not a style", encoding="utf-8")

        outcome = program("styles", "--json")
        listed = json.loads(outcome.out)
        own = [entry for entry in listed["styles"] if not entry["bundled"]]

        assert outcome.code == 0
        assert outcome.err == ""
        assert listed["folder"] == str(own_styles)
        assert [entry["name"] for entry in own] == ["oil", "plain"]
        assert own[0] == {
            "name": "oil",
            "path": str(own_styles / "oil.safetensors"),
            "bundled": False,
            "trigger": "in thick oil",
            "base": "sd_v1",
            "generator": None,
            "mobile": None,
            "is_generator": False,
        }

        lines = program("styles").out.splitlines()
        (oil,) = [line for line in lines if line.startswith("oil ")]
        assert oil.split(maxsplit=2) == ["oil", "yours", "for sd_v1, trigger words 'in thick oil'"]

    def test_an_empty_folder_is_named_on_stderr(self, program: Callable[..., Any], own_styles: Path) -> None:
        outcome = program("styles")

        assert outcome.code == 0
        assert str(own_styles) in outcome.err
        assert str(own_styles) not in outcome.out


class TestInspect:
    def test_a_kohya_file(self, program: Callable[..., Any], style: Path) -> None:
        outcome = program("inspect", style, "--json")
        report = json.loads(outcome.out)

        assert outcome.code == 0
        assert outcome.err == ""
        assert report["format"] == "kohya"
        assert report["usable"] is True
        assert report["reason"] is None
        assert report["ranks"] == [4]
        assert report["unet"]["linear"] > 0
        assert report["text_encoder"]["linear"] > 0
        assert report["sha256"] == hashlib.sha256(style.read_bytes()).hexdigest()

    @pytest.mark.parametrize(("save", "kind"), [(save_diffusers, "diffusers"), (save_peft, "peft")])
    def test_other_spellings(
        self, save: Callable[[Path], None], kind: str, program: Callable[..., Any], tmp_path: Path
    ) -> None:
        save(tmp_path / "style.safetensors")

        report = json.loads(program("inspect", tmp_path / "style.safetensors", "--json").out)

        assert (report["format"], report["usable"]) == (kind, True)
        assert report["unet"] == {"linear": 1, "conv": 0, "norm": 0, "bias": 0}

    def test_a_loha_is_described(self, program: Callable[..., Any], tmp_path: Path) -> None:
        save_loha(tmp_path / "loha.safetensors")

        outcome = program("inspect", tmp_path / "loha.safetensors")
        facts = dict(line.split(":", 1) for line in outcome.out.splitlines())

        assert outcome.code == 0
        assert (facts["format"].strip(), facts["kind"].strip()) == ("kohya", "LoHa")
        assert facts["usable"].strip() == "yes"

    def test_an_oft_is_described(self, program: Callable[..., Any], tmp_path: Path) -> None:
        save_file({"lora_unet_mid_block.oft_blocks": torch.ones(2, 2, 2)}, tmp_path / "oft.safetensors")

        outcome = program("inspect", tmp_path / "oft.safetensors")
        facts = dict(line.split(":", 1) for line in outcome.out.splitlines())

        assert outcome.code == 0
        assert (facts["kind"].strip(), facts["usable"].strip()) == ("OFT", "yes")

    def test_an_unsupported_kind_is_described_and_not_usable(self, program: Callable[..., Any], tmp_path: Path) -> None:
        save_file({"base_model.model.mid.lora_E": torch.ones(2, 1)}, tmp_path / "ada.safetensors")

        outcome = program("inspect", tmp_path / "ada.safetensors")
        facts = dict(line.split(":", 1) for line in outcome.out.splitlines())

        assert outcome.code == 2
        assert facts["kind"].strip() == "AdaLoRA"
        assert facts["usable"].strip() == "no"
        assert "is an AdaLoRA file" in facts["reason"]

    def test_a_truncated_file_is_described_and_not_usable(
        self, program: Callable[..., Any], tmp_path: Path, style: Path
    ) -> None:
        (tmp_path / "half.safetensors").write_bytes(style.read_bytes()[:20_000])

        report = json.loads(program("inspect", tmp_path / "half.safetensors", "--json").out)

        assert report["usable"] is False
        assert "is truncated" in report["reason"]

    @pytest.mark.parametrize("more", [(), ("--json",)])
    def test_a_file_that_cannot_be_used_is_an_error_too(
        self, program: Callable[..., Any], tmp_path: Path, style: Path, more: tuple[str, ...]
    ) -> None:
        (tmp_path / "half.safetensors").write_bytes(style.read_bytes()[:20_000])

        outcome = program("inspect", tmp_path / "half.safetensors", *more)
        error, hint = outcome.err.splitlines()

        assert outcome.code == 2
        assert error.startswith("error: ")
        assert error.removeprefix("error: ") in outcome.out.replace('\\"', '"')
        assert hint == "hint: download the file again"

    def test_a_missing_file(self, program: Callable[..., Any], tmp_path: Path) -> None:
        outcome = program("inspect", tmp_path / "none.safetensors")

        assert outcome.code == 2
        assert outcome.complaint[0] == f"there is no file {str(tmp_path / 'none.safetensors')!r}"

    def test_a_folder(self, program: Callable[..., Any], tmp_path: Path) -> None:
        outcome = program("inspect", tmp_path)

        assert outcome.code == 2
        assert str(tmp_path) in outcome.complaint[0]


class TestDoctor:
    def test_json(self, program: Callable[..., Any], own_styles: Path, style: Path) -> None:
        shutil.copy(style, own_styles / "mine.safetensors")

        outcome = program("doctor", "--json")
        facts = json.loads(outcome.out)

        assert outcome.code == 0
        assert outcome.err == ""
        assert facts["stylescore"] == __version__
        assert facts["devices"][0].startswith("cpu (")
        assert any(package.startswith("torch ") for package in facts["packages"])
        assert facts["working_sizes"][0].startswith("mini: 256 pixels")
        assert "mine" in facts["styles"]
        assert facts["style_folder"] == str(own_styles)
        assert next(iter(facts)) == "works"
        assert (facts["works"][0]["model"], facts["works"][0]["works"]) == ("mini", True)

    def test_words(self, program: Callable[..., Any]) -> None:
        outcome = program("doctor")

        assert outcome.code == 0
        names = [line.split(":")[0] for line in outcome.out.splitlines()]
        assert names[0] == "mini"
        assert outcome.out.startswith("mini:                 works here, about ")
        assert names[1:6] == ["Stable Diffusion 1.x", "Stable Diffusion 2.x", "SDXL", "Stable Diffusion 3", "FLUX.1"]
        assert {"stylescore", "python", "devices", "default device", "models", "download cache"} <= set(names)
        table = outcome.out.partition("One picture")[2].splitlines()
        assert table[1].split() == ["normal", "low", "balanced", "swift"]
        assert {"sd1 512", "sdxl 1024", "flux 1024"} <= {line[:15].strip() for line in table}
        assert all(len(line) <= 80 for line in outcome.out.splitlines() if line.startswith(("sd", "flux")))

    def test_every_verdict_fits_a_terminal_of_80_columns(self) -> None:
        known = {"available": 23.5, "size": 1024, "seconds": 86400.0 * 50}
        told = [
            format_verdict({"model": model, "works": works, "memory": memory, "gigabytes": 114.7, **known})
            for model in ("mini", "Stable Diffusion 1.x")
            for works in (True, False)
            for memory in ("normal", "low", "offload")
        ]
        assert max(map(len, told)) <= 80
        assert told[7].endswith("fits, --memory low (114.7 GB), 50 days at 1024 pixels")
        assert told[10].endswith("does not fit: needs 114.7 GB, there are 23.5")

    def test_long_lines_are_wrapped_between_words_in_a_terminal_only(self) -> None:
        facts = {
            "styles": ["flat-illustration", "ink-drawing", "oil-painting", "pencil-sketch"],
            "cores": 2,
            "path": 90 * "x",
        }
        wide, narrow = format_report(facts), format_report(facts, 50)
        assert len(wide) == 3
        assert narrow[:2] == [
            "styles:         flat-illustration, ink-drawing,",
            "                oil-painting, pencil-sketch",
        ]
        assert " ".join(line.strip() for line in narrow[:2]).split() == wide[0].split()
        assert narrow[-1].strip() == 90 * "x"

    def test_times_in_words(self) -> None:
        assert [format_duration(s) for s in (7.2, 99, 150, 7200, 86400 * 5)] == [
            "7 s",
            "99 s",
            "2 min",
            "2 h",
            "5 days",
        ]
