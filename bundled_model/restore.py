"""Write the weights of an exported model as checkpoints that the training stages continue.

Usage: ``python -m bundled_model.restore --model DIR --out DIR``; then ``bundled_model.latents`` reads
``DIR/autoencoder.pt``, ``bundled_model.denoiser --out DIR`` continues ``DIR/denoiser.pt``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from bundled_model.denoiser import save


def restore(model: Path, out: Path) -> None:
    """Write ``autoencoder.pt`` and ``denoiser.pt`` in full floats; step and optimisers start at zero."""
    parts = {
        name: kind.from_pretrained(model, subfolder=name, torch_dtype=torch.float32).state_dict()
        for name, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel))
    }
    denoiser = {f"unet.{key}": weight for key, weight in parts["unet"].items()}
    denoiser |= {f"text.{key}": weight for key, weight in parts["text_encoder"].items()}
    out.mkdir(parents=True, exist_ok=True)
    save(parts["vae"], out / "autoencoder.pt")
    save({"model": denoiser, "ema": denoiser, "step": 0}, out / "denoiser.pt")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="an exported folder")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    restore(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
