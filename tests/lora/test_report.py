from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylescore.errors import StyleError
from stylescore.lora import describe, read_lora

GOOD = Path(__file__).parents[1] / "data" / "parity" / "style_lora_kohya.safetensors"


def test_report_of_a_good_file():
    report = describe(GOOD)
    assert (report.usable, report.reason, report.format, report.family) == (True, None, "kohya", "sd1")
    assert (report.ranks, report.alphas) == ((4,), (2.5,))
    assert (report.unet.linear, report.unet.conv, report.text_encoder.total) == (40, 8, 12)
    assert report.base_model == "sd_v1"
    assert report.sha256 == hashlib.sha256(GOOD.read_bytes()).hexdigest()


def test_report_is_json():
    record = json.loads(json.dumps(describe(GOOD).to_dict()))
    assert record["unet"] == {"linear": 40, "conv": 8, "norm": 0, "bias": 0}


def test_only_a_missing_file_has_no_report(tmp_path):
    with pytest.raises(StyleError, match="there is no file"):
        describe(tmp_path / "none.safetensors")


TAGS = {"10_inkstyle": {"tree": 4, "1girl": 9}, "3_sumi e": {"tree": 7}}
SOURCES = {
    "modelspec.trigger_phrase": "ink wash",
    "modelspec.usage_hint": "say ink",
    "ss_tag_frequency": json.dumps(TAGS),
}


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ([], ("ink wash",)),
        (["modelspec.trigger_phrase"], ("say ink",)),
        (["modelspec.trigger_phrase", "modelspec.usage_hint"], ("inkstyle", "sumi e")),
        (list(SOURCES), ()),
    ],
)
def test_trigger_words_in_order_of_reliability(tmp_path, left_out, words):
    metadata = {key: text for key, text in SOURCES.items() if key not in left_out}
    path = tmp_path / "a.safetensors"
    save_file({"unet.m.lora_A.weight": torch.ones(1, 4), "unet.m.lora_B.weight": torch.ones(4, 1)}, path, metadata)
    assert describe(path).trigger_words == words
    assert read_lora(path).trigger_words == (("ink wash",) if not left_out else ())


def test_stated_words_in_a_list_are_joined(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(load_file(GOOD), path, {"modelspec.trigger_phrase": '["ink wash", "sumi e"]'})
    assert read_lora(path).trigger_words == ("ink wash, sumi e",)
