"""Stage 5: train U-Net and text encoder together; resumes from ``denoiser.pt``.

Usage: ``python -m bundled_model.denoiser --data DIR --out DIR --minutes 40 --side 16 --batch 64``
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import CLIPTextModel, CLIPTokenizer

from bundled_model.denoiser_model import denoising_loss, draw_times, new_scheduler, new_unet
from bundled_model.latent_source import LatentSource
from bundled_model.optimisers import MatrixOptimiser
from bundled_model.text import new_text_encoder

EMA = 0.997


class Denoiser(nn.Module):
    """U-Net and text encoder, trained and saved as one module."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Build both, untrained."""
        super().__init__()
        self.unet = new_unet()
        self.text = new_text_encoder(tokenizer)

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        """Return the hidden states of the prompts, each distinct prompt encoded once."""
        return encode_prompts(self.text, tokens)


def encode_prompts(text: CLIPTextModel, tokens: Tensor) -> Tensor:
    """Return the hidden states of the prompts, each distinct prompt encoded once, except where that would wait."""
    if tokens.is_cuda:
        return text(tokens).last_hidden_state
    distinct, place = tokens.unique(dim=0, return_inverse=True)
    return text(distinct).last_hidden_state[place]


def learning_rate(elapsed: float, arguments: argparse.Namespace) -> float:
    """Warm-up for a minute, then flat, then a cosine over the last ``--decay`` fraction of the time."""
    progress = elapsed / (60 * arguments.minutes)
    falling = max(0.0, (progress - 1 + arguments.decay) / max(arguments.decay, 1e-6))
    cosine = 0.5 * (1 + math.cos(math.pi * min(falling, 1.0)))
    return arguments.rate * min(1.0, 0.05 + elapsed / 60) * (0.03 + 0.97 * cosine)


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, step: int) -> None:
    """Move the averaged weights towards the current ones."""
    move = get_ema_multi_avg_fn(min(EMA, (1 + step) / (10 + step)))
    move(list(ema.parameters()), list(model.parameters()), None)


def average_gradients(model: nn.Module, elapsed: float, world: int) -> float:
    """Average the gradients, and the clock, over the processes that train together."""
    if world == 1:
        return elapsed
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), torch.tensor([elapsed])])
    torch.distributed.all_reduce(flat)
    means = flat.div_(world).split([*(gradient.numel() for gradient in gradients), 1])
    for gradient, mean in zip(gradients, means, strict=False):
        gradient.copy_(mean.view_as(gradient))
    return float(means[-1])


def save(state: dict, path: Path) -> None:
    """Write the checkpoint under a temporary name, then rename it."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def resume(arguments: argparse.Namespace) -> tuple[Denoiser, Denoiser, int]:
    """Return the model, its average and the step, from the checkpoint if there is one; momentum starts at zero."""
    model = Denoiser(CLIPTokenizer.from_pretrained(arguments.data / "tokenizer"))
    model.unet.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model)
    path = arguments.out / "denoiser.pt"
    if not path.exists():
        return model, ema, 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    return model, ema, state["step"]


def train(arguments: argparse.Namespace) -> None:
    """Train for the given time, with a checkpoint every minute."""
    model, ema, step = resume(arguments)
    model.to(arguments.device)
    ema.to(arguments.device)
    optimiser = MatrixOptimiser(model, arguments.rate, arguments.rank, arguments.world)
    seed = arguments.seed + step + 100_003 * arguments.rank
    torch.manual_seed(seed)
    source = LatentSource(arguments.data, arguments.style_share, seed, arguments.device)
    unet = torch.compile(model.unet) if arguments.compile else model.unet
    alphas = new_scheduler().alphas_cumprod.to(arguments.device)
    start, saved, losses = time.monotonic(), time.monotonic(), []
    elapsed = 0.0
    while elapsed < 60 * arguments.minutes:
        optimiser.set_rate(learning_rate(elapsed, arguments))
        latents, tokens = source.draw(arguments.batch, arguments.side)
        times = draw_times(len(latents)).to(arguments.device)
        context = model.encode_prompts(tokens)
        loss = denoising_loss(unet, latents, context, alphas, times, bfloat16=arguments.bfloat16)
        model.zero_grad()
        loss.backward()
        elapsed = average_gradients(model, time.monotonic() - start, arguments.world)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        average(ema, model, step)
        losses.append(loss.detach())
        if step % 50 == 0:
            print(f"{elapsed:.0f} s, step {step}, loss {torch.stack(losses).mean():.4f}", flush=True)
            losses.clear()
            source.reload()
        if time.monotonic() - saved > 60 and arguments.rank == 0:
            saved = time.monotonic()
            save(_state(model, ema, step), arguments.out / "denoiser.pt")
    if arguments.rank == 0:
        save(_state(model, ema, step), arguments.out / "denoiser.pt")
    print(f"done, step {step}", flush=True)


def _state(model: nn.Module, ema: nn.Module, step: int) -> dict:
    return {"model": model.state_dict(), "ema": ema.state_dict(), "step": step}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with latents")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--decay", type=float, default=0.0, help="fraction of the time, at the end, in which the rate falls"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--side", type=int, default=16, help="latent crop")
    parser.add_argument("--style-share", type=float, default=0.35)
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="autocast; measure first, it can be slower",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile: a minute to begin, then faster on a GPU")
    parser.add_argument("--rank", type=int, default=0, help="number of this process among --world")
    parser.add_argument(
        "--world", type=int, default=1, help="number of processes that train in parallel, one thread each"
    )
    parser.add_argument("--device", default="cpu", help="cuda where there is one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.world > 1:
        meeting = f"file://{(arguments.out / 'rendezvous').absolute()}"
        torch.distributed.init_process_group("gloo", meeting, rank=arguments.rank, world_size=arguments.world)
    train(arguments)


if __name__ == "__main__":
    main()
