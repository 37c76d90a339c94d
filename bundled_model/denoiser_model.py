"""The U-Net's architecture, the noise schedule and the denoising loss."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from bundled_model.autoencoder_model import LATENT_CHANNELS
from bundled_model.text import HIDDEN

WIDTHS = (64, 96, 128)
MOST_TIMES = 880
SNR_RANGE = (0.1, 2.0)


def new_unet() -> UNet2DConditionModel:
    """Return a small conditional U-Net for 32 x 32 latents."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,
        cross_attention_dim=HIDDEN,
    )


def new_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule; the network predicts the clean latent."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def draw_times(count: int) -> Tensor:
    """Draw timesteps, 95 % of them below ``MOST_TIMES``."""
    low = torch.randint(0, MOST_TIMES, (count,))
    return torch.where(torch.rand(count) < 0.95, low, torch.randint(MOST_TIMES, 1000, (count,)))


def denoising_loss(
    unet: UNet2DConditionModel, clean: Tensor, words: Tensor, alphas: Tensor, times: Tensor, *, bfloat16: bool = False
) -> Tensor:
    """Return the squared error of the predicted clean latent, weighted by the clamped signal-to-noise ratio."""
    alpha = alphas[times].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * torch.randn_like(clean)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    with torch.autocast(clean.device.type, torch.bfloat16, enabled=bfloat16):
        predicted = unet(noisy, times, words).sample
    weight = (alpha / (1 - alpha)).clamp(*SNR_RANGE)
    return (weight * (predicted.float() - clean).square()).mean()
