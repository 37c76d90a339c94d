"""The command line: `stylescore-apply STYLE INPUT... --out DIR`, which is also `stylescore apply`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from textwrap import fill
from typing import Any, NoReturn

from stylescore_apply._version import __version__
from stylescore_apply.batch import Outcome, Saving, stylize_pictures
from stylescore_apply.errors import ConfigError, InputError, StylescoreError, count_of
from stylescore_apply.images.writing import DEFAULT_QUALITY, FORMATS, require_format
from stylescore_apply.inputs import STANDARD, Job, plan_jobs
from stylescore_apply.names import find_network, known_networks, network_dirs, parse_path
from stylescore_apply.networks import Network, OnnxNetwork, refuse_model
from stylescore_apply.stylizing import DEFAULT_LIMIT, Application, Settings
from stylescore_apply.terminal import Status, format_duration, print_error, print_json, say
from stylescore_apply.video.many import Film, stylize_videos
from stylescore_apply.video.noise import MOTIONS

INTERRUPTED = 130

OpenNetwork = Callable[[str, int, str | None], Network]
"""Returns the network of a name, given the number of threads and the base model if one was named."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are raised, so that they look like all others, and whose help names the known networks.

    Attributes:
        list_names: returns their names; called for the help alone, since it reads folders.
    """

    list_names: Callable[[], Sequence[str]]

    def format_help(self) -> str:
        """Return the help with the names, none of which is divided at a hyphen."""
        names = ", ".join(self.list_names()) or "none"
        self.epilog = fill(f"networks known by name: {names}", 79, break_on_hyphens=False)
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise InputError(message, hint=f"see {self.prog} --help")


def known_names() -> list[str]:
    """Return the names of the networks that need no file to be given."""
    return sorted(known_networks(network_dirs()))


def make_parser(program: str, list_names: Callable[[], Sequence[str]] = known_names) -> argparse.ArgumentParser:
    """Return the parser of the command line, whose help names the networks that `list_names` returns."""
    parser = _Parser(
        prog=program,
        description="Stylize pictures and videos with a network that was trained for one style.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.list_names = list_names
    add = parser.add_argument
    add("style", metavar="STYLE|FILE", help="name of a network, or an ONNX file")
    add("inputs", metavar="INPUT", nargs="+", help="pictures, videos, folders, patterns, or - for standard input")
    add("--out", "-o", metavar="DIR|FILE|-", type=parse_path, help="where results are written (default: out/STYLE)")
    add("--recursive", "-r", action="store_true", help="search folders with their subfolders, and keep their layout")
    add("--overwrite", action="store_true", help="make again what is done")
    add("--format", choices=FORMATS, help="of the pictures (default: that of the input)")
    add("--quality", type=int, help=f"of JPEG, WebP and AVIF, 1 to 100 (default: {DEFAULT_QUALITY})")
    add("--seed", type=int, default=0, help="of the noise, which decides where strokes lie (default: 0)")
    add(
        "--strength",
        type=float,
        metavar="0..1",
        help="weight of the style, the rest is photo (default: as the file states, or 1)",
    )
    add("--passes", type=int, help="how often it is applied: more is more style (default: as the file states, or 1)")
    add("--keep-location", action="store_true", help="keep where photos were taken")
    add(
        "--memory-limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="MIB",
        help=f"for the network; larger pictures are computed in tiles (default: {DEFAULT_LIMIT})",
    )
    add("--smooth", type=float, default=0.0, metavar="0..1", help="steady videos along the optical flow (default: 0)")
    add("--noise", choices=MOTIONS, default="fixed", help="of videos: one field, or moved with what it shows")
    add("--model", help="base model of a generator that is a LoRA, for stylescore apply (default: as its file says)")
    add("--threads", type=int, default=0, help="of the network (default: one for each core)")
    add("--json", action="store_true", help="print the results as one JSON document")
    add("--quiet", "-q", action="store_true", help="print nothing but errors")
    return parser


def open_onnx(name: str, threads: int, model: str | None = None) -> Network:
    """Return the network in an ONNX file, a bundled one, or one in the user's folder; it needs no base model."""
    refuse_model(model)
    return OnnxNetwork(find_network(name, network_dirs()), threads=threads)


def exit_code(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "stylescore-apply",
    open_network: OpenNetwork = open_onnx,
    list_names: Callable[[], Sequence[str]] = known_names,
) -> int:
    """Run the program: 0 done, 1 some inputs failed, 2 an argument cannot be used, 130 interrupted.

    Args:
        arguments: the command line without the program's name; by default that of the process.
        program: its name in messages.
        open_network: finds and loads the network.
        list_names: returns the names that `open_network` knows.
    """
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments), program, open_network, list_names)
    except StylescoreError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        say("error: interrupted")
        return INTERRUPTED


def _run(arguments: list[str], program: str, open_network: OpenNetwork, list_names: Callable[[], Sequence[str]]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"{program} {__version__}")
        return 0
    parser = make_parser(program, list_names)
    try:
        given = parser.parse_args(arguments)
    except SystemExit as ended:  # after --help
        return int(ended.code or 0)
    for text in (given.style, *given.inputs):
        parse_path(text)
    settings = Settings(seed=given.seed, strength=given.strength, passes=given.passes, memory_limit=given.memory_limit)
    saving = _saving(given)
    out = _out(given)
    jobs = plan_jobs(given.inputs, out, recursive=given.recursive, chosen=given.format)
    film = Film(smooth=given.smooth, noise=given.noise)
    if any(job.is_video for job in jobs):
        film.require_libraries()
    network = open_network(given.style, _threads(given.threads), given.model)
    how = Application.of(network.facts, settings)
    if settings.passes is None and how.passes > 1 and not given.quiet:
        say(f"note: {how.passes} passes with strength {how.strength:g}, as the file states")
    status = Status(quiet=given.quiet)
    pictures = stylize_pictures(network, [job for job in jobs if not job.is_video], settings, saving)
    videos = stylize_videos(network, [job for job in jobs if job.is_video], settings, saving, film, _show(status))
    outcomes = _report(chain(pictures, videos), len(jobs), how, given, status, to_standard=out == STANDARD)
    return _exit_code(outcomes)


def _show(status: Status) -> Callable[[Job, int, int | None, float], None]:
    """Return what shows the progress of a video."""

    def show(job: Job, done: int, total: int | None, seconds: float) -> None:
        of_all = f" of {total}" if total else ""
        status.show(f"{job.source.name}: frame {done}{of_all}, {done / max(seconds, 1e-9):.1f} frames/s")

    return show


def _saving(given: argparse.Namespace) -> Saving:
    if given.format is not None:
        require_format(given.format)
    if given.quality is not None and given.format == "png":
        raise ConfigError("--quality does not apply to PNG, which loses nothing", hint="leave it out")
    return Saving(
        format=given.format,
        quality=DEFAULT_QUALITY if given.quality is None else given.quality,
        location=given.keep_location,
        overwrite=given.overwrite,
    )


def _out(given: argparse.Namespace) -> Path:
    """Return where results go: standard output for standard input, else a folder named after the style."""
    if given.out is not None:
        return Path(given.out)
    return STANDARD if given.inputs == [str(STANDARD)] else Path("out", _base_name(given.style))


def _base_name(style: str) -> str:
    """Return a style's name for a folder: of a file its name without ending, also of one in a repository of the hub."""
    return Path(style.rpartition(":")[2]).stem or "style"


def _threads(count: int) -> int:
    if not 0 <= count <= 1024:
        raise ConfigError(f"threads must be a whole number between 0 and 1024, not {count}", hint="leave it out")
    return count


def _report(
    outcomes: Iterable[Outcome],
    total: int,
    how: Application,
    given: argparse.Namespace,
    status: Status,
    *,
    to_standard: bool,
) -> list[Outcome]:
    """Print each outcome as it comes, and the summary; return them all."""
    start, done = time.perf_counter(), list[Outcome]()
    for outcome in outcomes:
        done.append(outcome)
        status.clear()
        _print_outcome(outcome, given, total, to_standard)
        status.show(_progress(done, total, time.perf_counter() - start))
    status.clear()
    seconds = time.perf_counter() - start
    if given.json:
        print_json({**_document(done, seconds), "passes": how.passes, "strength": how.strength})
    elif not given.quiet and (total > 1 or done[0].error is None):
        say(_summary(done, seconds))
    return done


def _print_outcome(outcome: Outcome, given: argparse.Namespace, total: int, to_standard: bool) -> None:
    subject = f"{outcome.job.source}: " if total > 1 else ""
    if outcome.error is not None:
        print_error(outcome.error, "" if str(outcome.job.source) in str(outcome.error) else subject)
    if not given.quiet:
        for note in outcome.notes:
            say(f"note: {subject}{note}")
    if outcome.status == "made" and not (given.json or given.quiet or to_standard):
        print(outcome.job.target, flush=True)


def _progress(done: Sequence[Outcome], total: int, seconds: float) -> str:
    made = sum(outcome.status == "made" for outcome in done)
    left = (total - len(done)) * seconds / max(made, 1)
    return f"{len(done)} of {total}, {made / seconds:.1f} pictures/s, {format_duration(left)} left"


def _summary(done: Sequence[Outcome], seconds: float) -> str:
    counts = Counter(outcome.status for outcome in done)
    made = sum(outcome.frames for outcome in done)
    parts = [f"{count_of(made, 'picture')} in {seconds:.1f} s, {made / seconds:.1f} pictures/s"]
    if counts["skipped"]:
        parts.append(f"{counts['skipped']} skipped, as they are done (--overwrite makes them again)")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    return "; ".join(parts)


def _document(done: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    counts = Counter(outcome.status for outcome in done)
    return {
        "made": counts["made"],
        "skipped": counts["skipped"],
        "failed": counts["failed"],
        "seconds": round(seconds, 3),
        "pictures_per_second": round(sum(outcome.frames for outcome in done) / seconds, 3),
        "results": [_entry(outcome) for outcome in done],
    }


def _entry(outcome: Outcome) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "input": str(outcome.job.source),
        "output": str(outcome.job.target),
        "status": outcome.status,
        "notes": list(outcome.notes),
    }
    if outcome.status == "made":
        entry |= {"frames": outcome.frames, "network_seconds": round(outcome.seconds, 3)}
    if outcome.error is not None:
        entry |= {"error": str(outcome.error), "hint": outcome.error.hint}
    return entry


def _exit_code(outcomes: Sequence[Outcome]) -> int:
    """Return 0 if nothing failed; for a single input what its error says, for several 1."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if not errors:
        return 0
    return errors[0].exit_code if len(outcomes) == 1 else 1
