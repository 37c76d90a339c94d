"""Shared skips and modulated features: equal to the sums written out, and nothing is left in the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from stylescore import Stylizer, read_photo
from stylescore.diffusion.adapters import Route
from stylescore.diffusion.conditioning import concatenate
from stylescore.diffusion.dual_stream import (
    DualStreamScore,
    Modulation,
    decoder_blocks,
    share_and_modulate,
    shared_skips,
    strengthen,
)
from stylescore.errors import ConfigError
from stylescore.method.fit import fit

PARITY = Path(__file__).parent.parent / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
QUICK: dict[str, Any] = {"model": str(PARITY / "tiny_base"), "method": "freestyle", "iterations": 3, "size": 64}


@pytest.fixture(scope="module")
def unet() -> Any:
    return UNet2DConditionModel.from_pretrained(PARITY / "tiny_base" / "unet").eval().requires_grad_(False)


def test_the_first_channels_are_strengthened_where_their_mean_is_large() -> None:
    features = torch.tensor([[[[0.0, 1.0, 2.0]]] * 4, [[[3.0, 3.0, 5.0]]] * 4]).view(2, 4, 1, 3)
    found = strengthen(features, 2, 3.0)
    assert torch.allclose(found[:, :2], features[:, :2] * torch.tensor([[1.0, 2, 3], [1, 1, 3]]).view(2, 1, 1, 3))
    assert torch.equal(found[:, 2:], features[:, 2:])
    assert torch.equal(strengthen(features, 2, 1.0), features)
    assert torch.equal(strengthen(torch.ones(1, 4, 2, 2), 2, 9.0), torch.ones(1, 4, 2, 2))


def test_both_streams_have_the_first_ones_skips_and_low_frequencies_are_scaled() -> None:
    joined = torch.randn(4, 12, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = share_and_modulate(joined, 8, [16, 9], Modulation(9.0, 9.0))
    assert torch.equal(plain[:, :8], joined[:, :8])
    assert torch.equal(plain[:2, 8:], joined[:2, 8:])
    assert torch.equal(plain[2:, 8:], joined[:2, 8:])
    none = share_and_modulate(joined, 8, [8], Modulation(1.0, 0.0))[:, 8:]
    assert torch.allclose(none.mean(dim=(-2, -1)), torch.zeros(4, 4), atol=1e-6)
    spectrum, before = torch.fft.fft2(none[:2]), torch.fft.fft2(joined[:2, 8:])
    low = torch.tensor([0, 1, 7])  # the block has no partner on its other side, so the real part changes both
    kept = torch.ones(8, 8, dtype=torch.bool)
    kept[low[:, None], low] = False
    assert torch.allclose(spectrum[..., kept], before[..., kept], atol=1e-4)
    assert not torch.allclose(spectrum[..., ~kept], before[..., ~kept], atol=1e-2)


def test_every_block_gets_the_features_that_are_said(unet: Any) -> None:
    """Skips are what the encoder's blocks return, so widths of backbone and skip add up to what a block takes."""
    blocks = decoder_blocks(unet)
    skips = [unet.config.block_out_channels[0]]
    for number, width in enumerate(unet.config.block_out_channels):
        skips += [width] * unet.config.layers_per_block
        skips += [width] if number + 1 < len(unet.config.block_out_channels) else []
    assert [layer.in_channels - width for layer, width in blocks] == skips[::-1]
    with pytest.raises(ConfigError, match="freestyle needs a U-Net"):
        decoder_blocks(torch.nn.Linear(2, 2))


def run(unet: Any, latents: Tensor) -> Tensor:
    tokens = torch.ones(len(latents), 3, unet.config.cross_attention_dim)
    output: Tensor = unet(latents, torch.full((len(latents),), 300), encoder_hidden_states=tokens).sample
    return output


def test_two_equal_streams_without_modulation_are_the_plain_network(unet: Any) -> None:
    rng = torch.Generator().manual_seed(3)
    first, other = (torch.randn(2, 4, 8, 8, generator=rng) for _ in range(2))
    plain, before = run(unet, torch.cat([first, first])), len(unet.up_blocks[0].resnets[0]._forward_pre_hooks)
    with pytest.MonkeyPatch.context() as patch, shared_skips(unet, Modulation(1.0, 1.0)):
        patch.setattr("stylescore.diffusion.dual_stream.SECOND_BACKBONE", 1.0)
        patch.setattr("stylescore.diffusion.dual_stream.SECOND_SKIP", 1.0)
        assert torch.allclose(run(unet, torch.cat([first, first])), plain, atol=1e-5)
        mixed = run(unet, torch.cat([first, other]))
    assert torch.allclose(mixed[:2], plain[:2], atol=1e-5)
    assert not torch.allclose(mixed[2:], run(unet, torch.cat([other, other]))[2:], atol=1e-4)
    assert len(unet.up_blocks[0].resnets[0]._forward_pre_hooks) == before


def latents(copies: int = 1, **options: Any) -> Tensor:
    with Stylizer.load(PARITY / "style_lora_kohya.safetensors", **{**QUICK, **options}) as stylizer:
        fitting = stylizer.start([read_photo(PHOTO)] * copies, seeds=range(copies))
        for iteration in fit(fitting):
            assert iteration.forward_passes == copies * 4
        return fitting.subject.render()


def test_whole_runs() -> None:
    first = latents()
    assert torch.equal(first, latents())
    assert not torch.allclose(first, latents(settings={"freestyle": {"backbone": 1.0}}), atol=1e-4)
    assert torch.allclose(latents(2)[:1], first, atol=1e-3)


def test_the_clean_latent_of_the_photos_pass_is_that_of_the_noised_picture() -> None:
    """The bundled model predicts the clean latent: the noise in z_t is what is left of z_t without it."""
    with Stylizer.load("van-gogh", method="freestyle", size=64) as stylizer:
        found = stylizer.start([read_photo(PHOTO)]).scores["style"]
        assert isinstance(found, DualStreamScore)
        prompts, backbone = found.score.conditionings, found.score.backbone
        z_t = torch.randn(found.content.shape, generator=torch.Generator().manual_seed(5))
        t = torch.tensor([600])
        rows = torch.cat([part for part in (z_t, found.content) for _ in prompts])
        with shared_skips(backbone.network, found.modulation), torch.no_grad():
            times = t.repeat(len(rows))
            eps = backbone(rows, times, concatenate(prompts * 2), Route(style=True))
        clean = backbone.schedule.to_clean(eps, rows, times).chunk(2)[1]
        with torch.no_grad():
            assert torch.allclose(
                backbone.schedule.to_clean(found(z_t, t), z_t, t), found.score.finish(clean), atol=1e-5, rtol=1e-4
            )


def test_without_strength_it_gives_back_the_photo() -> None:
    with Stylizer.load(PARITY / "style_lora_kohya.safetensors", **QUICK, strength=0.0) as stylizer:
        fitting = stylizer.start([read_photo(PHOTO)])
        assert list(fit(fitting)) == []
        assert torch.equal(fitting.subject.render(), fitting.subject.draw(fitting.rng)[1])
