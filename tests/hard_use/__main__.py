"""Hard use: bad command lines, kills, damaged files and natural Python calls, and a table of what held.

Usage: ``python tests/hard_use``, or ``make hard-use``. With ``PYTHONPATH`` of another checkout's `src` it tries that
one, as far as its parts are where they are here: command lines and Python calls. ``--json FILE`` writes the result,
``--before FILE`` shows an earlier one beside it. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_COLOR", "1")

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from attempts import Tally

OTHER_ROOMS = (
    *("benchmark.measuring", "benchmark.report", "comparison.server", "evaluation.run", "generators.export"),
    *("runs.cluster", "studio.serve", "training.generator.session"),
)
"""What other commands import, so that forked processes begin with it."""


def _kinds(options: argparse.Namespace, place: Path) -> Iterator[Tally]:
    """Try what was chosen, kind by kind."""
    import calls
    import files
    import kills
    import lines

    makers: dict[str, Callable[[], Tally]] = {
        "lines": lambda: lines.run(place, options.lines, options.seed),
        "kills": lambda: kills.run(options.kills, options.seed),
        "files": lambda: files.run(options.files, options.seed),
        "calls": lambda: calls.run(place, options.calls),
    }
    for name in options.only:
        yield makers[name]()


def _warm_up(place: Path) -> None:
    """Import everything that a run imports, so that forked processes begin with it."""
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401
    from attempts import attempt
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
    from lines import BASES
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    import stylescore.training.session  # noqa: F401
    from stylescore.cli.main import exit_code

    for name in OTHER_ROOMS:
        with suppress(ModuleNotFoundError):  # an older version has not all of them
            import_module(f"stylescore.{name}")
    for words in BASES.values():
        outcome = attempt(place, lambda words=words: exit_code(words))  # type: ignore[misc]
        if outcome.code:
            sys.exit(f"the line that should work fails: {' '.join(words)}\n{outcome.err}")


def _table(found: Sequence[Tally], before: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table."""
    columns = "| kind | tried | held | failed |" + (" before: tried | held | failed |" if before else "")
    yield columns
    yield "|---" * (columns.count("|") - 1) + "|"
    for tally in found:
        row = f"| {tally.kind} | {tally.tried} | {tally.held} | {len(tally.failed)} |"
        if before:
            old = before.get(tally.kind)
            row += f" {old['tried']} | {old['held']} | {len(old['failed'])} |" if old else " - | - | - |"
        yield row


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, print, and return the exit code."""
    names = ("lines", "kills", "files", "calls")
    parser = argparse.ArgumentParser(prog="hard_use", description=__doc__)
    parser.add_argument("--lines", type=int, default=0, help="bad command lines; 0 tries all")
    parser.add_argument("--kills", type=int, default=10, help="killed runs of each command")
    parser.add_argument("--files", type=int, default=14_500, help="damaged files")
    parser.add_argument("--calls", type=int, default=0, help="Python calls; 0 tries all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--before", type=Path, help="an earlier result to show beside it")
    options = parser.parse_args(arguments)
    from place import make_place

    import stylescore

    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder) / "place")
        os.environ |= {"STYLESCORE_STYLES": str(place / "styles"), "HF_HUB_CACHE": str(Path(folder) / "hub")}
        _warm_up(place)
        found = []
        for tally in _kinds(options, place):
            found.append(tally)
            print(f"{tally.kind}: {tally.held} of {tally.tried} held", file=sys.stderr, flush=True)
    print("\n".join(_table(found, _read(options.before))))
    for tally in found:
        for failure in tally.failed:
            print(f"{tally.kind}: {failure}")
    if options.json:
        rows = {"version": stylescore.__version__, "kinds": [tally.to_dict() for tally in found]}
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 1 if any(tally.failed for tally in found) else 0


def _read(path: Path | None) -> dict[str, Any]:
    """Return an earlier result, by kind."""
    kinds = [] if path is None else json.loads(path.read_text("utf-8"))["kinds"]
    return {kind["kind"]: kind for kind in kinds}


if __name__ == "__main__":
    sys.exit(main())
