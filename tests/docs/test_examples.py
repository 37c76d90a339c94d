"""The examples run, with small settings."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from stylescore.method.timesteps import Grid

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = "my-sd15"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_python_api_keeps_a_picture_of_the_photos_size(sandbox: Path) -> None:
    result = example("python_api").main(photo=Path("photo.jpg"), model=TINY, target=sandbox / "painted.png")
    with Image.open(sandbox / "painted.png") as kept:
        assert kept.size == result.photo.picture.size


def test_custom_objective_draws_from_its_own_sampler(sandbox: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = example("custom_objective").main(photo=Path("photo.jpg"), style="oil-painting", model=TINY)
    assert result.picture.size == result.photo.picture.size
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_gallery_lays_photos_and_styles_out(sandbox: Path) -> None:
    photo = Path("photo.jpg")
    sheet = example("gallery").main([photo, photo], ["oil-painting"], sandbox / "sheet.png", TINY, iterations=2)
    with Image.open(sandbox / "sheet.png") as kept:
        assert kept.size == sheet.size
        assert kept.width > kept.height * 0.9


def test_the_knob_lays_styles_and_contents_out(sandbox: Path) -> None:
    settings = {"model": TINY, "size": 64, "settings": {"iterations": 2}}
    target = sandbox / "knob.png"
    sheet = example("knob").main(Path("photo.jpg"), ["oil-painting"], [0.0, 0.5, 1.0], target, **settings)
    with Image.open(target) as kept:
        assert kept.size == sheet.size
        assert kept.width > 2 * kept.height


def test_own_size_lays_both_ways_beside_the_photo(sandbox: Path) -> None:
    target = sandbox / "own-size.png"
    sheet = example("own_size").main(
        Path("photo.jpg"), "oil-painting", target, model=TINY, size=64, settings={"iterations": 2}
    )
    with Image.open(target) as kept:
        assert kept.size == sheet.size


def test_one_pass_lies_beside_the_run(tmp_path: Path) -> None:
    module = example("one_step")
    generators = {"van-gogh": module.find_generators()["van-gogh"]}
    target = tmp_path / "one-step.png"
    sheet = module.main([EXAMPLES / "face.jpg"], generators, target, cell=64, iterations=1, size=64)
    with Image.open(target) as kept:
        assert kept.size == sheet.size
        assert kept.width > 2 * kept.height


def test_small_networks_lie_beside_the_photo(tmp_path: Path) -> None:
    sheet = example("small_networks").main([EXAMPLES / "face.jpg"], tmp_path / "sheet.png", cell=64)
    with Image.open(tmp_path / "sheet.png") as kept:
        assert kept.size == sheet.size
        assert kept.width > 2 * kept.height
    few = example("small_networks").main(
        [EXAMPLES / "face.jpg"], tmp_path / "few.png", cell=64, styles=["pixel-art", "ink-drawing"]
    )
    assert few.width < sheet.width


def test_relevance_maps_lie_below_their_photos(sandbox: Path) -> None:
    photo = Path("photo.jpg")
    sheet = example("relevance_maps").main([photo, photo], "oil-painting", sandbox / "maps.png", TINY, draws=2)
    with Image.open(sandbox / "maps.png") as kept:
        assert kept.size == sheet.size
        below = np.asarray(kept)[kept.height // 2 + 4 :].astype(int)
    assert np.abs(below - below[..., :1]).max() == 0, "a map has no colour"
    assert below.max() > below.min()


def test_relevance_maps_of_the_bundled_model_are_of_one_size(sandbox: Path) -> None:
    photo = EXAMPLES / "chelsea.jpg"
    sheet = example("relevance_maps").main([photo], target=sandbox / "maps.png", draws=1)
    assert sheet.height > sheet.width


def test_thumbnails_are_small_squares(sandbox: Path) -> None:
    made = example("thumbnails").main(Path("photo.jpg"), ["oil-painting"], sandbox, TINY, iterations=2)
    with Image.open(sandbox / "oil-painting.webp") as kept:
        assert (kept.format, kept.size) == ("WEBP", (224, 224))
    assert made == [sandbox / "oil-painting.webp"]


def test_custom_sampler_stays_in_its_range_and_narrows() -> None:
    sampler = example("custom_objective").SquareNarrowing(Grid(t_min=21, t_max=499))
    rng = [torch.Generator().manual_seed(seed) for seed in range(200)]
    for progress, highest in ((0.0, 499), (0.5, 125), (0.999, 21)):
        drawn = sampler(progress, rng)
        assert int(drawn.min()) >= 21
        assert int(drawn.max()) <= highest


def test_gaussian_oracle_finds_the_spread_and_sds_does_not() -> None:
    module = example("gaussian_oracle")
    ends = module.main()
    mean, std = ends["style minus fake"]
    assert mean == pytest.approx(module.MEAN, abs=0.03)
    assert std == pytest.approx(module.STD, abs=0.02)
    assert ends["SDS"][1] < module.STD / 3


@pytest.mark.parametrize("name", ["coffee", "chelsea", "astronaut", "rocket", "face", "lamps"])
def test_example_photos_are_small_and_named_in_the_readme(name: str) -> None:
    with Image.open(EXAMPLES / f"{name}.jpg") as photo:
        assert photo.format == "JPEG"
        assert max(photo.size) <= 512
    assert f"`{name}.jpg`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


def test_the_gallery_shows_what_fails_on_a_sheet_of_one_command() -> None:
    root = EXAMPLES.parent
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert "--target docs/images/failures.jpg" in makefile.partition("\ngallery:")[2].partition("\n\n")[0]
    sheet = root / "docs" / "images" / "failures.jpg"
    assert sheet.stat().st_size < 300_000
    for page in ("docs/gallery.md", "docs/failures.md"):
        assert "images/failures.jpg" in (root / page).read_text(encoding="utf-8")
