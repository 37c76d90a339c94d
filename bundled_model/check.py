"""Check an exported model: PSNR on held-out photos and styles, and a sheet of SDEdit pictures.

Usage: ``python -m bundled_model.check --data DIR --model DIR --out sheet.png``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from bundled_model.autoencoder import psnr
from bundled_model.pictures import to_tensor
from bundled_model.styles import RENDERERS, style_words
from stylescore.baselines import sdedit
from stylescore.method.schedule import NoiseSchedule
from stylescore.method.scores import NoisePredictor

START_TIMES = (300, 450, 550, 650)
STEPS = 12


def held_out(data: Path, count: int) -> tuple[np.ndarray, list[str]]:
    """Return held-out photos from all sources, with their captions."""
    records = json.loads((data / "photos.json").read_text(encoding="utf-8"))
    rows = [row for row, record in enumerate(records) if record["held_out"]]
    chosen = rows[len(rows) // (2 * count) :: len(rows) // count][:count]
    photos = np.load(data / "photos.npy", mmap_mode="r")
    return photos[chosen], [f"a photo of {records[row]['thing']}" for row in chosen]


def report_psnr(pipeline: StableDiffusionPipeline, data: Path, count: int = 24) -> None:
    """Print the autoencoder's PSNR on held-out photos and on their renderings."""
    photos, _ = held_out(data, count)
    print(f"photos {psnr(pipeline.vae, to_tensor(photos)):.2f} dB")
    for style, render in RENDERERS.items():
        drawn = [render(photo / 255.0, np.random.default_rng(number)) for number, photo in enumerate(photos[:12])]
        pixels = (255 * np.stack(drawn)).round().astype(np.uint8)
        print(f"{style} {psnr(pipeline.vae, to_tensor(pixels)):.2f} dB")


def guided(
    pipeline: StableDiffusionPipeline, schedule: NoiseSchedule, prompts: list[str], guidance: float
) -> NoisePredictor:
    """The pipeline's score under classifier-free guidance."""
    kept, empty = pipeline.encode_prompt(prompts, "cpu", 1, True, [""] * len(prompts))
    context = torch.cat([empty, kept])

    def score(noisy: Tensor, times: Tensor) -> Tensor:
        both = pipeline.unet(torch.cat([noisy, noisy]), torch.cat([times, times]), context).sample.chunk(2)
        clean = both[0] + guidance * (both[1] - both[0])
        return schedule.to_eps(clean, "sample", noisy, times)

    return score


@torch.no_grad()
def edited(
    pipeline: StableDiffusionPipeline, latents: Tensor, prompts: list[str], start: int, guidance: float
) -> Tensor:
    """Noise to ``start`` and denoise with DDIM; returns latents."""
    schedule = NoiseSchedule(pipeline.scheduler.betas)
    score = guided(pipeline, schedule, prompts, guidance)
    rng = [torch.Generator().manual_seed(number) for number in range(len(latents))]
    return sdedit(score, schedule, latents, strength=(start + 1) / len(schedule.betas), steps=STEPS, rng=rng)


@torch.no_grad()
def decode(pipeline: StableDiffusionPipeline, latents: Tensor) -> np.ndarray:
    """Latents to uint8 pictures."""
    drawn = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.clamp(-1, 1)
    return ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def encode(pipeline: StableDiffusionPipeline, photos: np.ndarray) -> Tensor:
    """Photos to scaled latents."""
    return pipeline.vae.encode(to_tensor(photos)).latent_dist.mode() * pipeline.vae.config.scaling_factor


def open_model(model: Path) -> StableDiffusionPipeline:
    """Load an exported folder in full floats."""
    return StableDiffusionPipeline.from_pretrained(model, safety_checker=None, torch_dtype=torch.float32)


def sheet(model: Path, photos: np.ndarray, captions: list[str], styles: list[str], guidance: float) -> np.ndarray:
    """Columns: photo, its reconstruction, then every style at every start time."""
    pipeline = open_model(model)
    latents = encode(pipeline, photos)
    columns = [photos, decode(pipeline, latents)]
    for style in styles:
        path = model / "styles" / f"{style}.safetensors"
        if path.exists():
            pipeline.load_lora_weights(path, adapter_name=style)
        prompts = [f"{style_words(style)}, {caption}" for caption in captions]
        columns += [decode(pipeline, edited(pipeline, latents, prompts, start, guidance)) for start in START_TIMES]
        if path.exists():
            pipeline.unload_lora_weights()
    return np.concatenate([np.concatenate(list(column), 0) for column in columns], 1)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the sheet, a picture file")
    parser.add_argument("--photos", type=int, default=5)
    parser.add_argument("--styles", nargs="+", default=["oil-painting", "pencil-sketch"])
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--psnr", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.psnr:
        report_psnr(open_model(arguments.model), arguments.data)
    photos, captions = held_out(arguments.data, arguments.photos)
    drawn = sheet(arguments.model, photos, captions, arguments.styles, arguments.guidance)
    Image.fromarray(drawn).save(arguments.out)


if __name__ == "__main__":
    main()
