"""Stage 4: encode every training picture once and write prompts beside it.

Usage: ``python -m bundled_model.latents --data DIR --autoencoder DIR/autoencoder.pt``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D

from bundled_model.autoencoder import load
from bundled_model.autoencoder_model import encode_mean
from bundled_model.captions import photo_prompt, style_prompt
from bundled_model.pictures import to_tensor
from bundled_model.styles import style_words
from bundled_model.text import tokenize, write_tokenizer

PROMPTS = 12
LATENT_STD = 1.6
"""Standard deviation after scaling: more than one, because 32 x 32 latents tolerate less noise than 64 x 64."""


def skip_silent_residuals(model: AutoencoderKL) -> None:
    """Remove the encoder's residual branches, which are zero, to encode many pictures faster."""
    for block in model.encoder.modules():
        if isinstance(block, ResnetBlock2D):
            skip = block.conv_shortcut or torch.nn.Identity()
            block.forward = lambda hidden, temb=None, skip=skip: skip(hidden)


@torch.no_grad()
def encode(model: AutoencoderKL, pixels: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """Unscaled latents of uint8 pictures, as half floats."""
    parts = []
    for start in range(0, len(pixels), 16):
        pictures = to_tensor(pixels[start : start + 16])
        pictures = pictures.flip(-1) if mirrored else pictures
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        parts.append(encode_mean(model, pictures).contiguous().half().numpy())
    return np.concatenate(parts)


def photo_latents(model: AutoencoderKL, data: Path, records: list[dict], tokenizer: object) -> None:
    """Latents, mirrored latents and prompts of the training photos."""
    rng = np.random.default_rng(1)
    rows = [row for row, record in enumerate(records) if not record["held_out"]]
    pixels = np.load(data / "photos.npy", mmap_mode="r")[rows]
    for name, mirrored in (("photos", False), ("mirrored", True)):
        np.save(data / f"latents-{name}.npy", encode(model, pixels, mirrored))
    prompts = [photo_prompt(records[row]["thing"], records[row]["colour"], rng) for row in rows for _ in range(PROMPTS)]
    tokens = tokenize(tokenizer, prompts).astype(np.uint16).reshape(len(rows), PROMPTS, -1)
    for name in ("photos", "mirrored"):
        np.save(data / f"tokens-{name}.npy", tokens)


def style_latents(model: AutoencoderKL, data: Path, records: list[dict], tokenizer: object) -> None:
    """Latents and prompts of every rendered part."""
    for path in sorted(data.glob("style-*-[0-9][0-9].npy")):
        style = path.stem[len("style-") : -3]
        rng = np.random.default_rng([2, *path.stem.encode()])
        rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        shown = [(records[row]["thing"], records[row]["colour"]) for row in rows for _ in range(PROMPTS)]
        prompts = [style_prompt(style_words(style), thing, colour, rng) for thing, colour in shown]
        tokens = tokenize(tokenizer, prompts).astype(np.uint16).reshape(len(rows), PROMPTS, -1)
        np.save(data / f"tokens-{path.stem}.npy", tokens)
        np.save(data / f"latents-{path.stem}.npy", encode(model, np.load(path)))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that bundled_model.prepare wrote")
    parser.add_argument("--autoencoder", type=Path, required=True, help="its autoencoder.pt")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    records = json.loads((arguments.data / "photos.json").read_text(encoding="utf-8"))
    tokenizer = write_tokenizer(records, arguments.data / "tokenizer")
    model = load(arguments.autoencoder).to(memory_format=torch.channels_last)
    skip_silent_residuals(model)
    photo_latents(model, arguments.data, records, tokenizer)
    style_latents(model, arguments.data, records, tokenizer)
    std = float(np.load(arguments.data / "latents-photos.npy", mmap_mode="r")[::10].astype(np.float32).std())
    scaling = {"scaling_factor": round(LATENT_STD / std, 4)}
    (arguments.data / "scaling.json").write_text(json.dumps(scaling), encoding="utf-8")


if __name__ == "__main__":
    main()
