"""Stage 7: write the model as an ordinary diffusers pipeline folder, in half floats.

Usage: ``python -m bundled_model.export --data DIR --autoencoder FILE --denoiser FILE --out DIR``
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTokenizer

from bundled_model.autoencoder import load
from bundled_model.denoiser import Denoiser
from bundled_model.denoiser_model import new_scheduler


def scaled_autoencoder(path: Path, data: Path) -> AutoencoderKL:
    """Load the autoencoder and set the scaling factor of its latents."""
    model = load(path)
    scaling = json.loads((data / "scaling.json").read_text(encoding="utf-8"))
    model.register_to_config(**scaling)
    return model


def assemble(data: Path, autoencoder: Path, denoiser: Path) -> StableDiffusionPipeline:
    """Assemble the pipeline from its parts."""
    tokenizer = CLIPTokenizer.from_pretrained(data / "tokenizer")
    model = Denoiser(tokenizer)
    model.load_state_dict(torch.load(denoiser, map_location="cpu", weights_only=True)["ema"])
    return StableDiffusionPipeline(
        vae=scaled_autoencoder(autoencoder, data),
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--autoencoder", type=Path, required=True, help="autoencoder.pt")
    parser.add_argument("--denoiser", type=Path, required=True, help="denoiser.pt")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pipeline = assemble(arguments.data, arguments.autoencoder, arguments.denoiser).to(torch.float16)
    pipeline.save_pretrained(arguments.out, safe_serialization=True)
    for name in ("vocab.json", "merges.txt"):  # older programs read these two instead of tokenizer.json
        shutil.copyfile(arguments.data / "tokenizer" / name, arguments.out / "tokenizer" / name)


if __name__ == "__main__":
    main()
