"""Sample sheets: what the style makes of some prompts at this point of its training."""

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
from stylescore.training.draws import generator
from stylescore.training.loop import Trainer

STEPS = 20
GUIDANCE = 5.0
COUNT = 4


def sampler(config: Mapping[str, Any]) -> Any:
    """Return diffusers' DDIM sampler for a base's scheduler settings."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    with silence_libraries():
        scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(STEPS)
    return scheduler


@torch.no_grad()
def sample_latent(trainer: Trainer, scheduler: Any, prompt: str, number: int) -> Tensor:
    """Return a latent [1, c, h, w] for a prompt, under classifier-free guidance."""
    machine, cache = trainer.machine, trainer.cache
    unet = machine.accelerator.unwrap_model(trainer.unet)
    shape = (1, unet.config.in_channels, cache.side, cache.side)
    z = torch.randn(shape, generator=generator(trainer.config.seed, "sheet", number)).to(machine.device)
    context = concatenate([cache.contexts[prompt], cache.contexts[""]]).to(machine.device, machine.dtype)
    for t in scheduler.timesteps:
        output = trainer.call(unet, torch.cat([z, z]).to(machine.dtype), t, context).float()
        with_words, without = output.chunk(2)
        z = scheduler.step(without + GUIDANCE * (with_words - without), t, z).prev_sample
    return z


def sample_sheet(
    trainer: Trainer, vae: Any, scheduler_config: Mapping[str, Any], prompts: Sequence[str]
) -> Image.Image:
    """Return one picture a prompt, side by side; the same noise every time."""
    scheduler, codec = sampler(scheduler_config), Codec(vae)
    latents = [sample_latent(trainer, scheduler, prompt, number) for number, prompt in enumerate(prompts)]
    pictures = [to_picture(codec.decode(latent)) for latent in latents]
    return contact_sheet([pictures], cell=trainer.config.resolution)
