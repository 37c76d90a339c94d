"""Photo sources, pairs with their noise, and what a step draws."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config
from PIL import Image

from stylescore.errors import ConfigError, PictureError
from stylescore.images import Photo, read_photo
from stylescore.images.captions import CaptionSource
from stylescore.training.generator import session
from stylescore.training.generator.batches import PairSamples, PhotoSamples, StepBatches
from stylescore.training.generator.pairs import Pair, PairFolder, PairMaker, RunPainter, pair_noise
from stylescore.training.generator.photos import Shards, open_photos, split_photos
from stylescore.training.generator.session import make_pairs, set_up

NONE = CaptionSource()


def pack(shard: Path, photos: Path, texts: dict[str, str]) -> None:
    """Write photos and captions into a tar file, as webdataset does."""
    with tarfile.open(shard, "w") as tar:
        for path in sorted(photos.glob("*.png")):
            for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.txt", texts.get(path.stem, "").encode())):
                if data:
                    member = tarfile.TarInfo(f"set/{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def test_a_folder_has_its_photos_and_captions(photos: Path) -> None:
    source = open_photos(photos, NONE)
    assert [source.name(n) for n in range(len(source))] == [f"p{n}.png" for n in range(8)]
    assert [source.caption(n) for n in range(3)] == ["", "bands of colour", "a dark sky"]
    assert source.load(3).tobytes() == read_photo(photos / "p3.png").picture.tobytes()


def test_shards_have_the_photos_of_the_folder_they_were_made_of(photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    pack(shards / "0.tar", photos, {"p1": "bands of\ncolour"})
    pack(shards / "1.tar", photos, {})
    files, source = open_photos(photos, NONE), open_photos(shards, NONE)
    assert isinstance(source, Shards)
    assert len(source) == 16
    assert source.name(9) == "1.tar/set/p1.png"
    assert [source.caption(n) for n in (0, 1, 9)] == ["", "bands of colour", ""]
    assert all(source.load(8 + n).tobytes() == files.load(n).tobytes() for n in range(8))
    assert len(open_photos(shards / "0.tar", CaptionSource("a thing"))) == 8
    assert open_photos(shards / "0.tar", CaptionSource("a thing")).caption(0) == "a thing"


def test_a_table_names_photos_beside_it(photos: Path) -> None:
    table = photos / "table.csv"
    table.write_text("file,caption\n" + "".join(f"p{n}.png,number {n}\n" for n in range(5)), encoding="utf-8")
    source = open_photos(table, NONE)
    assert [source.caption(n) for n in range(len(source))] == [f"number {n}" for n in range(5)]


def test_a_digest_changes_with_photos_and_captions(photos: Path, tmp_path: Path) -> None:
    first = open_photos(photos, NONE).digest()
    (photos / "p3.txt").write_text("new", encoding="utf-8")
    assert open_photos(photos, NONE).digest() != first
    pack(tmp_path / "a.tar", photos, {})
    shard = open_photos(tmp_path / "a.tar", NONE).digest()
    pack(tmp_path / "a.tar", photos, {"p1": "text"})
    assert open_photos(tmp_path / "a.tar", NONE).digest() != shard


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f / "none", PictureError, "must be a folder"),
        (lambda f: f.mkdir() or f, PictureError, "no pictures"),
        (lambda f: f.with_suffix(".tar").write_bytes(b"no tar" * 200) and f.with_suffix(".tar"), PictureError, "shard"),
        (
            lambda f: f.with_suffix(".csv").write_text("file,caption\nx.png,a\n") and f.with_suffix(".csv"),
            PictureError,
            "no file",
        ),
        (lambda f: f.with_suffix(".csv").write_text("name\nx.png\n") and f.with_suffix(".csv"), ConfigError, "column"),
    ],
)
def test_unusable_photo_sources_are_refused(
    tmp_path: Path, make: Callable[[Path], Path], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        open_photos(make(tmp_path / "here"), NONE)


def test_too_few_photos_are_refused(photos: Path) -> None:
    for number in range(5):
        (photos / f"p{number}.png").unlink()
    with pytest.raises(PictureError, match="needs at least 4 photos"):
        open_photos(photos, NONE)


def test_what_cannot_be_used_is_left_out_and_named(photos: Path) -> None:
    (photos / "p0.png").write_bytes(b"no picture")
    data = (photos / "p3.png").read_bytes()
    (photos / "p3.png").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (900, 64)).save(photos / "strip.png")
    source = open_photos(photos, NONE)
    assert [source.name(n) for n in range(len(source))] == [f"p{n}.png" for n in (1, 2, 4, 5, 6, 7)]
    assert [line.partition(":")[0] for line in source.left_out] == ["p0.png", "p3.png", "strip.png"]


def test_captions_have_one_source(photos: Path, tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", photos, {})
    with pytest.raises(ConfigError, match="not for shards"):
        open_photos(tmp_path / "a.tar", CaptionSource(table=photos / "x.csv"))
    (photos / "t.csv").write_text("file,caption\np1.png,a\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has their captions itself"):
        open_photos(photos / "t.csv", CaptionSource("one"))


def test_a_member_that_is_no_picture_is_named(photos: Path, tmp_path: Path) -> None:
    (photos / "p4.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    pack(tmp_path / "a.tar", photos, {})
    with pytest.raises(PictureError, match=r"a\.tar/set/p4\.png"):
        open_photos(tmp_path / "a.tar", NONE).load(4)


def test_held_out_photos_are_not_trained_on() -> None:
    held_out, trained = split_photos([5, 2, 7, 0, 1, 3, 4, 6], 3)
    assert (held_out, trained) == ([5, 2], [7, 0, 1, 3, 4, 6])
    assert split_photos([1, 0, 2, 3], 99)[0] == [1]


def test_the_noise_of_a_pair_is_that_of_its_run(generator_request: Callable[..., Any]) -> None:
    setup = set_up(generator_request())
    stylizer = setup.stylizer.with_run(setup.config.run)
    photo = read_photo(setup.request.photos / "p1.png")
    fitting = stylizer.start([photo, photo], seeds=[77, 2**62])
    z, z_source = fitting.subject.draw(fitting.rng)
    for _ in range(2):
        draw = fitting.objective.draw(z, z_source, progress=0.0, rng=fitting.rng)
        for eps, seed in zip(draw.eps, (77, 2**62), strict=True):
            torch.testing.assert_close(eps, pair_noise(seed, tuple(z.shape[1:])))


def test_pairs_are_made_once_and_go_on_where_they_were_left(
    generator_request: Callable[..., Any], tmp_path: Path
) -> None:
    folder, whole = PairFolder(tmp_path / "some"), PairFolder(tmp_path / "whole")
    setup = set_up(generator_request(pairs={"batch": 1}))
    made = [pair.done for pair in make_pairs(setup, whole)]
    assert made == [1, 2, 3, 4, 5, 6]
    for pair in make_pairs(setup, folder):
        if pair.done == 2:
            break
    with folder.log_file.open("a", encoding="utf-8") as file:
        file.write('{"number": 2, "pho')  # as a killed process leaves it
    assert sorted(folder.read()) == [0, 1]
    assert [pair.done for pair in make_pairs(setup, folder)] == [3, 4, 5, 6]
    assert folder.read() == whole.read()
    for number in range(6):
        assert folder.picture_file(number).read_bytes() == whole.picture_file(number).read_bytes()
    assert not list(make_pairs(setup, folder))


class GroupPainter:
    """Paints into each picture which pairs were made together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def paint(self, photos: Sequence[Photo], plans: Sequence[Pair]) -> list[Image.Image]:
        self.groups.append([plan.number for plan in plans])
        colour = (len(plans), plans[0].number, plans[-1].number)
        return [Image.new("RGB", photo.picture.size, colour) for photo in photos]


def test_a_batch_that_was_cut_off_is_made_again_as_it_was(
    generator_request: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's rounding depends on what is beside it."""
    setup, painter, folder = set_up(generator_request(pairs={"batch": 4})), GroupPainter(), PairFolder(tmp_path)
    monkeypatch.setattr(session, "_make_painter", lambda *given: painter)
    assert [pair.done for pair in make_pairs(setup, folder)] == [1, 2, 3, 4, 5, 6]
    groups, before = list(painter.groups), [folder.picture_file(number).read_bytes() for number in range(6)]
    assert max(map(len, groups)) > 1
    for number in (1, 2):
        folder.picture_file(number).unlink()
    written = folder.picture_file(0).stat().st_mtime_ns
    assert [pair.done for pair in make_pairs(setup, folder)] == [5, 6]
    assert [folder.picture_file(number).read_bytes() for number in range(6)] == before
    assert folder.picture_file(0).stat().st_mtime_ns == written
    assert painter.groups[len(groups) :] == [group for group in groups if {1, 2} & set(group)]


def test_a_pair_is_what_the_program_makes_of_the_photo(generator_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = PairFolder(tmp_path / "pairs")
    setup = set_up(generator_request(pairs={"batch": 3}))
    list(make_pairs(setup, folder))
    stylizer = setup.stylizer.with_run(setup.config.run)
    for number, pair in folder.read().items():
        photo = read_photo(setup.request.photos / setup.photos.name(pair.photo))
        changes = {"seed": pair.seed, "prompt": pair.caption}
        result = stylizer.stylize(photo, progress=False, **changes)
        made = read_photo(folder.picture_file(number)).picture
        assert made.size == (pair.width, pair.height) == result.model_picture.size
        difference = torch.tensor(list(made.tobytes())).float() - torch.tensor(list(result.model_picture.tobytes()))
        assert difference.abs().max() <= 2  # several in a batch differ by rounding


def test_after_the_last_photo_the_first_follows_mirrored(generator_request: Callable[..., Any]) -> None:
    setup = set_up(generator_request())
    maker = PairMaker(RunPainter(setup.stylizer), setup.stylizer, setup.photos, setup.held_out, setup.trained, 0)
    plans = [maker.plan(number) for number in range(14)]
    assert [plan.photo for plan in plans] == [*setup.held_out, *setup.trained, *setup.trained]
    assert [plan.mirrored for plan in plans] == [False] * 8 + [True] * 6
    assert len({plan.seed for plan in plans}) == 14


def test_pairs_of_another_style_are_refused(generator_request: Callable[..., Any], tmp_path: Path) -> None:
    folder = PairFolder(tmp_path / "pairs")
    setup = set_up(generator_request())
    list(make_pairs(setup, folder))
    other = set_up(generator_request("vsd"))
    with pytest.raises(ConfigError, match="were made with another method"):
        list(make_pairs(other, folder))
    folder.record_file.write_text("[", encoding="utf-8")
    with pytest.raises(ConfigError, match="is damaged"):
        list(make_pairs(setup, folder))


@pytest.mark.parametrize(
    "change",
    [{"seed": -1}, {"seed": 2**63}, {"width": 65}, {"height": 0}, {"number": 1.5}, {"mirrored": 1}, {"caption": 3}],
)
def test_a_line_that_is_no_pair_is_left_out(
    tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # the program refuses it, and not the tests' checks
    row = {"number": 0, "photo": 0, "seed": 1, "mirrored": False, "caption": "", "width": 64, "height": 64}
    folder = PairFolder(tmp_path)
    folder.picture_file(0).touch()
    folder.log_file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert set(folder.read()) == {0}
    folder.log_file.write_text(json.dumps({**row, **change}) + "\n", encoding="utf-8")
    assert folder.read() == {}


def test_a_crop_of_a_pair_has_its_part_of_the_noise(tmp_path: Path) -> None:
    folder = PairFolder(tmp_path)
    photo = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    pair = Pair(number=0, photo=0, seed=5, mirrored=False, caption="", width=96, height=64)
    folder.write(pair, photo, photo.rotate(180))
    samples = PairSamples(folder, [pair], 4, 64)
    noise, places = pair_noise(5, (4, 8, 12)), set()
    for seed in range(12):
        sample = samples.draw(0, torch.Generator().manual_seed(seed))
        left = next(x for x in range(5) if torch.equal(noise[:, :, x : x + 8], sample.noise))
        box = (8 * left, 0, 8 * left + 64, 64)
        assert (sample.photo * 255).round().byte().permute(1, 2, 0).numpy().tobytes() == photo.crop(box).tobytes()
        target = photo.rotate(180).crop(box).tobytes()
        assert (sample.target * 255).round().byte().permute(1, 2, 0).numpy().tobytes() == target
        places.add(left)
    assert places == {0, 1, 2, 3, 4}
    assert PairSamples(folder, [pair], 4, 64, with_noise=False).fixed(0, torch.Generator()).noise.shape == (0, 8, 8)


def test_half_of_the_crops_of_pairs_are_mirrored_where_asked(tmp_path: Path) -> None:
    folder = PairFolder(tmp_path)
    photo = Image.linear_gradient("L").resize((96, 64)).rotate(90).convert("RGB")
    folder.write(pair := Pair(number=0, photo=0, seed=5, mirrored=False, caption="", width=96, height=64), photo, photo)
    plain, flipped = (PairSamples(folder, [pair], 4, 64, with_noise=False, flip=flip) for flip in (False, True))
    turned = 0
    for seed in range(40):
        one, other = (samples.draw(0, torch.Generator().manual_seed(seed)) for samples in (plain, flipped))
        same = torch.equal(one.photo, other.photo) and torch.equal(one.target, other.target)
        assert same or (torch.equal(one.photo.flip(-1), other.photo) and torch.equal(one.target.flip(-1), other.target))
        turned += not same
    assert 10 < turned < 30
    assert torch.equal(plain.fixed(0, torch.Generator()).photo, flipped.fixed(0, torch.Generator()).photo)


def test_photos_are_cropped_anywhere_and_stand_for_their_own_pictures(photos: Path) -> None:
    samples = PhotoSamples(open_photos(photos, NONE), range(8), 4, 64)
    drawn = [samples.draw(1, torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert all(sample.photo.shape == (3, 64, 64) and sample.noise.shape == (4, 8, 8) for sample in drawn)
    assert all(torch.equal(sample.photo, sample.target) for sample in drawn)
    assert not torch.equal(drawn[0].photo, drawn[1].photo)
    assert drawn[0].caption == "bands of colour"
    assert 0 <= drawn[0].photo.min() < drawn[0].photo.max() <= 1
    fixed = [samples.fixed(1, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert torch.equal(fixed[0].photo, fixed[1].photo)


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_follow_from_their_number_whoever_loads_them(photos: Path, workers: int) -> None:
    samples = PhotoSamples(open_photos(photos, NONE), range(8), 4, 64)
    batches = StepBatches(samples, seed=1, phase=0, batch=4, accumulate=2)
    loaded = list(batches.steps(3, 5, workers))
    for parts, step in zip(loaded, (3, 4), strict=True):
        assert [part.positions for part in parts] == [(0, 1), (2, 3)]
        for part, again in zip(parts, batches[step], strict=True):
            assert torch.equal(part.photo, again.photo)
            assert torch.equal(part.noise, again.noise)


def test_every_photo_is_drawn_once_in_an_epoch(photos: Path) -> None:
    samples = PhotoSamples(open_photos(photos, NONE), range(8), 4, 64)
    batches = StepBatches(samples, seed=1, phase=0, batch=4)
    assert sorted(batches._member(place) for place in range(8)) == list(range(8))
    assert sorted(batches._member(place) for place in range(8, 16)) == list(range(8))


def test_a_pairs_line_holds_all_that_draws_its_noise(tmp_path: Path) -> None:
    pair = Pair(number=3, photo=1, seed=2**62 + 1, mirrored=True, caption="ä", width=64, height=72)
    folder = PairFolder(tmp_path)
    folder.write(pair, Image.new("RGB", (64, 72)), Image.new("RGB", (64, 72)))
    assert json.loads(folder.log_file.read_text(encoding="utf-8"))["seed"] == 2**62 + 1
    assert folder.read() == {3: pair}
    Image.new("RGB", (72, 64)).save(folder.picture_file(3), format="WEBP")
    with pytest.raises(PictureError, match="is 72 x 64 pixels, its pair 64 x 72"):
        PairSamples(folder, [pair], 4, 64).fixed(0, torch.Generator())
    folder.picture_file(3).unlink()
    assert folder.read() == {}
