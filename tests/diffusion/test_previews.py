"""Previews come from a tiny autoencoder where there is one, pictures from the full one, and the run never notices."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from stylescore import RunConfig, StyleChoice, Stylizer, read_photo
from stylescore.assembly import stylizer
from stylescore.assembly.networks import Networks
from stylescore.catalog.registry import resolve_preview_model
from stylescore.config.presets import load
from stylescore.config.run import with_options
from stylescore.config.toml import overlay
from stylescore.diffusion import previews
from stylescore.diffusion.codec import Codec
from stylescore.diffusion.families import FAMILIES
from stylescore.diffusion.previews import choose_codec
from stylescore.errors import ModelError
from stylescore.images import to_picture
from stylescore.method.types import Latent
from stylescore.runs.job import Task, Written, make_job
from stylescore.runs.runner import Batch, SavedResult

PARITY = Path(__file__).parents[1] / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
STYLE = str(PARITY / "style_lora_kohya.safetensors")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def tiny_vae(levels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderTiny

    torch.manual_seed(5)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
        **more,
    )


def saved(folder: Path, **more: Any) -> Path:
    tiny_vae(**more).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Return the folder of a tiny autoencoder with random weights that fits the tiny Stable Diffusion."""
    return saved(tmp_path / "tiny")


@pytest.fixture
def own(tiny_models: Callable[..., Networks]) -> Codec:
    """Return the tiny Stable Diffusion's autoencoder."""
    return tiny_models().codec


def run_config(iterations: int = 2, **more: Any) -> RunConfig:
    method = overlay(load("balanced"), {"iterations": iterations})
    options: dict[str, Any] = {"model": str(PARITY / "tiny_base"), "size": 64, "method": method} | more
    return with_options(RunConfig(styles=(StyleChoice(name=STYLE),)), options)


def run(config: RunConfig, out: Path, *, gif: bool = False, preview_every: int = 0) -> tuple[Batch, Path]:
    """Make a whole run and return it and its folder."""
    made = Stylizer(config)
    written = Written(gif=gif, preview_every=preview_every)
    job = make_job(made, Task(photo=PHOTO, parent=out), read_photo(PHOTO), written)
    batch = Batch.start(made, [job])
    assert isinstance(list(batch.run())[-1], SavedResult)
    return batch, job.folder.path


def pixels(picture: Path | Image.Image) -> bytes:
    return (picture if isinstance(picture, Image.Image) else Image.open(picture)).tobytes()


def decoded(folder: Path, latents: Latent) -> Image.Image:
    """Decode with diffusers alone."""
    from diffusers import AutoencoderTiny

    with torch.no_grad():
        return to_picture(AutoencoderTiny.from_pretrained(folder).decode(latents).sample)


def cache(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> list[str]:
    """Have the local cache hold this folder for every id; return the ids that it is asked for."""
    asked: list[str] = []

    def find(hub_id: str) -> Path | None:
        asked.append(hub_id)
        return folder

    monkeypatch.setattr(previews, "cached_tiny", find)
    return asked


# A run


def test_previews_come_from_the_tiny_one_and_the_picture_from_the_full_one(tiny: Path, tmp_path: Path) -> None:
    batch, folder = run(run_config(preview_model=str(tiny)), tmp_path / "out", gif=True, preview_every=1)
    z = batch.fitting.subject.render()

    assert pixels(folder / "previews" / "step-00002.png") == pixels(decoded(tiny, z))
    assert pixels(batch.frames[0][-1]) == pixels(decoded(tiny, z))
    (full,) = batch.stylizer.decode(z)
    assert pixels(folder / "picture-model-size.png") == pixels(full)
    assert pixels(full) != pixels(decoded(tiny, z))


def test_the_run_is_the_same_bit_by_bit_however_it_is_previewed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = {
        "unseen": run(run_config(3), tmp_path / "unseen"),
        "its own": run(run_config(3), tmp_path / "own", gif=True, preview_every=1),
        "named": run(run_config(3, preview_model=str(tiny)), tmp_path / "named", gif=True, preview_every=1),
    }
    cache(monkeypatch, tiny)
    ways["found"] = run(run_config(3), tmp_path / "found", gif=True, preview_every=1)

    first, place = ways["unseen"]
    for name, (batch, folder) in ways.items():
        assert torch.equal(batch.fitting.subject.render(), first.fitting.subject.render()), name
        for file in ("picture.png", "picture-model-size.png"):
            assert pixels(folder / file) == pixels(place / file), name
        assert (folder / "steps.jsonl").read_text() == (place / "steps.jsonl").read_text(), name


def test_without_one_in_the_cache_the_full_one_makes_the_previews(tmp_path: Path) -> None:
    batch, folder = run(run_config(), tmp_path / "out", preview_every=2)

    assert batch.stylizer.preview_codec is batch.stylizer._networks.codec
    assert pixels(folder / "previews" / "step-00002.png") == pixels(folder / "picture-model-size.png")


def test_one_in_the_cache_is_used_unasked(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cache(monkeypatch, tiny)

    batch, folder = run(run_config(), tmp_path / "out", preview_every=1)

    assert asked == ["madebyollin/taesd"]
    shown = decoded(tiny, batch.fitting.subject.render())
    assert pixels(folder / "previews" / "step-00002.png") == pixels(shown)


def test_the_bundled_model_ignores_one_that_does_not_fit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cache(monkeypatch, tiny)
    mini = Stylizer(replace(run_config(model="mini"), styles=(StyleChoice(name="oil-painting"),)))

    assert mini.preview_codec is mini._networks.codec
    assert asked == ["madebyollin/taesd"]
    named = mini.with_run(replace(mini.run, preview_model=str(tiny)))
    with pytest.raises(ModelError, match="it has 4 latent channels, not 32"):
        _ = named.preview_codec


def test_nothing_is_loaded_where_no_previews_are_asked_for(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_one(*_: object) -> None:
        raise AssertionError("a tiny autoencoder was looked for")

    monkeypatch.setattr(stylizer, "choose_codec", load_one)

    run(run_config(1), tmp_path / "out")
    run(run_config(1, preview_model=str(tiny)), tmp_path / "out")
    with pytest.raises(AssertionError):
        run(run_config(1), tmp_path / "out", gif=True)


def test_one_that_cannot_be_used_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "other", latent_channels=16)
    with pytest.raises(ModelError, match="does not fit the model"):
        run(run_config(preview_model=str(folder)), tmp_path / "out", gif=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="there is no preview model"):
        Stylizer(run_config(preview_model=str(tmp_path / "none")))


def test_another_run_on_loaded_models_may_have_another(tiny: Path) -> None:
    first = Stylizer(run_config())
    other = first.with_run(run_config(preview_model=str(tiny)))

    assert first.preview_codec is first._networks.codec
    assert type(other.preview_codec.vae).__name__ == "AutoencoderTiny"
    assert other.with_run(run_config()).preview_codec is first.preview_codec
    with pytest.raises(ModelError, match="there is no preview model"):
        first.with_run(run_config(preview_model="/nowhere"))


def test_less_memory_and_windows(tiny: Path) -> None:
    def shown(**more: Any) -> tuple[Image.Image, Codec, list[tuple[int, ...]]]:
        made = Stylizer(run_config(preview_model=str(tiny), size=128, **more))
        seen: list[tuple[int, ...]] = []
        made.preview_codec.vae.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2:]))
        return made.preview(made.start([read_photo(PHOTO)]), 0), made.preview_codec, seen

    whole, codec, seen = shown()
    assert (whole.size, seen, codec.execution_device) == ((128, 128), [(16, 16)], None)
    visiting, codec, seen = shown(memory="low")
    assert (pixels(visiting), seen, codec.execution_device) == (pixels(whole), [(16, 16)], torch.device("cpu"))
    windows, _, seen = shown(tile=64)
    assert windows.size == (128, 128)
    assert len(seen) == 9
    assert set(seen) == {(8, 8)}


# The choice


def test_its_latents_are_in_the_models_unit(tiny: Path, own: Codec) -> None:
    codec = choose_codec(resolve_preview_model(str(tiny)), None, own)
    assert (codec.factor, codec.scale, codec.shift) == (8, (1.0,), (0.0,))
    assert (codec.vae.dtype, codec.vae.training) == (torch.float32, False)
    assert not any(weight.requires_grad for weight in codec.vae.parameters())


@pytest.mark.parametrize(("levels", "step", "pixels"), [(4, 2, 8), (3, 2, 4), (2, 8, 8)])
def test_pixels_of_a_cell_are_those_of_a_decoded_cell(levels: int, step: int, pixels: int) -> None:
    codec = Codec(tiny_vae(levels, upsampling_scaling_factor=step).eval())
    assert codec.factor == pixels
    assert codec.decode(torch.zeros(1, 4, 2, 3)).shape == (1, 3, 2 * pixels, 3 * pixels)


def test_it_gets_the_precision_of_the_full_one(tiny: Path, own: Codec) -> None:
    from diffusers import AutoencoderKL

    half = replace(own, vae=AutoencoderKL.from_config(own.vae.config).to(torch.bfloat16))
    assert choose_codec(resolve_preview_model(str(tiny)), None, half).vae.dtype == torch.bfloat16


def test_every_family_has_a_default_one() -> None:
    assert {family.facts.key: family.facts.tiny_autoencoder for family in FAMILIES} == {
        "sd1": "madebyollin/taesd",
        "sdxl": "madebyollin/taesdxl",
        "sd3": "madebyollin/taesd3",
        "flux": "madebyollin/taef1",
    }


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickled(folder: Path) -> None:
    no_weights(folder)
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))


def a_pickle_in_disguise(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({}))


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def incomplete(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.pop("decoder.layers.0.weight")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "AutoencoderKL"}))


def odd_settings(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_decoder_blocks": [1]}))


def other_channels(folder: Path) -> None:
    saved(folder, latent_channels=16)


def coarser(folder: Path) -> None:
    saved(folder, levels=3)


def grey(folder: Path) -> None:
    saved(folder, out_channels=1)


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (no_config, "'{}' is no tiny autoencoder: it has no config.json"),
    (broken_config, "the tiny autoencoder of '{}' cannot be read: config.json: "),
    (another_kind, "'{}' is a 'AutoencoderKL', not an AutoencoderTiny"),
    (odd_settings, "the tiny autoencoder of '{}' cannot be loaded: "),
    (no_weights, "the tiny autoencoder of '{}' has no diffusion_pytorch_model.safetensors"),
    (
        pickled,
        "the tiny autoencoder of '{}' is a pickle (diffusion_pytorch_model.bin), which may run code when loaded",
    ),
    (a_pickle_in_disguise, f"'{{}}/{WEIGHTS}' is a pickle, not a safetensors file with a model"),
    (cut, f"'{{}}/{WEIGHTS}' is truncated: "),
    (incomplete, "the tiny autoencoder of '{}' lacks 1 of its weights, such as 'decoder.layers.0.weight'"),
    (other_channels, "the tiny autoencoder of '{}' does not fit the model: it has 16 latent channels, not 4"),
    (coarser, "the tiny autoencoder of '{}' does not fit the model: it has 4 pixels per latent cell, not 8"),
    (grey, "the tiny autoencoder of '{}' does not fit the model: it has 1 colour channels, not 3"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_what_is_refused_when_named_is_passed_over_in_the_cache(
    damage: Callable[[Path], None], message: str, tiny: Path, own: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(tiny)
    with pytest.raises(ModelError) as caught:
        choose_codec(resolve_preview_model(str(tiny)), None, own)
    assert str(caught.value).startswith(message.format(tiny))

    cache(monkeypatch, tiny)
    assert choose_codec(None, "maker/tiny", own) is own


def test_a_refusal_says_what_to_do(tiny: Path, own: Codec) -> None:
    pickled(tiny)
    with pytest.raises(ModelError) as caught:
        choose_codec(resolve_preview_model(str(tiny)), None, own)
    assert caught.value.hint == "get it with .safetensors weights"


def test_a_hub_id_is_fetched_only_when_it_is_named(tiny: Path, own: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def fetch(hub_id: str) -> Path:
        fetched.append(hub_id)
        return tiny

    monkeypatch.setattr(previews, "download_tiny", fetch)
    asked = cache(monkeypatch, None)
    assert choose_codec(None, "maker/usual", own) is own
    assert (asked, fetched) == (["maker/usual"], [])
    assert choose_codec(resolve_preview_model("maker/tiny"), "maker/usual", own).vae is not own.vae
    assert (asked, fetched) == (["maker/usual"], ["maker/tiny"])
    assert choose_codec(None, None, own) is own
