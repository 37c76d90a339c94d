"""Photos spread over a Ray cluster of this machine: the bits of a call without one, also if a process is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stylescore.errors import ConfigError
from stylescore.runs.workers import Workers, parse_workers

PARITY = Path(__file__).parent.parent / "data" / "parity"
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra 'ray' is not installed")


@needs_ray
def test_what_workers_may_be() -> None:
    assert parse_workers(None) is None
    assert parse_workers("ray") == Workers(None)
    assert parse_workers("ray:3") == Workers(3)


@pytest.mark.parametrize("text", ["dask", "ray:0", "ray:", "ray:-1", "ray:999999999", "ray:x"])
def test_what_they_may_not(text: str) -> None:
    with pytest.raises(ConfigError, match="--workers must be ray, or ray:N"):
        parse_workers(text)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="needs the package ray, which is not installed") as caught:
        parse_workers("ray")
    assert caught.value.hint == "pip install 'stylescore[ray]'"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(PARITY / "input_128x128.png") as picture:
        for number in range(3):
            picture.convert("RGB").rotate(90 * number).save(folder / f"p{number}.png")
    (folder / "p9.png").write_bytes((folder / "p0.png").read_bytes()[:9000])
    return folder


@pytest.fixture
def ray_of_two() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()


def words(photos: Path, out: Path, *more: object) -> list[str]:
    model = ("--model", PARITY / "tiny_base", "--style", PARITY / "style_lora_kohya.safetensors", "--size", "64")
    return [str(word) for word in ("stylize", photos, *model, "--output", out, "--json", "--quiet", *more)]


def processes_in(folder: Path) -> list[int]:
    """Return the processes that hold a lock in a folder's runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.startswith(str(folder)) and target.endswith(".lock"):
            found.append(int(path.parts[2]))
    return found


def kill_one(folder: Path, done: threading.Event) -> None:
    """Kill the process that makes a picture, once it has saved a state."""
    while not done.is_set():
        if any(folder.glob("*/steps.jsonl")):
            for number in processes_in(folder):
                if number != os.getpid():
                    os.kill(number, signal.SIGKILL)
                    done.set()
                    return
        time.sleep(0.05)


@needs_ray
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the test finds processes in /proc")
def test_two_workers_make_the_same_bits_and_one_that_is_killed_costs_its_pictures_time(
    photos: Path, tmp_path: Path, ray_of_two: Any, capfd: pytest.CaptureFixture[str], steps: Callable[[Path], Any]
) -> None:
    from stylescore.cli.main import exit_code

    length = ("--iterations", "60")
    assert exit_code(words(photos, tmp_path / "alone", *length)) == 1
    capfd.readouterr()
    killed = threading.Event()
    killer = threading.Thread(target=kill_one, args=(tmp_path / "spread", killed))
    killer.start()

    code = exit_code(words(photos, tmp_path / "spread", *length, "--workers", "ray"))

    assert killed.is_set()
    killer.join()
    out, err = capfd.readouterr()
    assert code == 1, err
    rows = {Path(row["photo"]).name: row for row in json.loads(out)["pictures"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        **dict.fromkeys(("p0.png", "p1.png", "p2.png"), "made"),
        "p9.png": "failed",
    }
    for name in ("p0", "p1", "p2"):
        folder = f"{name}-style_lora_kohya"
        one, other = (np.asarray(Image.open(tmp_path / call / folder / "picture.png")) for call in ("alone", "spread"))
        assert np.array_equal(one, other)
        assert steps(tmp_path / "alone" / folder) == steps(tmp_path / "spread" / folder)
    assert len(list((tmp_path / "spread").iterdir())) == 3


@pytest.fixture
def steps() -> Callable[[Path], list[dict[str, Any]]]:
    """Return a reader of a run folder's steps."""
    return lambda folder: [json.loads(line) for line in (folder / "steps.jsonl").read_text("utf-8").splitlines()]


def test_the_command_needs_no_ray_without_workers() -> None:
    code = "import sys; import stylescore.cli.main, stylescore.runs.cluster; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
