"""Kills runs and trainings at random moments, resumes them, and compares the ends bit by bit with unbroken ones.

Half of the moments are spread over the time that the command takes, the others over what it writes: the process is
killed just before it opens, renames or removes a file. Every third resumed run is killed in the same way, once more.

Usage: ``python tests/runs/killer.py --kills 100``. Prints a table; the exit code is 1 if any end differs.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from PIL import Image
from safetensors import safe_open

DATA = Path(__file__).parents[1] / "data" / "parity"
TINY, STYLE, PHOTO = DATA / "tiny_base", DATA / "style_lora_kohya.safetensors", DATA / "input_128x128.png"
STYLIZE = ("stylize", "--style", str(STYLE), "--model", str(TINY), "--size", "64", "--iterations", "25", "--quiet")
TRAIN = (
    *("train-style", "pictures", "--name", "made", "--model", str(TINY), "--steps", "12", "--batch", "2"),
    *("--rank", "2", "--resolution", "64", "--set", "warmup=0", "--checkpoint-every", "4", "--samples-every", "6"),
    *("--device", "cpu", "--quiet"),
)
GENERATE = (
    *("train-generator", "pictures", "--style", str(STYLE), "--name", "made", "--model", str(TINY), "--size", "64"),
    *(
        "--pairs",
        "4",
        "--steps",
        "4",
        "--matching-steps",
        "4",
        "--batch",
        "2",
        "--checkpoint-every",
        "2",
        "--keep",
        "2",
    ),
    *("--samples-every", "3", "--set", "width=4", "--set", "blocks=1", "--set", "warmup=0", "--set", "held_out=1"),
    *("--set", "measure_every=3", "--set", "run.method.iterations=2", "--set", "matching.fake_steps=2"),
    *("--set", "matching.fake_warmup=2"),
    *("--set", "pairs.batch=2", "--device", "cpu", "--quiet"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "stylize": (*STYLIZE, "a.png", "--preview-every", "10", "--output", "out"),
    "stylize --batch 2": (*STYLIZE, "a.png", "b.png", "--batch", "2", "--output", "out"),
    "train-style": (*TRAIN, "--output", "out"),
    "train-generator": (*GENERATE, "--output", "out"),
}
PROGRAM = """
import os, signal, sys

import torch

os.chdir(place)
os.environ["STYLESCORE_STYLES"] = os.path.abspath("styles")
for name, stream in (("/dev/null", 1), ("errors.txt", 2)):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
torch.set_num_threads(1)
places = tuple(os.path.abspath(name) + os.sep for name in ("out", "styles"))
changes = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}
count = 0


def watch(event, details):
    global count
    if event not in changes and not (event == "open" and details[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    if isinstance(details[0], int) or not os.path.abspath(os.fsdecode(details[0])).startswith(places):
        return
    count += 1
    if count == change:
        os.kill(os.getpid(), signal.SIGKILL)


sys.addaudithook(watch)
from stylescore.cli import main
from stylescore.runs import runner

runner.SECONDS_BETWEEN_STATES = 0.1
code = main.exit_code(arguments)
with open("changes.txt", "w") as file:
    file.write(str(count))
sys.exit(code)
"""
"""Runs the program; kills itself at a change of its files, and writes how many there were."""
PRELOADED = (
    *("stylescore.cli.main", "stylescore.cli.batch", "stylescore.runs.making", "stylescore.training.session"),
    *("stylescore.training.generator.session", "torch.utils.tensorboard", "accelerate"),
    *("diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl"),
    *("diffusers.schedulers", "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip"),
)
"""Modules that each process finds imported, so that it is killed while it works and not while it is loaded."""


def make_place(root: Path) -> Path:
    """Make a folder with what the commands read."""
    root.mkdir(parents=True)
    shutil.copy(PHOTO, root / "a.png")
    with Image.open(PHOTO) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "b.png")
    (root / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (96, 80), (60 * number, 90, 120)).save(root / "pictures" / f"{number}.png")
    (root / "styles").mkdir()
    return root


def start(place: Path, arguments: Sequence[str], change: int = 0) -> ForkServerProcess:
    """Start the program in a place of its own; it kills itself before a change of its files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    words = {"place": str(place), "arguments": list(arguments), "change": change}
    process = context.Process(target=exec, args=(PROGRAM, words))
    process.start()
    return process


def digest(place: Path) -> dict[str, str]:
    """Return what a finished command left behind: pixels, tensors and logs, by file."""
    found = {}
    for path in sorted([*(place / "out").rglob("*"), *(place / "styles").glob("*")]):
        name = str(path.relative_to(place))
        if path.suffix in (".png", ".webp"):
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


@dataclass
class Tally:
    """What the kills of a command came to."""

    kills: int = 0
    resumed: int = 0
    equal: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unbroken:
    """An unbroken run: how long it took, how often it changed its files, and what it left behind."""

    seconds: float
    changes: int
    end: dict[str, str]


def make_unbroken(place: Path, arguments: Sequence[str]) -> Unbroken:
    """Run a command to its end."""
    began = time.monotonic()
    error = wait(start(place, arguments), place)
    assert not error, error
    return Unbroken(time.monotonic() - began, int((place / "changes.txt").read_text()), digest(place))


def wait(process: ForkServerProcess, place: Path) -> str:
    """Wait for a process and return what went wrong; that nothing was left to do is no fault."""
    process.join()
    text = (place / "errors.txt").read_text(errors="replace").strip()
    return "" if process.exitcode == 0 or "is finished" in text else text or f"exit code {process.exitcode}"


def next_call(place: Path, arguments: Sequence[str]) -> list[str]:
    """Return the call that resumes what a killed command left, or the command itself where it left nothing."""
    folders = sorted(path for path in (place / "out").glob("[!.]*") if (path / "config.toml").is_file())
    wanted = max(1, sum(argument.endswith(".png") for argument in arguments))
    if len(folders) < wanted:  # the second photo was not begun
        for folder in folders:
            shutil.rmtree(folder)
        return list(arguments)
    return [arguments[0], "--resume", str(place / "out" if wanted > 1 else folders[0]), "--quiet"]


def kill(place: Path, arguments: Sequence[str], moment: float, unbroken: Unbroken, *, timed: bool) -> str:
    """Start a command, kill it after a part of its time or of its changes, and return that moment in words."""
    change = 0 if timed else 1 + int(moment * unbroken.changes)
    process = start(place, arguments, change)
    process.join(timeout=moment * unbroken.seconds if timed else None)
    if process.is_alive():
        process.kill()
        process.join()
    return f"after {moment * unbroken.seconds:.2f} s" if timed else f"at change {change}"


def run(name: str, kills: int, seed: int, root: Path) -> Tally:
    """Kill a command so many times, each in a new place."""
    arguments, chance, tally = COMMANDS[name], random.Random(f"{name} {seed}"), Tally()
    unbroken = make_unbroken(make_place(root / "whole"), arguments)
    for number in range(kills):
        place, timed = make_place(root / str(number)), number % 2 == 0
        moments = [kill(place, arguments, (number + chance.random()) / kills, unbroken, timed=timed)]
        if number % 3 == 0:
            moments.append(kill(place, next_call(place, arguments), chance.random(), unbroken, timed=not timed))
        call = next_call(place, arguments)
        error, found = wait(start(place, call), place), digest(place)
        tally.kills += len(moments)
        tally.resumed += "--resume" in call
        tally.equal += found == unbroken.end and not error
        if error or found != unbroken.end:
            changed = [key for key in unbroken.end | found if unbroken.end.get(key) != found.get(key)]
            tally.wrong.append(f"killed {', '.join(moments)}: {error} {changed}")
        shutil.rmtree(place)
    return tally


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="killed runs of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    options = parser.parse_args(arguments)
    print("| command | runs | kills | resumed | equal |\n|---|---|---|---|---|", flush=True)
    failed = 0
    for name in options.commands:
        with tempfile.TemporaryDirectory() as folder:
            tally = run(name, options.kills, options.seed, Path(folder))
        print(f"| `{name}` | {options.kills} | {tally.kills} | {tally.resumed} | {tally.equal} |", flush=True)
        print("".join(f"  {line}\n" for line in tally.wrong), end="", flush=True)
        failed += len(tally.wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
