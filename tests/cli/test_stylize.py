"""A whole run through the command line: what it writes, what it says, what its options do."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
from collections.abc import Callable
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file

from stylescore.catalog.registry import BUNDLED, list_styles
from stylescore.cli.options import BUNDLED_STYLES
from stylescore.images import read_metadata, to_picture, to_tensor
from stylescore_apply.storage.files import sha256

PARITY = Path(__file__).parent.parent / "data" / "parity"
FILES = ["before-after.png", "config.toml", "picture-model-size.png", "picture.png", "steps.jsonl"]


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def record(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "config.toml").read_text("utf-8"))


class TestWhatIsWritten:
    def test_the_folder(
        self, stylize: Callable[..., Any], photo: Path, out: Path, steps: Callable[[Path], list[dict[str, Any]]]
    ) -> None:
        outcome = stylize(photo)
        folder = outcome.picture.parent

        assert outcome.picture == out / "input_128x128-style_lora_kohya" / "picture.png"
        assert sorted(path.name for path in folder.iterdir()) == FILES
        assert Image.open(folder / "picture.png").size == (128, 128)
        assert Image.open(folder / "picture-model-size.png").size == (64, 64)
        assert Image.open(folder / "before-after.png").width > 2 * 128
        rows = steps(folder)
        assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
        assert all(isfinite(value) for row in rows for value in row.values())

    def test_the_record(
        self, stylize: Callable[..., Any], photo: Path, tiny: Path, style: Path, own_styles: Path
    ) -> None:
        folder = stylize(
            *(photo, "--seed", "3", "--content", "0.25", "--prompt", "a dog", "--style-prompt", "ink"),
            *("--set", "spectrum.weight=2e-4", "--set", "timesteps.t_max=399", "--style-strength", "0.5"),
            *("--set", "weight=unit", "--method", "vsd", "--preset", "reference"),
        ).picture.parent
        kept = record(folder)

        assert kept["hashes"]["photo"] == hashlib.sha256(photo.read_bytes()).hexdigest()
        assert kept["hashes"]["style"] == [hashlib.sha256(style.read_bytes()).hexdigest()]
        assert kept["hashes"]["model"] == sha256(tiny)
        assert kept["style_prompt"] == "ink"
        run = kept["run"]
        assert (run["seed"], run["content"], run["size"], run["caption"]) == (3, 0.25, 64, "a dog")
        method = run["method"]
        assert (method["method"], method["iterations"], method["style_strength"]) == ("vsd", 4, 0.5)
        assert (method["spectrum"]["weight"], method["timesteps"]["t_max"], method["weight"]) == (2e-4, 399, "unit")

    def test_the_pictures_tell_how_they_were_made_but_not_where(
        self, stylize: Callable[..., Any], photo: Path, tiny: Path, style: Path, tmp_path: Path
    ) -> None:
        folder = stylize(photo, "--iterations", "1").picture.parent

        kept = record(folder)
        for name in ("picture.png", "picture-model-size.png", "before-after.png"):
            text = read_metadata(folder / name)["stylescore"]
            told = tomllib.loads(text)
            assert str(photo.parent) not in text
            assert str(tmp_path) not in text
            assert (told["photo"], told["run"]["model"]) == (photo.name, tiny.name)
            assert told["run"]["styles"] == [{"name": style.name, "weight": 1.0}]
            assert set(told["hashes"]) == {"photo", "model", "style"}
            for key in ("command", "hashes", "version"):
                assert told[key] == kept[key]
            assert told["run"]["method"] == kept["run"]["method"]

    def test_a_run_with_another_seed_does_not_overwrite_the_first(
        self, stylize: Callable[..., Any], photo: Path
    ) -> None:
        first, second = (stylize(photo, "--iterations", "1", "--seed", seed).picture for seed in (1, 2))

        assert second.parent.name == f"{first.parent.name}-2"
        assert first.is_file()

    def test_previews_and_animation(self, stylize: Callable[..., Any], photo: Path) -> None:
        folder = stylize(photo, "--preview-every", "2", "--gif").picture.parent

        assert sorted(path.name for path in (folder / "previews").iterdir()) == ["step-00002.png", "step-00004.png"]
        with Image.open(folder / "run.gif") as film:
            assert film.size == (64, 64)
            assert film.n_frames > 1
            assert film.info["loop"] == 0
        last = pixels(folder / "previews" / "step-00004.png")
        assert np.array_equal(last, pixels(folder / "picture-model-size.png"))

    def test_a_very_long_photo_name(self, stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
        named = tmp_path / f"{'ä' * 120}.png"
        named.write_bytes(photo.read_bytes())

        assert stylize(named, "--iterations", "1").picture.is_file()


class TestPictures:
    @pytest.mark.parametrize("size", [(300, 97), (97, 150), (65, 64), (30, 40)])
    def test_the_result_has_the_network_bytes_the_photo(
        self, size: tuple[int, int], stylize: Callable[..., Any], tmp_path: Path
    ) -> None:
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / "photo.png")

        picture = Image.open(stylize(tmp_path / "photo.png", "--iterations", "1").picture)

        assert (picture.size, picture.mode) == (size, "RGB")

    def test_transparency_is_kept(self, stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
        source = Image.open(photo).convert("RGB").resize((90, 70))
        source.putalpha(Image.linear_gradient("L").resize((90, 70)))
        source.save(tmp_path / "photo.png")

        folder = stylize(tmp_path / "photo.png", "--iterations", "1").picture.parent
        picture = Image.open(folder / "picture.png")

        assert picture.mode == "RGBA"
        assert picture.getchannel("A").tobytes() == source.getchannel("A").tobytes()
        assert Image.open(folder / "picture-model-size.png").mode == "RGB"

    def test_a_turned_photo_comes_out_upright(self, stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
        upright = Image.open(photo).convert("RGB").crop((0, 0, 120, 80))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        upright.save(tmp_path / "upright.png")
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)

        turned, straight = (
            pixels(stylize(tmp_path / name, "--iterations", "1").picture) for name in ("turned.png", "upright.png")
        )

        assert turned.shape == (80, 120, 3)
        assert np.array_equal(turned, straight)


class TestTalk:
    def test_stdout_carries_the_paths_and_stderr_the_talk(self, stylize: Callable[..., Any], photo: Path) -> None:
        outcome = stylize(photo, quiet=False)

        assert outcome.paths == [outcome.picture]
        assert outcome.picture.is_file()
        assert outcome.err.startswith("loading ")
        assert outcome.err.count("step 4 of 4") == 1
        assert "warn" not in outcome.err.lower()

    def test_quiet_is_quiet(self, stylize: Callable[..., Any], photo: Path) -> None:
        assert stylize(photo, "--prompt", "a cat " * 60).err == ""

    def test_json(self, stylize: Callable[..., Any], photo: Path, other_photo: Path, out: Path) -> None:
        outcome = stylize(photo, other_photo, "--json", "--gif", "--seed", "5", "--iterations", "2")
        told = json.loads(outcome.out)

        assert list(told) == ["pictures"]
        for row, source in zip(told["pictures"], (photo, other_photo), strict=True):
            folder = out / f"{source.stem}-style_lora_kohya"
            assert row == {
                "photo": str(source),
                "status": "made",
                "folder": str(folder),
                "picture": str(folder / "picture.png"),
                "model_picture": str(folder / "picture-model-size.png"),
                "before_after": str(folder / "before-after.png"),
                "gif": str(folder / "run.gif"),
                "caption": "",
                "width": 128,
                "height": 128,
                "iterations": 2,
                "seed": 5,
            }
            assert all(Path(row[key]).is_file() for key in ("picture", "model_picture", "before_after", "gif"))

    def test_photos_of_one_name_get_folders_that_tell_them_apart(
        self, stylize: Callable[..., Any], photo: Path, out: Path, tmp_path: Path
    ) -> None:
        photos = [tmp_path / "trip" / "a" / "same.png", tmp_path / "trip" / "b" / "same.png", tmp_path / "other.png"]
        for copy in photos:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, copy)
        folders = [out / "a" / "same-style_lora_kohya", out / "b" / "same-style_lora_kohya"]
        folders.append(out / "other-style_lora_kohya")

        outcome = stylize(*photos, "--iterations", "1", quiet=False)
        rows = json.loads(stylize(*photos, "--iterations", "1", "--seed", "1", "--json").out)["pictures"]

        assert outcome.paths == [folder / "picture.png" for folder in folders]
        told = [line for line in outcome.err.splitlines() if " -> " in line]
        assert told == [f"{one} -> {path}" for one, path in zip(photos, outcome.paths, strict=True)]
        assert [(row["photo"], row["folder"]) for row in rows] == [
            (str(one), f"{folder}-2") for one, folder in zip(photos, folders, strict=True)
        ]

    def test_notes_on_a_photo(self, stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
        frames = [Image.open(photo).convert("RGB"), Image.new("RGB", (128, 128))]
        frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])

        outcome = stylize(tmp_path / "film.gif", "--iterations", "1", quiet=False)

        assert "note: film.gif: animated picture: using the first of 2 frames" in outcome.err.splitlines()


class TestRepeatability:
    def test_one_seed_one_picture(
        self,
        stylize: Callable[..., Any],
        photo: Path,
        steps: Callable[[Path], list[dict[str, Any]]],
        tmp_path: Path,
    ) -> None:
        first, other = (stylize(photo, "--seed", seed).picture for seed in (1, 2))
        second = stylize(photo, "--seed", "1", "--output", tmp_path / "again").picture

        assert np.array_equal(pixels(first), pixels(second))
        assert steps(first.parent) == steps(second.parent)
        assert not np.array_equal(pixels(first), pixels(other))

    def test_a_batch_gives_what_one_by_one_gives(
        self, stylize: Callable[..., Any], photo: Path, tmp_path: Path
    ) -> None:
        photos = [photo, tmp_path / "mirror.png", tmp_path / "turned.png"]
        source = Image.open(photo).convert("RGB")
        source.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos[1])
        source.resize((100, 130)).save(photos[2])

        together = stylize(*photos, "--batch", "2").paths
        alone = stylize(*photos, "--batch", "1", "--output", tmp_path / "alone").paths

        assert len(together) == len(alone) == 3
        for one, other in zip(together, alone, strict=True):
            difference = np.abs(pixels(one).astype(int) - pixels(other).astype(int))
            assert difference.max() <= 1  # a convolution over two pictures rounds otherwise than over one
            assert difference.mean() < 1e-3


class TestMethods:
    def test_all_five_give_finite_and_different_pictures(
        self, stylize: Callable[..., Any], photo: Path, steps: Callable[[Path], list[dict[str, Any]]]
    ) -> None:
        pictures = {name: stylize(photo, "--method", name).picture for name in ("sms", "vsd", "sds", "dds", "pds")}

        for name, picture in pictures.items():
            rows = steps(picture.parent)
            assert record(picture.parent)["run"]["method"]["method"] == name
            assert len(rows) == 4
            assert all(isfinite(value) for row in rows for value in row.values())
            assert ("fake_loss" in rows[0]) == (name in ("sms", "vsd"))
        for one, other in combinations(pictures.values(), 2):
            assert not np.array_equal(pixels(one), pixels(other))

    def test_sdedit_without_strength_gives_back_the_decoded_photo(
        self, stylize: Callable[..., Any], photo: Path, steps: Callable[[Path], list[dict[str, Any]]]
    ) -> None:
        copy = stylize(photo, "--method", "sdedit", "--strength", "0").picture
        assert not (copy.parent / "steps.jsonl").exists()
        assert (copy.parent / "picture-model-size.png").is_file()
        decoded = Image.open(copy.parent / "picture-model-size.png")
        autoencoder = AutoencoderKL.from_pretrained(PARITY / "tiny_base" / "vae")
        with torch.no_grad():
            latent = autoencoder.encode(to_tensor(Image.open(photo).convert("RGB"), decoded.size)).latent_dist.mean
            twice = autoencoder.decode(latent).sample
        assert np.abs(np.asarray(to_picture(twice), int) - np.asarray(decoded, int)).max() <= 1

        changed = stylize(photo, "--method", "sdedit", "--strength", "0.5").picture
        assert len(steps(changed.parent)) == 4
        assert record(changed.parent)["run"]["method"]["sdedit"] == {"strength": 0.5}
        assert not np.array_equal(pixels(copy), pixels(changed))

    def test_a_picture_in_place_of_a_style(
        self, program: Callable[..., Any], tiny: Path, photo: Path, other_photo: Path, out: Path
    ) -> None:
        given = ("stylize", photo, "--method", "styleid", "--style-image", other_photo, "--model", tiny)
        quick = ("--output", out, "--size", "64", "--iterations", "2", "--quiet")
        picture = program(*given, *quick).picture
        assert picture.parent == out / "input_128x128-other"
        assert record(picture.parent)["hashes"]["style_image"] == sha256(other_photo)
        assert program(*given, *quick).picture == picture
        assert len(list(out.iterdir())) == 1

    def test_a_preset_file(self, stylize: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
        preset = tmp_path / "mine.toml"
        preset.write_text('about = "mine"\nguidance_scale = 2\n[methods.sds]\nguidance_scale = 3\n', encoding="utf-8")

        scales = [
            record(stylize(photo, "--iterations", "1", "--preset", preset, *more).picture.parent)["run"]["method"][
                "guidance_scale"
            ]
            for more in ((), ("--method", "sds"))
        ]

        assert scales == [2.0, 3.0]

    def test_a_model_brings_its_own_preset(
        self, stylize: Callable[..., Any], photo: Path, tiny: Path, tmp_path: Path
    ) -> None:
        model = shutil.copytree(tiny, tmp_path / "model")
        (model / "preset.toml").write_text("guidance_scale = 2.5\n", encoding="utf-8")

        method = record(stylize(photo, "--iterations", "1", "--model", model).picture.parent)["run"]["method"]

        assert method["guidance_scale"] == 2.5


class TestStyles:
    def test_a_style_by_name(self, stylize: Callable[..., Any], photo: Path, style: Path, own_styles: Path) -> None:
        save_file(load_file(style), own_styles / "oil.safetensors", {"modelspec.trigger_phrase": "thick oil"})

        picture = stylize(photo, "--style", "oil", "--iterations", "1").picture

        assert picture.parent.name == "input_128x128-oil"
        assert record(picture.parent)["style_prompt"] == "thick oil"
        assert record(picture.parent)["run"]["styles"] == [{"name": "oil", "weight": 1.0}]

    def test_two_styles_with_shares(
        self, stylize: Callable[..., Any], photo: Path, style: Path, own_styles: Path
    ) -> None:
        (own_styles / "oil.safetensors").write_bytes(style.read_bytes())
        words = ("--style-prompt", "oil")

        mixed = stylize(photo, "--style", "oil=0.25", "--style", f"{style}=0.75", *words).picture
        whole = stylize(photo, "--style", "oil", *words).picture
        weak = stylize(photo, "--style", "oil=0.25", *words).picture

        assert mixed.parent.name == "input_128x128-oil+style_lora_kohya"
        assert record(mixed.parent)["run"]["styles"] == [
            {"name": "oil", "weight": 0.25},
            {"name": str(style), "weight": 0.75},
        ]
        near, far = (np.abs(pixels(other).astype(int) - pixels(whole).astype(int)).mean() for other in (mixed, weak))
        assert near < far / 2

    def test_strength_zero_is_another_picture(self, stylize: Callable[..., Any], photo: Path) -> None:
        with_style, without = (stylize(photo, "--style-strength", s).picture for s in ("0.8", "0"))

        assert not np.array_equal(pixels(with_style), pixels(without))

    def test_another_base_under_the_style(self, stylize: Callable[..., Any], photo: Path, tiny: Path) -> None:
        shared, apart = stylize(photo).picture, stylize(photo, "--style-model", tiny).picture

        assert record(apart.parent)["run"]["style_model"] == str(tiny)
        assert record(apart.parent)["hashes"]["style_model"] == sha256(tiny)
        difference = np.abs(pixels(shared).astype(int) - pixels(apart).astype(int))
        assert difference.mean() < 1


def test_a_run_says_its_sizes_and_where_its_constants_come_from(stylize: Callable[..., Any], photo: Path) -> None:
    outcome = stylize(photo, quiet=False)
    assert "settings: balanced; style weights: adapter" in outcome.err
    assert "size: 64 x 64 pixels; the picture is resized to the photo's 128 x 128" in outcome.err
    assert record(outcome.picture.parent)["run"]["preset"] == "balanced"


def test_a_batch_that_shares_a_fake_score_says_so(
    stylize: Callable[..., Any], photo: Path, other_photo: Path, tmp_path: Path
) -> None:
    shared = ("--set", "fake.scope=batch")
    assert "depends on the others" not in stylize(photo, *shared, quiet=False).err
    assert (
        "depends on the others"
        in stylize(photo, other_photo, "--batch", "2", *shared, "--output", tmp_path / "two", quiet=False).err
    )


def test_a_photo_much_larger_than_the_model_works_at_names_the_option(
    stylize: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    Image.open(photo).resize((72, 72)).save(tmp_path / "small.png")
    hint = "a larger --size is finer"
    (line,) = [line for line in stylize(photo, quiet=False).err.splitlines() if hint in line]
    assert line.startswith("size: 64 x 64 pixels; the picture is resized to the photo's 128 x 128")
    assert hint not in stylize(tmp_path / "small.png", quiet=False).err


def test_a_run_without_a_style_lists_them(program: Callable[..., Any], photo: Path, own_styles: Path) -> None:
    (own_styles / "mine.safetensors").write_bytes((PARITY / "style_lora_kohya.safetensors").read_bytes())
    outcome = program("stylize", photo)
    assert (outcome.code, outcome.complaint[0]) == (2, "stylize needs a --style")
    for words in ("watercolor (pale washes)", "mine (yours)", *BUNDLED_STYLES):
        assert words in outcome.complaint[1]


def test_every_bundled_style_is_described() -> None:
    assert set(BUNDLED_STYLES) == {entry.name for entry in list_styles() if entry.bundled}


def test_a_preset_for_other_models_is_warned_of(stylize: Callable[..., Any], photo: Path) -> None:
    def warnings(*words: object) -> list[str]:
        outcome = stylize(photo, *words, "--iterations", "1", quiet=False)
        assert outcome.code == 0
        return [line for line in outcome.err.splitlines() if line.startswith("warning: the preset")]

    own = BUNDLED / "mini" / "preset.toml"
    refined = ("--set", "refine.factor=1", "--set", "text_encoder_lora=false")
    assert warnings("--preset", "balanced") == []
    assert warnings("--preset", own, *refined) == [
        f"warning: the preset {str(own)!r} is for the bundled model mini, not for {PARITY / 'tiny_base'}: "
        "take balanced or swift"
    ]
