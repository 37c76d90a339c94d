"""CSD's transformer: against the CLIP vision model of transformers, with random weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from stylescore.errors import ModelError
from stylescore.metrics.csd import StyleEmbedding
from stylescore.metrics.preparation import CLIP, centre_square, standardise

WIDTH, DEPTH, PATCH, SIDE, OUT = 128, 3, 8, 32, 24
NAMES = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "pre_layrnorm.weight": "ln_pre.weight",
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}


@cache
def state() -> dict[str, Tensor]:
    """Return random weights in the released names, with the second head that is not used."""
    network = StyleEmbedding(WIDTH, DEPTH, PATCH, (SIDE // PATCH) ** 2 + 1, OUT)
    weights = {
        name: 0.1 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(n))
        for n, (name, tensor) in enumerate(network.state_dict().items())
    }
    return {**weights, "last_layer_content": torch.zeros(WIDTH, OUT)}


def pictures(height: int = SIDE, width: int = SIDE) -> Tensor:
    return 2 * torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(9)) - 1


def transformers_weights() -> dict[str, Tensor]:
    """Return the same weights under the names of transformers."""
    ours = {name.removeprefix("backbone."): tensor for name, tensor in state().items()}
    found = {theirs: ours[name] for theirs, name in NAMES.items()}
    for layer in range(DEPTH):
        here, there = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for part in ("weight", "bias"):
            for name, rows in zip("qkv", ours[f"{here}.attn.in_proj_{part}"].chunk(3), strict=True):
                found[f"{there}.self_attn.{name}_proj.{part}"] = rows
            pairs = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            for name, other in {**pairs, "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}.items():
                found[f"{there}.{other}.{part}"] = ours[f"{here}.{name}.{part}"]
    return found


def test_it_is_clips_vision_model_with_a_projection() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 2}
    other = CLIPVisionModel(
        CLIPVisionConfig(**sizes, num_hidden_layers=DEPTH, image_size=SIDE, patch_size=PATCH, hidden_act="quick_gelu")
    ).eval()
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in other.state_dict()) else ""
    other.load_state_dict({prefix + name: tensor for name, tensor in transformers_weights().items()}, strict=False)
    with torch.no_grad():
        pooled = other(standardise(pictures(), CLIP)).pooler_output
    expected = torch.nn.functional.normalize(pooled @ state()["last_layer_style"], dim=1)
    found = StyleEmbedding.from_state(state())(pictures())
    assert found.shape == (3, OUT)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_batch_equals_its_pictures_and_the_middle_of_a_large_one_counts() -> None:
    network, x = StyleEmbedding.from_state(state()), pictures(48, 80)
    assert torch.allclose(network(x), torch.cat([network(x[n : n + 1]) for n in range(3)]), atol=1e-5)
    changed = x.clone()
    changed[:, :, :, :8] = 0
    assert torch.allclose(network(x), network(changed), atol=1e-5)


def test_the_square_is_resized_as_pillow_does() -> None:
    import numpy as np
    from PIL import Image

    levels = 64 + torch.randint(128, (1, 3, 60, 90), generator=torch.Generator().manual_seed(1))
    picture = Image.fromarray(levels[0].permute(1, 2, 0).numpy().astype(np.uint8)).resize(
        (60, 40), Image.Resampling.BICUBIC
    )
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[:, :, 10:50].float()
    found = (centre_square(levels / 127.5 - 1, 40)[0] + 1) * 127.5
    assert float((found - expected).abs().max()) < 1.5


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match="lack 'last_layer_style'"):
        StyleEmbedding.from_state({k: v for k, v in state().items() if k != "last_layer_style"})
    lacking = {k: v for k, v in state().items() if k != "backbone.ln_post.weight"}
    with pytest.raises(ModelError, match="do not fit"):
        StyleEmbedding.from_state(lacking)
