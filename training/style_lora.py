"""Stage 6: train one style's LoRA on the frozen base.

Usage: ``python -m training.style_lora --data DIR --base DIR/denoiser.pt --style oil-painting --out DIR --minutes 10``
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig
from transformers import CLIPTokenizer

from training import lora_file
from training.denoiser import Denoiser
from training.denoiser_model import denoising_loss, draw_times, new_scheduler
from training.latent_source import LatentSource
from training.styles import style_words

RANK = 16
ALPHA = 16.0
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]


def adapted(data: Path, base: Path) -> tuple[Denoiser, list[torch.nn.Parameter]]:
    """The frozen averaged base with a fresh adapter, and what there is to train."""
    model = Denoiser(CLIPTokenizer.from_pretrained(data / "tokenizer"))
    model.load_state_dict(torch.load(base, weights_only=True)["ema"])
    model.requires_grad_(False)
    model.unet.set_attn_processor(AttnProcessor())
    model.unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=LAYERS))
    model.unet.to(memory_format=torch.channels_last)
    return model, [weight for weight in model.parameters() if weight.requires_grad]


def learning_rate(progress: float, rate: float) -> float:
    """Warm-up, then a cosine down to nothing."""
    return rate * min(1.0, 0.05 + progress / 0.05) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def save(model: Denoiser, arguments: argparse.Namespace, steps: int, pictures: int) -> None:
    """Write the LoRA file."""
    words = style_words(arguments.style)
    notes = lora_file.metadata(words.capitalize(), words, RANK, ALPHA, steps, pictures)
    lora_file.write(model.unet, arguments.out / f"{arguments.style}.safetensors", notes)


def train(arguments: argparse.Namespace) -> None:
    """Train for a while, reporting now and then."""
    source = LatentSource(arguments.data, 1, arguments.seed, arguments.style)
    model, weights = adapted(arguments.data, arguments.base)
    optimiser = torch.optim.AdamW(weights, lr=arguments.rate, betas=(0.9, 0.99), weight_decay=0.0)
    alphas = new_scheduler().alphas_cumprod
    start, step, losses = time.monotonic(), 0, []
    while (elapsed := time.monotonic() - start) < 60 * arguments.minutes:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(elapsed / (60 * arguments.minutes), arguments.rate)
        latents, tokens = source.draw(arguments.batch, arguments.side)
        with torch.no_grad():
            said = model.words(tokens)
        loss = denoising_loss(model.unet, latents, said, alphas, draw_times(len(latents)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"{elapsed:.0f} s, step {step}, loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    save(model, arguments, step, source.style_count)
    print(f"done, step {step}", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with latents")
    parser.add_argument("--base", type=Path, required=True, help="the base's denoiser.pt")
    parser.add_argument("--style", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    train(arguments)


if __name__ == "__main__":
    main()
