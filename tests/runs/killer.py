"""Kills runs and trainings at random moments, resumes them, and compares the ends bit by bit with unbroken ones.

Usage: ``python tests/runs/killer.py --kills 100``. Prints a table; the exit code is 1 if any end differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from safetensors import safe_open

DATA = Path(__file__).parents[1] / "data" / "parity"
TINY, STYLE, PHOTO = DATA / "tiny_base", DATA / "style_lora_kohya.safetensors", DATA / "input_128x128.png"
STYLIZE = ("stylize", "--style", str(STYLE), "--model", str(TINY), "--size", "64", "--iterations", "25", "--quiet")
TRAIN = (
    *("train-style", "pictures", "--name", "made", "--model", str(TINY), "--steps", "12", "--batch", "2"),
    *("--rank", "2", "--resolution", "64", "--set", "warmup=0", "--checkpoint-every", "3", "--samples-every", "0"),
    *("--device", "cpu", "--quiet"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "stylize": (*STYLIZE, "a.png", "--output", "out"),
    "stylize --batch 2": (*STYLIZE, "a.png", "b.png", "--batch", "2", "--output", "out"),
    "train-style": (*TRAIN, "--output", "out"),
}


def make_place(root: Path) -> Path:
    """Make a folder with what the commands read."""
    root.mkdir(parents=True)
    shutil.copy(PHOTO, root / "a.png")
    with Image.open(PHOTO) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "b.png")
    (root / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 80), (60 * number, 90, 120)).save(root / "pictures" / f"{number}.png")
    (root / "styles").mkdir()
    return root


def start(place: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the program in a place of its own."""
    environment = {**os.environ, "STYLESCORE_STYLES": str(place / "styles"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stylescore", *arguments]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def digest(place: Path) -> dict[str, str]:
    """Return what a finished command left behind: pixels, tensors and logs, by file."""
    found = {}
    for path in sorted([*(place / "out").rglob("*"), *(place / "styles").glob("*")]):
        name = str(path.relative_to(place))
        if path.suffix == ".png":
            with Image.open(path) as image:
                found[name] = hashlib.sha256(image.tobytes()).hexdigest()
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                parts = [file.get_tensor(key).tobytes() for key in sorted(file.keys())]
            found[name] = hashlib.sha256(b"".join(parts)).hexdigest()
        elif path.name == "steps.jsonl":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name.startswith("."):
            found[name] = "a leftover"
    return found


def finish(place: Path, arguments: Sequence[str]) -> str:
    """Resume what a killed command left, or give the command again where it left nothing; return its errors."""
    folders = sorted(path for path in (place / "out").glob("*") if (path / "config.toml").is_file())
    wanted = 2 if "--batch" in arguments else 1
    if len(folders) < wanted:
        shutil.rmtree(place / "out", ignore_errors=True)
        return _wait(start(place, arguments))
    target = place / "out" if wanted > 1 else folders[0]
    return _wait(start(place, [arguments[0], "--resume", str(target), "--quiet"]))


def _wait(process: subprocess.Popen[bytes]) -> str:
    _, errors = process.communicate()
    text = errors.decode(errors="replace").strip()
    return "" if process.returncode == 0 or "is finished" in text else text or f"exit code {process.returncode}"


def run(name: str, kills: int, seed: int, root: Path) -> dict[str, object]:
    """Kill a command so many times, each in a new place; return a row of the table."""
    arguments, chance = COMMANDS[name], random.Random(f"{name} {seed}")
    whole = make_place(root / "whole")
    began = time.monotonic()
    error = _wait(start(whole, arguments))
    assert not error, error
    length, expected, wrong = time.monotonic() - began, digest(whole), []
    for number in range(kills):
        place = make_place(root / str(number))
        moment = length * (number + chance.random()) / kills
        process = start(place, arguments)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        error = finish(place, arguments)
        found = digest(place)
        if found != expected:
            changed = [key for key in expected | found if expected.get(key) != found.get(key)]
            wrong.append(f"{moment:.2f} s: {error or changed}")
        shutil.rmtree(place)
    return {"command": name, "kills": kills, "equal ends": kills - len(wrong), "wrong": wrong}


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    options = parser.parse_args(arguments)
    print("| command | kills | equal ends |\n|---|---|---|")
    failed = 0
    for name in options.commands:
        with tempfile.TemporaryDirectory() as folder:
            row = run(name, options.kills, options.seed, Path(folder))
        print(f"| {row['command']} | {row['kills']} | {row['equal ends']} |", flush=True)
        for line in row["wrong"]:  # type: ignore[attr-defined]
            failed += 1
            print(f"  {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
