"""Stage 3: fit the encoder in closed form, then train the decoder to clean noisy latents.

The first run fits the encoder and writes ``autoencoder.pt``; every run continues the decoder from there.
Usage: ``python -m bundled_model.autoencoder --data DIR --out DIR --minutes 60``
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bundled_model.autoencoder_model import encode_mean, fit_encoder, new_autoencoder
from bundled_model.pictures import CropSource, to_tensor

RATE = 2e-3
NOISE = 0.15
"""Largest noise on a latent, as a fraction of the latents' standard deviation."""


def load(path: Path) -> AutoencoderKL:
    """Return a new autoencoder, with the checkpoint's weights if there is one."""
    model = new_autoencoder()
    if path.exists():
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def train_rows(data: Path) -> np.ndarray:
    """Return the rows of the training photos; enlarged small photos are used half as often."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    kept = [row for row, record in enumerate(records) if not record["held_out"]]
    sharp = [row for row in kept if records[row]["folder"] != "scenes"]
    return np.array(kept + sharp)


def held_out_pictures(data: Path, count: int) -> Tensor:
    """Return the first held-out photos of every source, in -1..1."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    rows = [row for row, record in enumerate(records) if record["held_out"]]
    chosen = rows[:: max(1, len(rows) // count)][:count]
    return to_tensor(np.load(data / "photos.npy", mmap_mode="r")[chosen])


@torch.no_grad()
def psnr(model: AutoencoderKL, pictures: Tensor) -> float:
    """Return the mean PSNR of decoded pictures in decibels, values clamped to the visible range."""
    values = []
    for picture in pictures.split(4):
        drawn = model.decoder(encode_mean(model, picture)).clamp(-1, 1)
        error = (drawn - picture).square().mean((1, 2, 3)) / 4
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())


def fit(model: AutoencoderKL, source: CropSource) -> None:
    """Fit the encoder to crops of photos and style pictures."""
    pictures = source.draw(1500, 128).permute(0, 2, 3, 1).numpy()
    fit_encoder(model.encoder, pictures)


def loss_of(model: AutoencoderKL, pictures: Tensor, *, bfloat16: bool = False) -> Tensor:
    """Return the reconstruction error from a latent with a random amount of noise."""
    with torch.no_grad():
        latent = encode_mean(model, pictures)
    level = NOISE * latent.std() * torch.rand(len(latent), 1, 1, 1, device=latent.device) ** 2
    noisy = latent + level * torch.randn_like(latent)
    with torch.autocast(latent.device.type, torch.bfloat16, enabled=bfloat16):
        drawn = model.decoder(noisy.contiguous(memory_format=torch.channels_last))
    error = drawn.float() - pictures
    return 10 * error.square().mean() + error.abs().mean()


def learning_rate(progress: float, rate: float) -> float:
    """Return the learning rate: a short warm-up, then a cosine down to a twentieth."""
    warm = min(1.0, progress / 0.02 + 0.01)
    return rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def train(model: AutoencoderKL, source: CropSource, arguments: argparse.Namespace, probe: Tensor) -> None:
    """Train the decoder for the given time, with a checkpoint and a report every minute."""
    model.encoder.requires_grad_(False)
    weights = list(model.decoder.parameters())
    optimiser = torch.optim.Adam(weights, lr=arguments.rate, betas=(0.9, 0.98))
    start, saved, step = time.monotonic(), time.monotonic(), 0
    while (elapsed := time.monotonic() - start) < 60 * arguments.minutes:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(elapsed / (60 * arguments.minutes), arguments.rate)
        drawn = source.draw(arguments.batch, arguments.side)
        pictures = drawn.to(arguments.device, memory_format=torch.channels_last)
        loss = loss_of(model, pictures, bfloat16=arguments.bfloat16)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
        if time.monotonic() - saved > 60:
            saved = time.monotonic()
            save(model, arguments.out / "autoencoder.pt")
            source.reload()
            report = f"loss {loss.item():.4f}, held-out PSNR {psnr(model, probe):.2f}"
            print(f"{elapsed:.0f} s, step {step}, {report}", flush=True)
    save(model, arguments.out / "autoencoder.pt")
    print(f"done, step {step}, held-out PSNR {psnr(model, probe):.2f}", flush=True)


def save(model: AutoencoderKL, path: Path) -> None:
    """Write the checkpoint under a temporary name, then rename it."""
    torch.save(model.state_dict(), path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--device", default="cpu", help="cuda where there is one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bfloat16", action="store_true", help="autocast; measure first, it can be slower")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "autoencoder.pt"
    source = CropSource(arguments.data, train_rows(arguments.data), 0.35, arguments.seed)
    model = load(path)
    if not path.exists():
        fit(model, source)
        save(model, path)
    model = model.to(arguments.device, memory_format=torch.channels_last)
    train(model, source, arguments, held_out_pictures(arguments.data, 16).to(arguments.device))


if __name__ == "__main__":
    main()
