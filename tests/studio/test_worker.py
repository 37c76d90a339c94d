"""The worker: the real engine on the tiny model stops, keeps, goes on, and survives kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image, ImageChops
from tests.apply.tiny import build
from tests.diffusion.test_captioner import WORDS, save_blip

from stylescore.assembly.one_step import load_one_step
from stylescore.errors import ConfigError
from stylescore.images import read_metadata
from stylescore.runs.lock import hold
from stylescore.studio import style_list
from stylescore.studio.drafts import save_draft
from stylescore.studio.engine import Draft, StylizeEngine, Task, TimeLeft
from stylescore.studio.folder import StudioFolder
from stylescore.studio.jobs import STOP, JobStore, StoredPhoto
from stylescore.studio.masks import save_mask
from stylescore.studio.settings import Settings, make_job_run, settings_of_record
from stylescore.studio.style_list import StyleList
from stylescore.studio.supervisor import Supervisor
from stylescore.studio.worker import LazyEngine, Worker

QUICK = {"iterations": 6, "refine.factor": 1.0}
SECONDS = 90.0


class Bench:
    """A folder with one photo, and jobs of it."""

    def __init__(self, path: Path) -> None:
        self.folder = StudioFolder.make(path)
        self.store = JobStore(self.folder.database)
        place = self.folder.photo("photo")
        place.mkdir()
        Image.radial_gradient("L").resize((96, 64)).convert("RGB").save(place / "cup.png")
        row: Any = {"name": "cup.png", "file": "cup.png", "width": 96, "height": 64, "sha256": "x", "notes": ()}
        self.store.add_photo(StoredPhoto(id="photo", session="a", created=0.0, **row))

    def add(self, **settings: Any) -> str:
        chosen = Settings(**{"style": "van-gogh", "size": 64, "constants": QUICK, **settings})
        return self.store.add_jobs("a", ["photo"], chosen, "mini")[0].id

    def task(self, key: str, generator: Path | None = None) -> Task:
        job = self.store.job("a", key)
        run = make_job_run(job.settings, StyleList(), "mini", "cpu")
        photo, place = self.folder.photo("photo") / "cup.png", self.folder.run(key)
        mask = None if job.settings.mask is None else self.folder.mask("photo", job.settings.mask)
        drafts = [Draft(job=key, photo=photo, generator=generator, place=place)] if generator else []
        return Task(run=run, photo=photo, place=place, folder=job.folder, mask=mask, drafts=drafts)

    def run(
        self, engine: Any, key: str, request_at: int = 0, requested: str = "", generator: Path | None = None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Run a job by hand; ask for something once so many iterations are done."""
        told: list[dict[str, Any]] = []

        def report(**fields: Any) -> str:
            told.append(fields)
            for drafted in fields.pop("drafts", ()):
                fields["draft"] = drafted == key
            self.store.report(key, **fields)
            return requested if request_at and fields.get("iteration", 0) >= request_at else ""

        return engine.run(self.task(key, generator), report), told

    def picture(self, key: str) -> Image.Image:
        job = self.store.job("a", key)
        return Image.open(self.folder.run(key) / str(job.folder) / "picture.png")


class Unprepared:
    """An engine that does nothing before its first job."""

    def prepare(self) -> None:
        return


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "studio")


@pytest.fixture(scope="module")
def engine() -> StylizeEngine:
    return StylizeEngine()


def is_same(first: Image.Image, second: Image.Image) -> bool:
    return ImageChops.difference(first.convert("RGB"), second.convert("RGB")).getbbox() is None


def test_a_run_reports_and_leaves_what_the_page_shows(bench: Bench, engine: StylizeEngine) -> None:
    key = bench.add(content=0.9, caption="a cup")
    status, told = bench.run(engine, key)
    assert status == "done"
    assert [fields["iteration"] for fields in told if fields.get("seconds_left") is not None] == [1, 2, 3, 4, 5, 6]
    low, high = next(fields["relevance"] for fields in told if fields.get("relevance"))
    assert 0 <= low < high <= 1
    place = bench.folder.run(key)
    with Image.open(place / "relevance.png") as layer:
        alpha = layer.getchannel("A").getextrema()
    assert alpha[0] < 20 < 160 < alpha[1] <= 180
    assert all((place / name).is_file() for name in ("view.jpg", "thumb.webp", "preview.webp"))
    text = read_metadata(place / str(bench.store.job("a", key).folder) / "picture.png")["stylescore"]
    assert settings_of_record(text, StyleList(), "mini")[0] == bench.store.job("a", key).settings


def test_stopped_and_gone_on_is_the_same_picture_as_in_one_run(bench: Bench, engine: StylizeEngine) -> None:
    whole, parted = bench.add(seed=5), bench.add(seed=5)
    assert bench.run(engine, whole)[0] == "done"
    assert bench.run(engine, parted, 3, "stop")[0] == "stopped"
    kept = bench.folder.run(parted) / "stopped.png"
    assert read_metadata(kept)["stylescore-stopped"] == "after 3 of 6 iterations"
    with Image.open(kept) as picture:
        assert picture.size == (96, 64)
        assert not is_same(picture, bench.picture(whole))
    assert bench.store.job("a", parted).iteration == 3
    status, told = bench.run(engine, parted)
    assert status == "done"
    assert [fields["iteration"] for fields in told if "seconds_left" in fields] == [4, 5, 6]
    assert is_same(bench.picture(whole), bench.picture(parted))
    assert not kept.exists()


def test_a_masked_run_leaves_the_photo_where_the_mask_is_black_and_its_recipe_names_the_mask(
    bench: Bench, engine: StylizeEngine
) -> None:
    mask = Image.new("L", (96, 64), 255)
    mask.paste(0, (0, 0, 48, 64))
    mask.save(bench.folder.photo("photo") / "new.png")
    photo = bench.store.photo("a", "photo")
    key = save_mask(bench.folder, bench.store, photo, bench.folder.photo("photo") / "new.png")
    settings = Settings(style="van-gogh", mixed={"watercolor": 0.5}, size=64, constants=QUICK, mask_feather=2)
    job = bench.store.add_jobs("a", ["photo"], settings, "mini", {"photo": key})[0]
    assert bench.run(engine, job.id, 3, "stop")[0] == "stopped"
    assert bench.run(engine, job.id)[0] == "done"
    with Image.open(bench.folder.photo("photo") / "cup.png") as before:
        made = bench.picture(job.id)
        assert is_same(made.crop((0, 0, 48, 64)), before.crop((0, 0, 48, 64)))
        assert not is_same(made.crop((48, 0, 96, 64)), before.crop((48, 0, 96, 64)))
    text = read_metadata(bench.folder.run(job.id) / str(bench.store.job("a", job.id).folder) / "picture.png")
    found, notes = settings_of_record(text["stylescore"], StyleList(), "mini")
    assert (found, notes) == (job.settings, [])


def test_a_lora_generator_makes_a_draft_before_the_run_and_changes_nothing_of_it(
    bench: Bench, engine: StylizeEngine
) -> None:
    plain, drafted = bench.add(seed=2), bench.add(seed=2)
    assert bench.run(engine, plain)[0] == "done"
    generator = StyleList().find("van-gogh").lora_generator
    assert generator is not None
    status, told = bench.run(engine, drafted, 3, "stop", generator)
    assert (status, bench.store.job("a", drafted).draft) == ("stopped", True)
    names = [name for fields in told for name in fields]
    assert names.index("draft") < names.index("iteration")
    photo = bench.folder.photo("photo") / "cup.png"
    with Image.open(photo) as before, Image.open(bench.folder.run(drafted) / "draft.webp") as draft:
        assert draft.size == before.size
        assert not is_same(draft, before)
        save_draft(load_one_step(generator, "mini", "cpu"), before.convert("RGB"), photo.with_name("own.webp"))
        with Image.open(photo.with_name("own.webp")) as own:
            assert is_same(draft, own)
    assert bench.run(engine, drafted)[0] == "done"
    assert is_same(bench.picture(plain), bench.picture(drafted))


def test_a_generator_that_cannot_be_used_costs_the_draft_and_not_the_picture(
    bench: Bench, engine: StylizeEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    key = bench.add()
    style = StyleList().find("van-gogh").path
    status, _ = bench.run(engine, key, generator=style)
    assert (status, bench.store.job("a", key).draft) == ("done", False)
    assert not (bench.folder.run(key) / "draft.webp").exists()
    assert "is not a generator" in capfd.readouterr().err


def test_the_worker_makes_drafts_of_the_pictures_that_wait(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def run(self: Any, task: Task, report: Any) -> str:
        asked.extend((draft.job, draft.generator) for draft in task.drafts)
        report(drafts=[draft.job for draft in task.drafts])
        return "done"

    monkeypatch.setattr(StylizeEngine, "run", run)
    places = tmp_path / "generators"
    places.mkdir()
    worker = Worker(bench.store, "cpu", LazyEngine(bench.folder, "cpu", (places,)))
    monkeypatch.setattr(worker.engine, "prepare", lambda: None)
    generator = StyleList().find("van-gogh").lora_generator
    assert generator is not None
    own = style_list._lora_generator
    monkeypatch.setattr(
        style_list, "_lora_generator", lambda entry: None if entry.name == "ink-drawing" else own(entry)
    )
    plain, begun = bench.add(style="ink-drawing"), bench.add()
    bench.store.report(begun, folder="run")
    keys = [bench.add() for _ in range(5)]
    worker._take_one()
    assert asked == [(key, generator) for key in keys[:3]], "at most four in line are looked at, the first was begun"
    assert [bench.store.job("a", key).draft for key in (plain, begun, *keys)] == [
        False,
        False,
        *[True] * 3,
        False,
        False,
    ]
    worker._take_one()
    assert asked[3:] == [(keys[3], generator)], "no draft is made twice"
    onnx.save(build(), places / "van-gogh.onnx")  # the server makes the drafts with it
    worker.work(idle_seconds=0)
    assert len(asked) == 4
    assert {bench.store.job("a", key).status for key in (plain, begun, *keys)} == {"done"}


def test_a_style_that_is_itself_a_generator_makes_its_draft(tmp_path: Path) -> None:
    source = StyleList().find("van-gogh").lora_generator
    assert source is not None
    shutil.copy(source, tmp_path / "mine.safetensors")
    shutil.copy(StyleList().find("van-gogh").path, tmp_path / "plain.safetensors")
    styles = StyleList([tmp_path])
    assert styles.find("mine").lora_generator == tmp_path / "mine.safetensors"
    assert styles.find("plain").lora_generator is None


def test_a_worker_prepares_while_there_is_nothing_to_do(bench: Bench) -> None:
    done: list[str] = []

    class Told:
        def prepare(self) -> None:
            done.append("prepared")

        def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
            done.append(job.id)
            return "done"

    worker = Worker(bench.store, "cpu", Told())
    worker._has_server = lambda: True  # type: ignore[method-assign]
    worker.work(idle_seconds=0)
    key = bench.add()
    worker.work(idle_seconds=0)
    assert done[0] == "prepared"
    assert done[1] == key


def test_a_cancelled_run_leaves_no_picture_but_can_go_on(bench: Bench, engine: StylizeEngine) -> None:
    key = bench.add()
    assert bench.run(engine, key, 2, "cancel")[0] == "cancelled"
    assert not (bench.folder.run(key) / "view.jpg").exists()
    assert bench.run(engine, key)[0] == "done"


def test_the_last_iteration_is_not_stopped(bench: Bench, engine: StylizeEngine) -> None:
    assert bench.run(engine, bench.add(), 6, "stop")[0] == "done"


def test_a_picture_that_was_finished_before_a_kill_is_taken_as_it_is(bench: Bench, engine: StylizeEngine) -> None:
    key = bench.add()
    bench.run(engine, key)
    (bench.folder.run(key) / "view.jpg").unlink()
    status, told = bench.run(engine, key)
    assert (status, told) == ("done", [])
    assert (bench.folder.run(key) / "view.jpg").is_file()


def test_a_changed_photo_is_not_gone_on_with(bench: Bench, engine: StylizeEngine) -> None:
    key = bench.add()
    bench.run(engine, key, 2, "stop")
    Image.new("RGB", (96, 64), "red").save(bench.folder.photo("photo") / "cup.png")
    with pytest.raises(ConfigError, match="changed after the run began"):
        bench.run(engine, key)


def test_the_worker_stores_why_a_run_failed_and_goes_on_with_the_next(bench: Bench) -> None:
    broken, sound = bench.add(), bench.add()

    class Moody(Unprepared):
        def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
            if job.id == broken:
                raise ConfigError("this cannot be", hint="choose another")
            return "done"

    Worker(bench.store, "cpu", Moody()).work(idle_seconds=0)
    job = bench.store.job("a", broken)
    assert (job.status, job.message, job.hint) == ("failed", "this cannot be", "choose another")
    assert bench.store.job("a", sound).status == "done"


def test_a_fault_in_the_program_fails_one_picture_and_not_the_worker(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    broken, sound = bench.add(), bench.add()

    class Faulty(Unprepared):
        def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
            return {sound: "done"}[job.id]

    Worker(bench.store, "cpu", Faulty()).work(idle_seconds=0)
    assert "the run failed" in str(bench.store.job("a", broken).message)
    assert bench.store.job("a", sound).status == "done"
    assert "KeyError" in capfd.readouterr().err


def test_the_engine_writes_captions_with_a_model_of_the_local_cache(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_blip(tmp_path / "blip")
    monkeypatch.setattr("stylescore.diffusion.captioner.cached_transformer", lambda hub_id: folder)
    engine = LazyEngine(bench.folder, "cpu", ())
    caption = engine.describe(bench.store.photo("a", "photo"))
    assert set(caption.split()) <= {*WORDS, "[UNK]", "[DEC]", "[ENC]"}
    assert caption


def test_a_worker_that_is_to_end_gives_its_job_back(bench: Bench) -> None:
    key = bench.add()
    begun = threading.Event()

    class Slow(Unprepared):
        def run(self, job: Any, photo: Any, report: Any, waiting: Any = ()) -> Any:
            while True:
                report(iteration=1)
                begun.set()
                time.sleep(0.01)

    worker = Worker(bench.store, "cpu", Slow())
    thread = threading.Thread(target=worker.work)
    thread.start()
    assert begun.wait(SECONDS)
    bench.store.mark(STOP)
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert (bench.store.job("a", key).status, bench.store.job("a", key).attempts) == ("queued", 0)


def test_the_pace_knows_that_the_refinement_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    time_left = TimeLeft(total=6, larger_from=4, ratio=3.0, _begun=0.0)
    now[0] = 1.0
    assert time_left.after(1) == pytest.approx(3 + 2 * 3)
    for done, seconds in ((2, 1), (3, 1), (4, 1), (5, 3)):
        now[0] += seconds
        left = time_left.after(done)
    assert left == pytest.approx(3)


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_killed_worker_is_replaced_and_its_run_ends_as_if_nothing_had_been(
    bench: Bench, engine: StylizeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    whole, killed = bench.add(seed=3), None
    bench.run(engine, whole)
    bench.store.end(whole, "done")
    killed = bench.add(seed=3, constants={**QUICK, "iterations": 6})
    supervisor = Supervisor(bench.folder, bench.store, ["cpu"], [])
    supervisor.start()
    try:
        child = _wait(lambda: supervisor._children.get("cpu"))
        _wait(lambda: bench.store.job("a", killed).iteration >= 1)
        child.send_signal(signal.SIGKILL)
        child.wait()
        _wait(lambda: bench.store.job("a", killed).status == "done")
        assert supervisor._children["cpu"].pid != child.pid
    finally:
        supervisor.close()
        for each in supervisor._children.values():
            each.send_signal(signal.SIGTERM)
            each.wait(SECONDS)
    assert is_same(bench.picture(whole), bench.picture(killed))


def test_a_worker_of_an_earlier_server_is_found_and_not_doubled(bench: Bench) -> None:
    place = bench.folder.worker("cpu")
    place.mkdir()
    supervisor = Supervisor(bench.folder, bench.store, ["cpu"], [])
    assert not supervisor._has_worker("cpu")
    with hold(place):
        assert supervisor._has_worker("cpu")


def test_jobs_of_killed_workers_on_devices_that_are_not_used_now_are_given_back(bench: Bench) -> None:
    for device in ("cuda:1", "ray-2", "cuda:0"):
        bench.add()
        claimed = bench.store.claim(device)
        assert claimed is not None
    place = bench.folder.worker("cuda:0")
    place.mkdir()
    supervisor = Supervisor(bench.folder, bench.store, [], [])
    with hold(place):  # that worker lives
        supervisor.start()
        supervisor.close()
    assert bench.store.busy_devices() == {"cuda:0"}
    assert bench.store.claim("cpu") is not None
    assert bench.store.claim("cpu") is not None
    assert bench.store.claim("cpu") is None


def test_the_server_and_its_parts_import_no_torch() -> None:
    code = (
        "import sys, stylescore.studio.serve, stylescore.studio.worker, stylescore.cli.studio; "
        "sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _wait(look: Callable[[], Any]) -> Any:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen")
