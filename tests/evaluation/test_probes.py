"""Networks behind the metrics, tiny and with random weights: against the models' own outputs."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError
from stylescore.evaluation.probes import (
    FOCUS_LAYER,
    CfsdProbe,
    ClipProbe,
    FocusProbe,
    PickScoreProbe,
    StructureProbe,
    Texts,
    TextureProbe,
    hed_pixels,
)
from stylescore.metrics.embeddings import clip_score
from stylescore.metrics.preparation import CLIP, IMAGENET, standardise
from stylescore.metrics.trunks import VGG16, VGG19, Trunk, make_vgg

CPU = torch.device("cpu")
TEXTS = Texts(("a photo", "a cat"), ("a drawing of a cat", "a dog"))
NOTHING = Texts((), ())


def pictures(seed: int, height: int = 32, width: int = 32) -> Tensor:
    return 2 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) - 1


@pytest.fixture(scope="module")
def clip_folder(parity: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(parity / "tiny_base" / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    for path in (parity / "tiny_base" / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return folder


def test_clip_embeddings_give_the_models_own_logits(clip_folder: Path) -> None:
    probe, x = ClipProbe(clip_folder, CPU), pictures(1)
    rows = probe.pair(probe.source(pictures(2)), x, TEXTS)
    tokens = probe.tokenizer(list(TEXTS.after), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = probe.model(pixel_values=standardise(x, CLIP), **tokens).logits_per_image.diagonal()
    scale = float(probe.model.logit_scale.exp())
    expected = 100 * (logits / scale).clamp(min=0)
    assert torch.allclose(clip_score(rows["clip-stylized"], rows["clip-after"]), expected, atol=1e-3)
    assert not torch.allclose(rows["clip-before"], rows["clip-after"])
    assert not torch.allclose(rows["clip-source"], rows["clip-stylized"])
    scores = PickScoreProbe(clip_folder, CPU).pair({}, x, TEXTS)["pickscore"]
    assert torch.allclose(scores, logits, atol=1e-3)


def test_a_text_does_not_depend_on_its_neighbours_and_long_ones_are_cut(clip_folder: Path) -> None:
    probe = ClipProbe(clip_folder, CPU)
    both = probe.embed_texts(["a cat", "a very long text about a dog " * 40])
    assert torch.allclose(both[:1], probe.embed_texts(["a cat"]), atol=1e-5)


def test_a_folder_without_safetensors_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(clip_folder, tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        ClipProbe(tmp_path / "clip", CPU)


def test_structure_takes_the_keys_of_the_last_layer(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False).save_pretrained(tmp_path)
    probe, x = StructureProbe(tmp_path, CPU), pictures(3)
    modules = dict(probe.model.named_modules())
    norm = [module for name, module in modules.items() if name.endswith("layernorm_before")][-1]
    key = [module for name, module in modules.items() if name.endswith(("attention.key", "k_proj"))][-1]
    inputs: list[Tensor] = []
    norm.register_forward_hook(lambda _, __, output: inputs.append(output))
    with torch.no_grad():
        found = probe.keys(x)
        expected = inputs[0] @ key.weight.T + key.bias
    assert found.shape == (2, 17, 32)
    assert torch.allclose(found, expected, atol=1e-5)
    assert probe.pair(probe.source(x), x, NOTHING)["dino-structure"].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_focus_takes_the_inner_tokens_of_an_onnx_file(tmp_path: Path) -> None:
    """A file whose tokens are the averages of 16 squares, of which the first is left out."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    h = onnx.helper
    nodes = [
        h.make_node("AveragePool", ["input_image"], ["pooled"], kernel_shape=[56, 56], strides=[56, 56]),
        h.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        h.make_node("Transpose", ["flat"], [FOCUS_LAYER], perm=[0, 2, 1]),
        h.make_node("Identity", [FOCUS_LAYER], ["output_importance"]),
    ]
    graph = h.make_graph(
        nodes,
        "tiny",
        [h.make_tensor_value_info("input_image", 1, ["n", 3, 224, 224])],
        [h.make_tensor_value_info("output_importance", 1, None)],
        [h.make_tensor("shape", onnx.TensorProto.INT64, [3], [0, 3, 16])],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "tiny.onnx")
    source, stylized = pictures(4, 224, 224), pictures(5, 224, 224)
    tokens = [
        torch.nn.functional.avg_pool2d(standardise(x, IMAGENET), 56).flatten(2).transpose(1, 2)[:, 1:]
        for x in (source, stylized)
    ]
    expected = 1 - torch.nn.functional.cosine_similarity(*tokens, dim=2).mean(dim=1)
    probe = FocusProbe(tmp_path / "tiny.onnx")
    found = probe.pair(probe.source(source), stylized, NOTHING)["focus-distance"]
    assert torch.allclose(found, expected, atol=1e-4)
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be read"):
        FocusProbe(tmp_path / "bad.onnx")


@cache
def vgg(depths: tuple[int, ...]) -> Trunk:
    """Return a VGG with random weights that keep the scale of the activations."""
    trunk = make_vgg(depths)
    state = {
        name: (2 / max(1, tensor[0].numel())) ** 0.5
        * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(n))
        for n, (name, tensor) in enumerate(trunk.state_dict().items())
    }
    return trunk.load({name: t * (0 if name.endswith("bias") else 1) for name, t in state.items()})


def test_cfsd_of_equal_pictures_is_zero_and_of_others_not() -> None:
    probe = CfsdProbe(vgg(VGG19))
    source = probe.source(pictures(6))
    assert probe.pair(source, pictures(6), NOTHING)["cfsd"].tolist() == pytest.approx([0, 0], abs=1e-4)
    assert bool((probe.pair(source, pictures(7), NOTHING)["cfsd"] > 0).all())


def test_textures_of_the_only_picture_of_the_style_are_at_zero() -> None:
    probe, x = TextureProbe(vgg(VGG16), 1), pictures(8)[:1]
    probe.style(x)
    rows = probe.pair(probe.source(x), x, NOTHING)
    assert {name: value.item() for name, value in rows.items()} == pytest.approx(
        {"hed-structure": 0, "hed-gram": 0, "hed-neighbours": 0}, abs=1e-3
    )


def test_textures_do_not_depend_on_batches() -> None:
    together, alone = TextureProbe(vgg(VGG16), 2), TextureProbe(vgg(VGG16), 2)
    together.style(pictures(9))
    for picture in pictures(9).split(1):
        alone.style(picture)
    source, stylized = pictures(10), pictures(11)
    rows = together.pair(together.source(source), stylized, NOTHING)
    for name, values in rows.items():
        pairs = zip(source.split(1), stylized.split(1), strict=True)
        parts = [alone.pair(alone.source(a), b, NOTHING)[name] for a, b in pairs]
        assert torch.allclose(values, torch.cat(parts), rtol=1e-4), name


def test_textures_of_another_style_share_the_network_and_nothing_else() -> None:
    probe = TextureProbe(vgg(VGG16))
    first = probe.for_style(2)
    first.style(pictures(9))
    other = first.for_style(0)
    assert isinstance(other, TextureProbe)
    assert other.trunk is probe.trunk
    assert set(other.pair(other.source(pictures(10)), pictures(11), NOTHING)) == {"hed-structure"}


def test_hed_sees_levels_with_blue_first_minus_their_mean() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    assert hed_pixels(red).flatten().tolist() == pytest.approx([-104.00699, -116.66877, 255 - 122.67892], abs=1e-4)
