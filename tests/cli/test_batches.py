"""Many photos in one call: how they are named, what they show, what an earlier call has made, what fails."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from stylescore.images import read_metadata
from stylescore.images.oklab import to_oklab

PARITY = Path(__file__).parent.parent / "data" / "parity"
PHOTO = PARITY / "input_128x128.png"
ONE = ("--iterations", "1")


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB"))


def record(picture: Path) -> dict[str, Any]:
    return tomllib.loads((picture.parent / "config.toml").read_text("utf-8"))


def caption(picture: Path) -> str:
    text = record(picture)["run"]["caption"]
    assert isinstance(text, str)
    return text


@pytest.fixture
def trip(tmp_path: Path) -> Path:
    """Return a folder of three different photos, one of them in a folder in it."""
    folder = tmp_path / "trip"
    (folder / "day").mkdir(parents=True)
    with Image.open(PHOTO) as picture:
        for turns, name in enumerate(("p0.png", "p1.png", "day/p2.png")):
            picture.convert("RGB").rotate(90 * turns).save(folder / name)
    return folder


@pytest.fixture
def broken(trip: Path) -> Path:
    path = trip / "p05.png"
    path.write_bytes(PHOTO.read_bytes()[:15_000])
    return path


class TestNames:
    def test_a_folder_and_what_is_in_its_folders(
        self, stylize: Callable[..., Any], trip: Path, out: Path, tmp_path: Path
    ) -> None:
        (trip / "notes.md").write_text("no picture", encoding="utf-8")
        (trip / ".hidden.png").write_bytes(PHOTO.read_bytes())
        assert [path.parent.name[:2] for path in stylize(trip, *ONE).paths] == ["p0", "p1"]
        deep = stylize(trip, "--recursive", *ONE, "--output", tmp_path / "deep").paths
        assert [path.parent.relative_to(tmp_path / "deep").as_posix()[:6] for path in deep] == [
            "day/p2",
            "p0-sty",
            "p1-sty",
        ]

    def test_results_below_the_photos_are_no_photos(self, stylize: Callable[..., Any], trip: Path) -> None:
        for output in (trip / "made", trip / "again"):
            assert len(stylize(trip, "--recursive", *ONE, "--output", output).paths) == 3

    def test_patterns_lists_and_names_give_each_photo_once(
        self, stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(trip.parent)
        (trip / "list.txt").write_text("# mine\n\nday/p2.png\ntrip/p1.png\np*.png\n", encoding="utf-8")
        outcome = stylize("trip/p0.png", "trip/**/p0.png", "--list", trip / "list.txt", *ONE)
        assert [path.parent.name[:2] for path in outcome.paths] == ["p0", "p2", "p1"]

    def test_a_name_with_brackets_is_no_pattern(self, stylize: Callable[..., Any], trip: Path) -> None:
        (trip / "p0.png").rename(trip / "cat[old].png")
        assert stylize(trip / "cat[old].png", *ONE).picture.parent.name == "cat[old]-style_lora_kohya"

    def test_captions_named_among_the_photos_are_left_out(self, stylize: Callable[..., Any], trip: Path) -> None:
        (trip / "p0.txt").write_text("a dog", encoding="utf-8")
        outcome = stylize(*sorted(trip.glob("p*")), *ONE, quiet=False)
        assert len(outcome.paths) == 2
        assert f"note: left out, no pictures: {trip / 'p0.txt'}" in outcome.err.splitlines()

    @pytest.mark.parametrize(
        ("pattern", "name"),
        [
            ("{style}_{photo}_{seed}", "style_lora_kohya_p0_7"),
            ("{folder} {content} {size} {method} {iterations}", "trip 0.5 64 sms 1"),
            ("{{{photo}}}", "{p0}"),
        ],
    )
    def test_the_name_of_a_run_folder(
        self, pattern: str, name: str, stylize: Callable[..., Any], trip: Path, out: Path
    ) -> None:
        picture = stylize(trip / "p0.png", *ONE, "--seed", "7", "--name", pattern).picture
        assert picture == out / name / "picture.png"

    def test_what_a_name_is_filled_with_makes_no_folder(
        self, stylize: Callable[..., Any], trip: Path, out: Path
    ) -> None:
        (trip / "a:b?.png").write_bytes(PHOTO.read_bytes())
        assert stylize(trip / "a:b?.png", *ONE, "--name", "{photo}").picture.parent == out / "a_b_"


class TestCaptions:
    def test_each_photo_has_that_of_the_file_beside_it(
        self, stylize: Callable[..., Any], trip: Path, out: Path
    ) -> None:
        (trip / "p0.TXT").write_text("a dog\n", encoding="utf-8")
        (trip / "p1.caption").write_text("a cat", encoding="utf-8")
        first, second = stylize(trip, *ONE).paths
        assert (caption(first), caption(second)) == ("a dog", "a cat")
        assert record(first)["caption_source"] == "file"
        told = stylize(trip, *ONE, "--seed", "3", "--json", quiet=False)
        assert [row["caption"] for row in json.loads(told.out)["pictures"]] == ["a dog", "a cat"]
        assert "captions: " in told.err

    @pytest.mark.parametrize("names", ["plain", "dotted", "absolute", "through the folder above"])
    @pytest.mark.parametrize("table", ["captions.csv", "metadata.jsonl"])
    def test_a_table_may_spell_a_path_in_any_way(
        self, table: str, names: str, stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spell = {"plain": "", "dotted": "./", "absolute": f"{trip}/", "through the folder above": "../trip/"}[names]
        rows = [(f"{spell}p0.png", "a dog"), (f"{spell}p1.png", "a cat")]
        lines = {
            "captions.csv": ["file,caption", *(",".join(row) for row in rows)],
            "metadata.jsonl": [json.dumps({"file_name": name, "text": text}) for name, text in rows],
        }[table]
        (trip / table).write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.chdir(trip.parent)
        assert [caption(path) for path in stylize("trip", *ONE).paths] == ["a dog", "a cat"]
        given = stylize("trip/p1.png", "--captions", f"trip/{table}", "--seed", "1", *ONE).picture
        assert caption(given) == "a cat"

    def test_prompt_wins_and_none_reads_none(self, stylize: Callable[..., Any], trip: Path) -> None:
        (trip / "p0.txt").write_text("a dog", encoding="utf-8")
        photo = trip / "p0.png"
        assert caption(stylize(photo, *ONE, "--prompt", "a horse").picture) == "a horse"
        assert caption(stylize(photo, *ONE, "--caption", "none").picture) == ""

    def test_a_caption_is_what_the_prompt_would_be(
        self, stylize: Callable[..., Any], trip: Path, tmp_path: Path
    ) -> None:
        prompted = stylize(trip / "p0.png", "--prompt", "a dog").picture
        (trip / "p0.txt").write_text("a dog", encoding="utf-8")
        read = stylize(trip / "p0.png", "--output", tmp_path / "read").picture
        assert (pixels(read) == pixels(prompted)).all()
        other = stylize(trip / "p0.png", "--caption", "none", "--output", tmp_path / "none").picture
        assert not (pixels(read) == pixels(other)).all()


class TestAgain:
    def test_finished_photos_are_left_and_only_new_ones_made(
        self, stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = stylize(trip, *ONE).paths
        times = [path.stat().st_mtime_ns for path in first]
        with monkeypatch.context() as patch:
            patch.setattr("stylescore.cli.stylize._load", lambda *_: pytest.fail("a model was loaded"))
            again = stylize(trip, *ONE, quiet=False)
        assert again.paths == first
        assert f"note: {trip / 'p0.png'}: finished before; --overwrite makes it again" in again.err.splitlines()
        (trip / "p3.png").write_bytes((trip / "day" / "p2.png").read_bytes())
        rows = json.loads(stylize(trip, *ONE, "--json").out)["pictures"]
        assert [row["status"] for row in rows] == ["finished before", "finished before", "made"]
        assert [path.stat().st_mtime_ns for path in first] == times

    @pytest.mark.parametrize(
        "other",
        [
            ("--seed", "1"),
            ("--content", "0.4"),
            ("--prompt", "a dog"),
            ("--gif",),
            ("--format", "jpeg"),
            ("--keep-colours", "0.5"),
            ("--style-strength", "0.5"),
            ("--mask", "white.png"),
        ],
    )
    def test_another_setting_makes_a_new_folder(
        self, other: tuple[str, ...], stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(trip)
        Image.new("L", (64, 64), 255).save("white.png")
        first = stylize("p0.png", *ONE).picture.parent
        second = stylize("p0.png", *ONE, *other).picture.parent
        assert second.name == f"{first.name}-2"
        assert stylize("p0.png", *ONE, *other).picture.parent == second
        assert stylize("p0.png", *ONE).picture.parent == first

    def test_another_photo_of_the_name_or_another_place_of_it(
        self, stylize: Callable[..., Any], trip: Path, tmp_path: Path
    ) -> None:
        first = stylize(trip / "p0.png", *ONE).picture
        (trip / "p0.png").rename(tmp_path / "p0.png")
        assert stylize(tmp_path / "p0.png", *ONE).picture == first
        (tmp_path / "p0.png").write_bytes((trip / "p1.png").read_bytes())
        assert stylize(tmp_path / "p0.png", *ONE).picture.parent.name == f"{first.parent.name}-2"

    def test_two_photos_that_are_the_same_file_twice_get_two_folders(
        self, stylize: Callable[..., Any], trip: Path
    ) -> None:
        Image.open(trip / "p0.png").save(trip / "p0.webp", lossless=True)
        (trip / "p0.jpg").write_bytes((trip / "p0.png").read_bytes())
        paths = [trip / f"p0.{end}" for end in ("png", "webp", "jpg")]
        first = stylize(*paths, *ONE).paths
        assert len({path.parent for path in first}) == 3
        assert stylize(*paths, *ONE).paths == first

    def test_overwrite_makes_them_again_in_their_folders(self, stylize: Callable[..., Any], trip: Path) -> None:
        first = stylize(trip, *ONE, "--batch", "2", "--gif").paths
        before = [pixels(path) for path in first]
        for path in first:
            Image.new("RGB", (9, 9)).save(path)
        again = stylize(trip, *ONE, "--batch", "2", "--gif", "--overwrite")
        assert again.paths == first
        assert all((pixels(path) == old).all() for path, old in zip(first, before, strict=True))
        assert len((first[0].parent / "steps.jsonl").read_text().splitlines()) == 1

    @pytest.mark.parametrize("batch", ["1", "2"])
    def test_an_interrupted_batch_goes_on_with_the_same_command_to_the_same_bits(
        self,
        batch: str,
        stylize: Callable[..., Any],
        trip: Path,
        out: Path,
        tmp_path: Path,
        steps: Callable[[Path], Any],
    ) -> None:
        from stylescore.runs import runner

        call = (trip, "--recursive", "--batch", batch)
        straight = stylize(*call, "--output", tmp_path / "straight").paths
        original, seen = runner.step_row, []

        def step_row(iteration: Any, picture: int) -> Any:
            seen.append(iteration.index)
            if len(seen) == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return original(iteration, picture)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "step_row", step_row)
            stopped = stylize(*call)
        assert stopped.code == 130
        left = {"1": "1 of the photos not begun", "2": "1 of the photos not begun"}[batch]
        assert (left in stopped.err) is (batch == "1") or "not begun" in stopped.err

        resumed = stylize(*call)

        assert resumed.code == 0, resumed.err
        assert resumed.paths == [out / path.relative_to(tmp_path / "straight") for path in straight]
        for mine, other in zip(resumed.paths, straight, strict=True):
            assert (pixels(mine) == pixels(other)).all()
            assert steps(mine.parent) == steps(other.parent)

    def test_a_photo_that_another_process_makes_is_left_to_it(
        self, stylize: Callable[..., Any], trip: Path, stop_after: Callable[..., None]
    ) -> None:
        from stylescore.runs.lock import hold

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stylescore.runs.runner.step_row", __import__("stylescore.runs.runner").runs.runner.step_row)
            stop_after(1, lambda: os.kill(os.getpid(), signal.SIGINT))
            folder = next(
                Path(line.rpartition("--resume ")[2])
                for line in stylize(trip).err.splitlines()
                if line.startswith("saved; resume with")
            )
        with hold(folder):
            outcome = stylize(trip, quiet=False)
        assert (outcome.code, len(outcome.paths)) == (0, 1)
        assert "note: left out: the run in" in outcome.err


class TestFailures:
    def test_a_broken_photo_is_reported_at_the_end_and_the_others_are_made(
        self, stylize: Callable[..., Any], trip: Path, broken: Path
    ) -> None:
        outcome = stylize(trip, *ONE)
        assert outcome.code == 1
        assert [path.parent.name[:3] for path in outcome.paths] == ["p0-", "p1-"]
        lines = outcome.err.splitlines()
        assert lines[0].startswith(f"not made: {broken}: the picture {str(broken)!r} is damaged or incomplete: ")
        assert lines[1:] == [
            "error: 1 of 3 photos were not made",
            "hint: mend or leave out those named above; the same command makes what is missing and leaves the rest",
        ]
        broken.write_bytes(PHOTO.read_bytes())
        assert len(stylize(trip, *ONE).paths) == 3

    def test_json_has_a_row_for_each_as_it_comes(
        self, stylize: Callable[..., Any], trip: Path, broken: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (trip / "p9.png").write_bytes(b"")
        outcome = stylize(trip, *ONE, "--json")
        rows = json.loads(outcome.out)["pictures"]
        assert outcome.code == 1
        assert [(Path(row["photo"]).name, row["status"]) for row in rows] == [
            ("p9.png", "failed"),
            ("p0.png", "made"),
            ("p05.png", "failed"),
            ("p1.png", "made"),
        ]
        assert rows[0]["error"] == f"the file {str(trip / 'p9.png')!r} is empty (0 bytes)"
        assert rows[0]["picture"] is None
        assert len(outcome.out.splitlines()) == 2 + len(rows)

    def test_a_run_that_diverges_costs_its_own_photo_only(
        self, stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from stylescore.runs import runner

        started = []
        original = runner.Batch.start.__func__

        def start(kind: Any, stylizer: Any, jobs: Any, saved: Any = None) -> Any:
            batch = original(kind, stylizer, jobs, saved)
            started.append(batch)
            if len(started) == 1:
                batch.fitting.subject.z.data.fill_(float("nan"))
            return batch

        with monkeypatch.context() as patch:
            patch.setattr(runner.Batch, "start", classmethod(start))
            outcome = stylize(trip, *ONE)
        assert outcome.code == 1
        assert [path.parent.name[:3] for path in outcome.paths] == ["p1-"]
        assert "became non-finite" in outcome.err

    def test_a_photo_and_mask_that_do_not_fit_fail_alone(self, stylize: Callable[..., Any], trip: Path) -> None:
        masks = trip.parent / "masks"
        masks.mkdir()
        Image.new("L", (128, 128), 255).save(masks / "p0.png")
        Image.new("L", (128, 64), 255).save(masks / "p1.png")
        outcome = stylize(trip, *ONE, "--mask", masks)
        assert (outcome.code, len(outcome.paths)) == (1, 1)
        assert "has another aspect ratio than its photo" in outcome.err

    def test_all_photos_are_opened_one_by_one(
        self, stylize: Callable[..., Any], trip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import gc
        import weakref

        from stylescore.runs import job

        alive: list[weakref.ref[Any]] = []
        most = []
        read = job.read_photo

        def read_photo(path: Path) -> Any:
            photo = read(path)
            gc.collect()
            alive.append(weakref.ref(photo.picture))
            most.append(sum(ref() is not None for ref in alive))
            return photo

        monkeypatch.setattr(job, "read_photo", read_photo)
        assert len(stylize(trip, "--recursive", *ONE).paths) == 3
        assert most == [1, 1, 1] or max(most) <= 2


class TestResults:
    @pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
    def test_format_recipe_exif_and_place(
        self, format: str, suffix: str, stylize: Callable[..., Any], resume: Callable[..., Any], tmp_path: Path
    ) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Maker"
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (52.0, 30.0, 0.0)})
        Image.open(PHOTO).convert("RGB").resize((120, 80)).save(tmp_path / "phone.jpg", exif=exif)

        picture = stylize(tmp_path / "phone.jpg", *ONE, "--format", format).picture

        assert picture.name == f"picture{suffix}"
        assert tomllib.loads(read_metadata(picture)["stylescore"])["photo"] == "phone.jpg"
        with Image.open(picture) as made:
            assert made.size == (80, 120)
            assert made.getexif()[ExifTags.Base.Orientation] == 1
            assert made.getexif()[ExifTags.Base.Make] == "Maker"
            assert not made.getexif().get_ifd(ExifTags.IFD.GPSInfo)
        assert resume(picture.parent).complaint[1] == f"its picture is {picture}"
        kept = stylize(tmp_path / "phone.jpg", *ONE, "--format", format, "--keep-location").picture
        with Image.open(kept) as made:
            assert made.getexif().get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"

    def test_a_jpeg_says_that_it_has_no_transparency(self, stylize: Callable[..., Any], tmp_path: Path) -> None:
        picture = Image.open(PHOTO).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
        picture.save(tmp_path / "a.png")
        outcome = stylize(tmp_path / "a.png", *ONE, "--format", "jpeg", quiet=False)
        assert "note: a.png: JPEG has no transparency, it becomes white" in outcome.err.splitlines()

    def test_a_mask_keeps_the_photo_where_it_is_black(
        self,
        stylize: Callable[..., Any],
        interrupt_after: Callable[..., Path],
        resume: Callable[..., Any],
        tmp_path: Path,
    ) -> None:
        mask = Image.new("L", (64, 64), 0)
        mask.paste(255, (32, 0, 64, 64))
        mask.save(tmp_path / "mask.png")
        call = (PHOTO, "--mask", tmp_path / "mask.png", "--mask-feather", "4")
        picture = stylize(*call).picture
        photo = pixels(PHOTO)
        assert (pixels(picture)[:, :62] == photo[:, :62]).all()
        assert not (pixels(picture)[:, 70:] == photo[:, 70:]).all()
        assert record(picture)["hashes"]["mask"] == hashlib.sha256((tmp_path / "mask.png").read_bytes()).hexdigest()
        assert str(tmp_path) not in read_metadata(picture)["stylescore"]

        folder = interrupt_after(2, *call, "--output", tmp_path / "resumed")
        resumed = resume(folder).picture
        assert (pixels(resumed) == pixels(picture)).all()
        folder = interrupt_after(2, *call, "--output", tmp_path / "changed")
        Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
        assert "mask.png' changed after the run began" in resume(folder).complaint[0]

    def test_a_mask_for_each_photo_of_a_folder(self, stylize: Callable[..., Any], trip: Path) -> None:
        masks = trip / "masks"
        (masks / "day").mkdir(parents=True)
        for name, colour in (("p0.jpg", 0), ("p1.png.png", 255), ("day/p2.png", 0)):
            Image.new("L", (128, 128), colour).save(masks / name)
        paths = {path.parent.name[:2]: path for path in stylize(trip, "--recursive", "--mask", masks, *ONE).paths}
        assert set(paths) == {"p0", "p1", "p2"}
        assert (pixels(paths["p0"]) == pixels(trip / "p0.png")).all()
        assert (pixels(paths["p2"]) == pixels(trip / "day" / "p2.png")).all()
        assert not (pixels(paths["p1"]) == pixels(trip / "p1.png")).all()

    def test_keep_colours(self, stylize: Callable[..., Any]) -> None:
        plain, kept = (stylize(PHOTO, "--keep-colours", share).picture for share in ("0", "1"))
        chroma = to_oklab(pixels(PHOTO))[..., 1:]
        far, near = (np.abs(to_oklab(pixels(path))[..., 1:] - chroma).mean() for path in (plain, kept))
        assert near < far / 3
        assert (
            pixels(kept.with_name("picture-model-size.png")) == pixels(plain.with_name("picture-model-size.png"))
        ).all()


@pytest.fixture
def interrupt_after(stylize: Callable[..., Any], stop_after: Callable[..., None]) -> Callable[..., Path]:
    """Return a run that is interrupted after so many iterations, as the folder it leaves."""

    def call(count: int, *arguments: object) -> Path:
        import stylescore.runs.runner

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stylescore.runs.runner, "step_row", stylescore.runs.runner.step_row)
            stop_after(count, lambda: os.kill(os.getpid(), signal.SIGINT))
            outcome = stylize(*arguments)
        assert outcome.code == 130
        line = next(line for line in outcome.err.splitlines() if line.startswith("saved; resume with"))
        return Path(line.rpartition("--resume ")[2])

    return call


class TestMovedPhotos:
    def test_a_run_goes_on_with_its_photo_at_another_place(
        self,
        interrupt_after: Callable[..., Path],
        stylize: Callable[..., Any],
        resume: Callable[..., Any],
        trip: Path,
        tmp_path: Path,
    ) -> None:
        straight = stylize(trip / "p0.png", "--output", tmp_path / "straight").picture
        folder = interrupt_after(2, trip / "p0.png")
        moved = (trip / "p0.png").rename(tmp_path / "moved.png")
        missing = resume(folder)
        assert missing.complaint == [
            f"there is no file {str(trip / 'p0.png')!r}, the photo of this run",
            f"if it was moved: stylescore stylize --resume {folder} PHOTO",
        ]
        other = resume(folder, trip / "p1.png")
        assert other.code == 2
        assert "is not the photo that the run in" in other.complaint[0]

        picture = resume(folder, moved).picture

        assert (pixels(picture) == pixels(straight)).all()
        assert record(picture)["photo"] == str(moved)

    def test_several_runs_find_theirs_among_several_photos(
        self, interrupt_after: Callable[..., Path], resume: Callable[..., Any], trip: Path, out: Path
    ) -> None:
        interrupt_after(2, trip, "--batch", "2")
        moved = trip.rename(trip.with_name("elsewhere"))
        assert len(resume(out, moved).paths) == 2
