"""Options about the model and its prompts: what is written into the record, what is said, what is refused."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GIVEN = (
    *("--prompt", "a (cat:1.3) in a house", "--negative-prompt", "blurry", "--prompt-weights", "on"),
    *("--prediction", "epsilon", "--clip-skip", "2", "--text-strength", "0.5"),
)


def run_of(folder: Path) -> dict[str, Any]:
    table = tomllib.loads((folder / "config.toml").read_text("utf-8"))["run"]
    assert isinstance(table, dict)
    return table


def test_the_record_has_what_was_given(stylize: Callable[..., Any], photo: Path, tiny: Path) -> None:
    outcome = stylize(photo, *GIVEN, "--vae", tiny, "--text-encoders", tiny, "--method", "sds", quiet=False)
    run = run_of(outcome.picture.parent)
    assert (run["prediction"], run["clip_skip"], run["prompt_weights"]) == ("epsilon", 2, "on")
    assert (run["negative_prompt"], run["method"]["text_strength"]) == ("blurry", 0.5)
    assert (run["vae"], run["text_encoders"]) == (str(tiny), str(tiny))
    hashes = tomllib.loads((outcome.picture.parent / "config.toml").read_text("utf-8"))["hashes"]
    assert hashes["vae"] == hashes["text_encoders"] == hashes["model"]
    assert "note: weights of words in a prompt: 'cat' 1.3\n" in outcome.err


def test_what_is_assumed_is_said_and_recorded(
    stylize: Callable[..., Any], photo: Path, tiny: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    path = model / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    settings.pop("prediction_type", None)
    path.write_text(json.dumps(settings))
    outcome = stylize(photo, "--model", model, "--method", "sds", quiet=False)
    note = "note: model does not state what it predicts: epsilon is assumed, else give --prediction v\n"
    assert outcome.err.count(note) == 1
    assert run_of(outcome.picture.parent)["prediction"] == "epsilon"


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (["--prediction", "eps"], "prediction must be one of epsilon, v, sample, flow, not 'eps'", "epsilon"),
        (["--prediction", "flow"], "state that it predicts epsilon, not flow", "leave out --prediction flow"),
        (["--vae", "nowhere"], "there is no autoencoder 'nowhere'", "give a folder"),
        (["--text-encoders", "nowhere"], "there is no model with text encoders 'nowhere'", "give a folder"),
        (["--clip-skip", "40"], "clip_skip must be at most 32, not 40", "at most 32"),
        (["--text-strength", "9"], "text_strength must be between -4 and 4", "between"),
        (["--text-strength", "1", "--preset", "paper"], "has no effect where text_encoder_lora is false", "leave it"),
        (["--prompt", "<lora:ink:0.8>"], "cannot load '<lora:ink:0.8>'", "give --style ink=0.8"),
        (["--prompt", "a BREAK b"], "would read 'BREAK' as letters", "small letters"),
        (["--prompt", "a <hypernet:x:1>"], "would read '<hypernet:x:1>' as letters", "delete it from the prompt"),
        (["--prompt", "embedding:foo, cat"], "would read 'embedding:foo' as letters", "--embedding foo=FILE"),
        (["--prompt-weights", "some"], "prompt_weights must be one of auto, on, off, not 'some'", "on"),
        (["--negative-prompt", "x", "--set", "guidance_scale=1", "--method", "sds"], "has no effect where", "--set"),
    ],
)
def test_refusals(
    stylize: Callable[..., Any], photo: Path, out: Path, given: list[str], message: str, hint: str
) -> None:
    outcome = stylize(photo, *given)
    said, told = outcome.complaint
    assert outcome.code == 2
    assert message in said
    assert hint in told
    assert not list(out.glob("*/config.toml"))
