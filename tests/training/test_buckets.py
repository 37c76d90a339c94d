"""Nested folders with repeats, and buckets: which picture comes when, and at which size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from stylescore.errors import ConfigError, PictureError
from stylescore.training.buckets import fit_bucket, make_buckets
from stylescore.training.checkpoint import restore
from stylescore.training.config import resolve
from stylescore.training.draws import batch_members
from stylescore.training.folder import TrainingState
from stylescore.training.loop import draw_batch, train
from stylescore.training.metadata import data_hash
from stylescore.training.pictures import TrainingPicture, read_dataset, stated_repeats

Make = Callable[..., Any]


def picture(width: int, height: int, repeats: int = 1) -> TrainingPicture:
    return TrainingPicture(Path("a.png"), "0", width, height, repeats)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((1536, 1536), (512, 512)),
        ((1000, 1000), (512, 512)),
        ((1024, 512), (704, 320)),
        ((4000, 3000), (576, 384)),
        ((300, 200), (256, 192)),
        ((64, 500), (64, 448)),
    ],
)
def test_a_bucket_keeps_the_aspect_and_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    found = fit_bucket(picture(*size), 512, 64)
    assert found == expected
    assert found[0] * found[1] <= 512**2
    assert all(now <= before for now, before in zip(found, size, strict=True))


@pytest.mark.parametrize("side", range(64, 1025, 64))
def test_a_square_larger_than_the_resolution_gets_the_resolution(side: int) -> None:
    for own in (side, side + 1, 2 * side, 3 * side, 7 * side + 3):
        assert fit_bucket(picture(own, own), side, 64) == (side, side)


def test_a_picture_smaller_than_a_cell_is_refused() -> None:
    with pytest.raises(PictureError, match=r"'a.png' has 500 x 40 pixels, a bucket needs 64 on each side"):
        fit_bucket(picture(500, 40), 512, 64)


def test_buckets_are_described() -> None:
    buckets = make_buckets([picture(512, 512), picture(512, 512), picture(128, 64)], 512, 64, enabled=True)
    assert buckets.groups == ((0, 1), (2,))
    assert buckets.describe() == (
        "buckets of up to 512x512 pixels: 512x512 (2), 128x64 (1); smaller pictures, which are not enlarged: 1"
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_a_batch_is_of_one_bucket_and_every_picture_comes_as_often(batch: int) -> None:
    groups = [(0, 1, 2), (3,), (4, 5, 5, 5)]
    entries = Counter(number for group in groups for number in group)
    for cycle in range(2):
        steps = range(8 * cycle, 8 * cycle + 8)  # as many as there are entries
        batches = [batch_members(7, step, batch, groups) for step in steps]
        assert all(any(set(members) <= set(group) for group in groups) for members in batches)
        drawn = Counter(number for members in batches for number in members)
        assert drawn == {number: count * batch for number, count in entries.items()}


def test_one_bucket_gives_the_batches_of_none() -> None:
    for step in range(20):
        assert batch_members(3, step, 3, [tuple(range(7))]) == batch_members(3, step, 3, [range(7)])


def test_equal_square_pictures_are_trained_to_the_same_bytes(session: Make, tmp_path: Path, own_styles: Path) -> None:
    folder = tmp_path / "squares"
    folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").rotate(90 * number).convert("RGB").save(folder / f"{number}.png")
    files = []
    for buckets in (False, True):
        *_, written = session(folder=folder, buckets=buckets).run()
        files.append(written.style.read_bytes())
        written.style.unlink()
    assert files[0] == files[1]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return a folder of pictures of three shapes."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, size in enumerate([(128, 64), (256, 128), (64, 128), (32, 32), (100, 100)]):
        Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20 + number).convert("RGB").save(folder / f"{number}.png")
    return folder


def test_pictures_of_different_aspect_are_trained_whole_and_resumed_to_the_same_bytes(
    session: Make, mixed: Path, own_styles: Path
) -> None:
    options = {"folder": mixed, "buckets": True, "steps": 6, "batch": 2}
    whole = session(**options)
    assert set(whole.base.buckets.sizes) == {(80, 32), (32, 80), (32, 32), (64, 64)}
    shapes = {tuple(draw_batch(whole.trainer, list(group)).z.shape[-2:]) for group in whole.trainer.cache.groups}
    assert shapes == {(4, 10), (10, 4), (4, 4), (8, 8)}
    *_, written = whole.run()
    expected = written.style.read_bytes()
    written.style.unlink()
    begun = session(**options)
    with pytest.raises(KeyboardInterrupt):
        list(begun.run(lambda: begun.trainer.step >= 3))
    again = session(**options)
    restore(again.trainer, begun.folder.load_state(TrainingState))
    again.folder = begun.folder
    *_, written = again.run()
    assert written.style.read_bytes() == expected


def test_buckets_and_random_crops_exclude_one_another() -> None:
    with pytest.raises(ConfigError, match="--buckets keeps whole pictures and cannot be combined with --crop random"):
        resolve({"name": "a", "buckets": True, "crop": "random"}, "sd1")


@pytest.fixture
def nested(pictures: Path, tools: SimpleNamespace) -> Path:
    """Return the folder of pictures with kohya's layout in it."""
    for number, name in enumerate(("10_ink wash", "3_ink", "0_bad", "2024_summer", ".hidden", "out/run")):
        (pictures / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), (9 * number, 0, 200)).save(pictures / name / "a.png")
    (pictures / "out" / "run" / "config.toml").write_text("", encoding="utf-8")
    return pictures


def test_nested_folders_are_read_and_their_names_state_repeats(nested: Path) -> None:
    found = read_dataset(nested)
    repeats = {picture.path.relative_to(nested).as_posix(): picture.repeats for picture in found.pictures}
    assert repeats == {
        "10_ink wash/a.png": 10,
        "2024_summer/a.png": 1,
        "3_ink/a.png": 3,
        **dict.fromkeys(("p0.png", "p1.png", "p2.png", "p3.png"), 1),
    }
    assert sorted(found.left_out) == [
        "0_bad: its name states 0 repeats",
        "out/run: the folder of a run, whose pictures were made from others",
    ]
    said = "\n".join(found.notes)
    assert "1 in 10_ink wash, 1 in 2024_summer, 1 in 3_ink, 4 in it" in said
    assert "10 times in '10_ink wash', 3 times in '3_ink'; its words are not used" in said


def test_captions_of_nested_pictures_are_found(session: Make, nested: Path) -> None:
    (nested / "10_ink wash" / "a.txt").write_text("a reed", encoding="utf-8")
    (nested / "metadata.jsonl").write_text('{"file_name": "3_ink/a.png", "text": "a pine"}', encoding="utf-8")
    plan = session(trigger="ink").plan
    prompts = {picture.path.parent.name: prompt for picture, prompt in plan.examples}
    assert (prompts["10_ink wash"], prompts["3_ink"], prompts["2024_summer"]) == ("ink, a reed", "ink, a pine", "ink")


def test_an_epoch_uses_pictures_as_often_as_stated(session: Make, nested: Path) -> None:
    trainer = session(steps=17, batch=1).trainer  # 10 + 3 + 1 + 4 entries, less one
    drawn = Counter(step.pictures[0] for step in islice(train(trainer), 17))
    assert sum(drawn.values()) == 17
    assert drawn[0] >= 9


def test_repeats_are_part_of_what_may_not_change() -> None:
    once, twice = ([(picture(8, 8, repeats), "x")] for repeats in (1, 2))
    assert data_hash(once) != data_hash(twice)


@pytest.mark.parametrize(
    ("name", "expected"), [("10_ink", 10), ("1_", 1), ("0_x", 0), ("2024_trip", None), ("x_10", None), ("10 ink", None)]
)
def test_repeats_are_read_from_names(name: str, expected: int | None) -> None:
    assert stated_repeats(name) == expected
