"""Files that must be refused, with the reason, before anything in them acts."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stylescore.errors import StyleError
from stylescore.lora import bind, describe, read_lora

GOOD = Path(__file__).parents[1] / "data" / "parity" / "style_lora_kohya.safetensors"
STEM = "lora_unet_mid_block_attentions_0_proj_in"


def refused(path: Path, match: str) -> StyleError:
    with pytest.raises(StyleError, match=match) as caught:
        read_lora(path)
    if path.is_file():
        report = describe(path)
        assert (report.usable, report.reason, report.hint) == (False, str(caught.value), caught.value.hint)
    return caught.value


def saved(path: Path, **changes: torch.Tensor | None) -> Path:
    tensors = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(4, 2), "alpha": torch.tensor(2.0)}
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({f"{STEM}.{name}": tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


def forged(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]} | changes


def test_missing_file(tmp_path):
    refused(tmp_path / "none.safetensors", "there is no file")


def test_folder_names_what_is_in_it(tmp_path):
    saved(tmp_path / "inside.safetensors")
    assert "inside.safetensors" in str(refused(tmp_path, "is a folder").hint)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt", ".bin"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_are_never_opened(tmp_path, suffix, protocol):
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps({"a": torch.ones(3).tolist()}, protocol=protocol))
    refused(path, "may run code when loaded")


def test_torch_archives_are_never_opened(tmp_path):
    path = tmp_path / "evil.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    refused(path, "may run code when loaded")


def test_wrong_extension_is_tolerated(tmp_path):
    path = tmp_path / "style.ckpt"
    shutil.copy(GOOD, path)
    assert len(read_lora(path).parts["unet"]) == 48


def test_header_that_begins_like_a_pickle_is_tolerated(tmp_path):
    text = json.dumps({f"{STEM}.lora_down.weight": entry(), f"{STEM}.lora_up.weight": entry(data_offsets=[32, 64])})
    text = text.replace("[2, 4]", "[4, 4]").replace("[0, 32]", "[0, 64]").replace("[32, 64]", "[64, 128]")
    path = forged(tmp_path / "a.safetensors", text.encode().ljust(640), bytes(128))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert len(read_lora(path).parts["unet"]) == 1


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"abc", "is a text file, not a LoRA"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\xff" * 64, "not a safetensors file"),
    ],
)
def test_other_files(tmp_path, content, match):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(path, match)


@pytest.mark.parametrize("keep", [0.001, 0.2, 0.5, 0.99])
def test_truncated_files(tmp_path, keep):
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOOD.read_bytes()[: int(GOOD.stat().st_size * keep)])
    refused(path, "truncated|not a safetensors")


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a": 1, "a": 2}', "gives 'a' twice"),
        ({"__metadata__": 3}, "metadata"),
        ({"a": 3}, "does not describe 'a'"),
        ({"a": entry(shape="4")}, "does not describe"),
        ({"a": entry(shape=[2, 5])}, "has a wrong header"),
        ({"a": entry(shape=[-2, -4])}, "has a wrong header"),
        ({"a": entry(dtype="F16")}, "has a wrong header"),
        ({"a": entry(dtype="X7")}, "unknown number type"),
        ({"a": entry(dtype="F" + "9" * 5000)}, "unknown number type"),
        ({"a": entry(shape=[1] * 70)}, "has 70 dimensions, at most 8"),
        ({"a": entry(shape=[10**4000, 8])}, "cannot have the shape"),
        ({"a": entry(shape=[True, 8])}, "cannot have the shape"),
        ({"a" * 2000: entry()}, "a name in it has 2,000 letters"),
        (b'{"\\ud800": 1}', "is not Unicode"),
        (b"[" * 5000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        ({"a": entry(data_offsets=[32, 0])}, "has a wrong header"),
        ({"a": entry(data_offsets=[8, 40])}, "starts at byte 8"),
        ({"a": entry(), "b": entry()}, "starts at byte 0"),
        ({"a": entry(), "b": entry(data_offsets=[32, 64])}, "truncated"),
        ({}, "does not account for"),
    ],
)
def test_wrong_headers(tmp_path, header, match):
    refused(forged(tmp_path / "a.safetensors", header, bytes(32)), match)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 3000), value=st.integers(0, 255))
def test_any_damaged_byte_reads_or_is_refused(tmp_path, position, value):
    content = bytearray(GOOD.read_bytes())
    content[position] = value
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with suppress(StyleError):
        read_lora(path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights(tmp_path, bad):
    down = torch.ones(2, 4)
    down[1, 2] = bad
    refused(saved(tmp_path / "a.safetensors", lora_down__weight=down), "not finite")


@pytest.mark.parametrize("alpha", [torch.tensor(0.0), torch.tensor(-1.0), torch.ones(2)])
def test_useless_alpha(tmp_path, alpha):
    refused(saved(tmp_path / "a.safetensors", alpha=alpha), "alpha")


@pytest.mark.parametrize("alpha", [1e9, 3e38])
def test_an_alpha_that_no_training_writes(tmp_path, alpha):
    error = refused(saved(tmp_path / "a.safetensors", alpha=torch.tensor(alpha)), "the alpha of .* gives it the factor")
    assert error.hint


@pytest.mark.parametrize("alpha", [torch.ones(0), torch.tensor(float("nan")), torch.ones(3, 3), torch.ones(1, 0)])
def test_an_alpha_that_is_no_number(tmp_path, alpha):
    refused(saved(tmp_path / "a.safetensors", alpha=alpha), "alpha")


def test_a_rank_of_zero(tmp_path):
    changes = {"lora_down__weight": torch.ones(0, 4), "lora_up__weight": torch.ones(4, 0)}
    refused(saved(tmp_path / "a.safetensors", **changes), "do not fit together")


def test_small_factors_of_a_matrix_that_no_computer_holds(tmp_path):
    wide = {"lokr_w1_a": torch.ones(200_000, 1), "lokr_w1_b": torch.ones(1, 200_000)}
    error = refused(adapter(tmp_path / "a.safetensors", "LoKr", **wide), "would make 40,000,000,000 numbers")
    assert "(200000, 1)" in str(error)


def test_a_core_of_a_matrix_that_no_computer_holds(tmp_path):
    tensors = {
        "lora_down__weight": torch.ones(1, 300_000, 1, 1),
        "lora_up__weight": torch.ones(4, 200),
        "lora_mid__weight": torch.ones(200, 1, 3, 3),
    }
    refused(saved(tmp_path / "a.safetensors", **tensors), "would make 540,000,000 numbers")


@pytest.mark.parametrize("embedding", [torch.ones(2, 4, 1), torch.ones(0), torch.ones(2000, 4), torch.tensor(1.0)])
def test_an_added_token_whose_embedding_is_no_row(tmp_path, embedding):
    tensors = load_file(saved(tmp_path / "a.safetensors")) | {"<s1>": embedding}
    save_file(tensors, tmp_path / "b.safetensors")
    refused(tmp_path / "b.safetensors", "has an embedding of shape .* for '<s1>'")


@pytest.mark.parametrize("up", [torch.ones(4, 3), torch.ones(4), torch.ones(4, 2, 3, 3), torch.ones(0, 2)])
def test_shapes_that_do_not_fit_together(tmp_path, up):
    refused(saved(tmp_path / "a.safetensors", lora_up__weight=up), "do not fit together")


@pytest.mark.parametrize("role", ["lora_up__weight", "lora_down__weight"])
def test_half_a_module(tmp_path, role):
    refused(saved(tmp_path / "a.safetensors", **{role: None}), "only a part of")


def test_whole_numbers(tmp_path):
    down = torch.ones(2, 4, dtype=torch.int8)
    refused(saved(tmp_path / "a.safetensors", lora_down__weight=down), "as integers")


def test_one_module_in_two_spellings(tmp_path):
    stems = ("unet.mid.to_q", "mid.to_q")
    tensors = {f"{stem}.lora_A.weight": torch.ones(1, 4) for stem in stems}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "twice")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base_model.model.mid.to_q.vera_lambda_b", "VeRA"),
        ("base_model.model.mid.to_q.lora_E", "AdaLoRA"),
        ("base_model.model.mid.to_q.glora_A.Xd", "PEFT GLoRA"),
        ("base_model.model.mid.to_q.hra_u", "HRA"),
        ("base_model.model.mid.to_q.oft_r", "OFT of an old PEFT"),
        (f"{STEM}.lambda_layer", "T-LoRA"),
        (f"{STEM}.reshape_weight", "LoRA for layers of another size"),
        ("mid.attn2.processor.to_k_custom_diffusion.weight", "Custom Diffusion"),
        ("ip_adapter.1.to_k_ip.weight", "IP-Adapter"),
        ("transformer_blocks.0.qkv_proj.lora_down", "nunchaku LoRA"),
    ],
)
def test_other_kinds_of_adapter_are_named(tmp_path, name, kind):
    tensors = load_file(saved(tmp_path / "a.safetensors")) | {name: torch.ones(2, 2)}
    save_file(tensors, tmp_path / "b.safetensors")
    refused(tmp_path / "b.safetensors", f"is an? {kind} file, which is not supported")
    assert describe(tmp_path / "b.safetensors").kind == kind


WHOLE: dict[str, dict[str, torch.Tensor]] = {
    "LoHa": {f"hada_w{n}_{side}": torch.ones(4, 4) for n in (1, 2) for side in "ab"},
    "LoKr": {f"lokr_w{n}_{side}": torch.ones(2, 2) for n in (1, 2) for side in "ab"},
}


def adapter(path: Path, kind: str, **changes: torch.Tensor | None) -> Path:
    tensors = {name: tensor for name, tensor in (WHOLE[kind] | changes).items() if tensor is not None}
    save_file({f"{STEM}.{name}": tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize("kind", WHOLE)
def test_the_whole_ones_are_read(tmp_path, kind):
    assert read_lora(adapter(tmp_path / "a.safetensors", kind)).kind == kind


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, tensors in WHOLE.items() for name in tensors])
def test_a_missing_partner_is_named(tmp_path, kind, name):
    refused(adapter(tmp_path / "a.safetensors", kind, **{name: None}), f"it lacks {name}")


@pytest.mark.parametrize(("given", "lacking"), [("hada_t1", "hada_t2"), ("hada_t2", "hada_t1")])
def test_one_core_of_two_is_not_enough(tmp_path, given, lacking):
    refused(adapter(tmp_path / "a.safetensors", "LoHa", **{given: torch.ones(4, 4, 3, 3)}), f"it lacks {lacking}")


@pytest.mark.parametrize("name", ["lokr_w1", "lokr_w2"])
def test_both_factors_of_a_kronecker_product_are_needed(tmp_path, name):
    without = {f"{name}_a": None, f"{name}_b": None}
    refused(adapter(tmp_path / "a.safetensors", "LoKr", **without), f"it lacks {name}")


@pytest.mark.parametrize("name", ["alpha", "dora_scale"])
def test_a_module_of_nothing_but_companions(tmp_path, name):
    save_file({f"{STEM}.{name}": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "it lacks down")


ODD: list[tuple[str, dict[str, torch.Tensor]]] = [
    ("LoHa", {"hada_w1_b": torch.ones(3, 4)}),
    ("LoHa", {"hada_w2_a": torch.ones(5, 4)}),
    ("LoHa", {"hada_w1_a": torch.ones(4)}),
    ("LoHa", {"hada_t1": torch.ones(3, 4, 3, 3), "hada_t2": torch.ones(4, 4, 3, 3)}),
    ("LoKr", {"lokr_w1_b": torch.ones(3, 2)}),
    ("LoKr", {"lokr_w2": torch.ones(2, 2)}),
    ("LoKr", {"lokr_t2": torch.ones(2, 3, 3, 3)}),
    ("LoKr", {"dora_scale": torch.ones(3, 1)}),
    ("LoKr", {"dora_scale": torch.ones(2, 2)}),
    ("LoKr", {"lora_magnitude_vector": torch.ones(3)}),
]


@pytest.mark.parametrize(("kind", "changes"), ODD)
def test_other_kinds_with_wrong_shapes(tmp_path, kind, changes):
    error = refused(adapter(tmp_path / "a.safetensors", kind, **changes), "do not fit together")
    assert str(tuple(next(iter(changes.values())).shape)) in str(error)


@pytest.mark.parametrize("mid", [torch.ones(2, 3, 3, 3), torch.ones(2, 2, 3)])
def test_a_core_of_another_shape(tmp_path, mid):
    refused(saved(tmp_path / "a.safetensors", lora_mid__weight=mid), "do not fit together")


def test_two_kinds_in_one_module(tmp_path):
    path = adapter(tmp_path / "a.safetensors", "LoHa", **WHOLE["LoKr"])
    refused(path, "of more than one kind of adapter")


def test_missing_magnitudes_that_the_settings_announce(tmp_path):
    tensors = {"unet.m.lora_A.weight": torch.ones(1, 4), "unet.m.lora_B.weight": torch.ones(4, 1)}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": '{"unet.use_dora": true}'})
    refused(tmp_path / "a.safetensors", "is a DoRA that has no magnitudes for 'm'")


def test_numbered_layers_of_unknown_order(tmp_path):
    tensors = {"unet:0:down": torch.ones(1, 4), "unet:0:up": torch.ones(4, 1)}
    save_file(tensors, tmp_path / "a.safetensors", {"unet": '["ResnetBlock2D", "Attention"]'})
    refused(tmp_path / "a.safetensors", "gives layers of ResnetBlock2D by number only")


MODEL = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (4, 768)}
CROSS = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("stem", "shape", "match"),
    [
        (CROSS, (4, 2048), "made for SDXL, the model is Stable Diffusion 1"),
        (CROSS, (5, 768), "the LoRA changes"),
        ("lora_unet_nowhere", (4, 768), "it lacks 1 of 1 modules, such as 'nowhere'"),
        ("lora_unet_double_blocks_0_img_attn_qkv", (4, 768), "made for FLUX.1"),
    ],
)
def test_report_and_binding_give_the_same_reason_for_a_mismatch(tmp_path, stem, shape, match):
    path = tmp_path / "a.safetensors"
    save_file({f"{stem}.lokr_w1": torch.ones(1, 2), f"{stem}.lokr_w2": torch.ones(shape[0], shape[1] // 2)}, path)
    assert describe(path).usable
    with pytest.raises(StyleError, match=match) as caught:
        bind(read_lora(path), MODEL)
    report = describe(path, MODEL)
    assert (report.usable, report.reason, report.hint) == (False, str(caught.value), caught.value.hint)
    assert "\n" not in report.reason


SETTINGS = [
    "[",
    "[]",
    "[" * 5000,
    '{"unet.lora_alpha": "x"}',
    '{"unet.lora_alpha": NaN}',
    '{"unet.lora_alpha": 1e400}',
    '{"unet.lora_alpha": 0}',
    '{"unet.lora_alpha": -4}',
    '{"unet.lora_alpha": true}',
    '{"unet.lora_alpha": 2000000}',
    '{"unet.r": 0}',
    '{"unet.r": -1}',
    '{"unet.r": "four"}',
    '{"unet.r": ' + "9" * 6000 + "}",
    '{"unet.alpha_pattern": {"(": 1}}',
    '{"unet.alpha_pattern": {"m": 0}}',
    '{"unet.alpha_pattern": [1]}',
    '{"unet.alpha_pattern": {"(a+)+$": 1}}',
    '{"unet.alpha_pattern": {"a*a*a*a*a*b": 1}}',
    '{"unet.rank_pattern": {"m": 0.5}}',
]


@pytest.mark.parametrize("text", SETTINGS)
def test_unreadable_settings(tmp_path, text):
    tensors = {"unet.m.lora_A.weight": torch.ones(1, 4), "unet.m.lora_B.weight": torch.ones(4, 1)}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    refused(tmp_path / "a.safetensors", "adapter settings")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a full model"),
        ("down_blocks.0.resnets.0.conv1.weight", "a full model"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("emb_params", "a text embedding"),
        ("<cat-toy>", "a text embedding"),
        ("double_blocks.0.img_attn.qkv.weight", "a full model"),
        ("x", "a file of other tensors, such as 'x'"),
    ],
)
def test_files_that_are_no_adapter(tmp_path, name, what):
    save_file({name: torch.ones(2, 2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", f"is {what}, not a LoRA")


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "is a file without tensors, not a LoRA")


@pytest.mark.parametrize("scalar", [torch.ones(3), torch.ones(0), torch.tensor(1e6)])
def test_a_scalar_that_no_training_writes(tmp_path, scalar):
    refused(saved(tmp_path / "a.safetensors", scalar=scalar), "scalar of .* numbers|gives it the factor")


def test_a_scalar_beside_what_has_no_scale(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({f"{STEM}.diff": torch.ones(4, 4), f"{STEM}.scalar": torch.tensor(0.5)}, path)
    refused(path, "the scalar of .* multiplies nothing")


def test_tensors_of_no_adapter_are_not_dropped_silently(tmp_path):
    tensors = load_file(saved(tmp_path / "a.safetensors")) | {"bundle_emb.x": torch.ones(2)}
    save_file(tensors, tmp_path / "b.safetensors")
    refused(tmp_path / "b.safetensors", "holds 1 tensors that belong to no LoRA, such as 'bundle_emb.x'")
