"""Sample sheets: pictures of some prompts with the style as trained so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stylescore.diffusion.checkpoints.folders import silence_libraries
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.conditioning import concatenate
from stylescore.images import contact_sheet, to_picture
from stylescore.training.draws import make_generator
from stylescore.training.loop import Trainer

STEPS = 20
GUIDANCE = 5.0
COUNT = 4


def _make_sampler(config: Mapping[str, Any]) -> Any:
    """Return diffusers' DDIM sampler for a base's scheduler settings."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with silence_libraries():
        scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    return scheduler


@torch.no_grad()
def _sample_latent(trainer: Trainer, scheduler: Any, prompt: str, number: int) -> Tensor:
    """Return a latent [1, c, h, w] for a prompt, under classifier-free guidance."""
    process, cache = trainer.process, trainer.cache
    unet = process.accelerator.unwrap_model(trainer.unet)
    shape = (1, unet.config.in_channels, cache.side, cache.side)
    z = torch.randn(shape, generator=make_generator(trainer.config.seed, "sheet", number)).to(process.device)
    context = concatenate([cache.contexts[prompt], cache.contexts[""]]).to(process.device, process.dtype)
    for t in scheduler.timesteps:
        output = trainer.call(unet, torch.cat([z, z]).to(process.dtype), t, context).float()
        conditional, unconditional = output.chunk(2)
        z = scheduler.step(unconditional + GUIDANCE * (conditional - unconditional), t, z).prev_sample
    return z


def sample_sheet(
    trainer: Trainer, vae: Any, scheduler_config: Mapping[str, Any], prompts: Sequence[str]
) -> Image.Image:
    """Return one picture for each prompt, side by side; the noise is the same in every sheet."""
    scheduler, codec = _make_sampler(scheduler_config), Codec(vae)
    latents = [_sample_latent(trainer, scheduler, prompt, number) for number, prompt in enumerate(prompts)]
    pictures = [to_picture(codec.decode(latent)) for latent in latents]
    return contact_sheet([pictures], cell=trainer.config.resolution)
