"""The commands `styles`, `inspect` and `doctor`: they list styles, describe a LoRA file and describe this machine."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import TextWrapper, wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stylescore.cli.output import format_duration, print_json, print_result, say
from stylescore.errors import StyleError
from stylescore_apply.names import parse_path

if TYPE_CHECKING:
    from stylescore.catalog.registry import StyleEntry

_WRAPPER = partial(TextWrapper, subsequent_indent=16 * " ", break_long_words=False, break_on_hyphens=False)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def styles(json: JsonOption = False) -> None:
    """List the bundled styles and those in your style folder."""
    from stylescore.catalog.registry import list_styles, user_styles_dir

    entries = list_styles()
    if json:
        print_json(
            {
                "folder": str(user_styles_dir()),
                "styles": [_to_json(entry) for entry in entries],
            }
        )
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        origin = "bundled" if entry.bundled else "yours"
        facts = [
            f"for {_short_base(entry.base)}" if entry.base else "",
            f"trigger words {entry.trigger!r}" if entry.trigger else "",
            "a one-step generator, for apply" if entry.is_generator else "",
            "with a generator for --fast" if entry.generator else "",
        ]
        print_result(f"{entry.name:<{width}}  {origin:<7}  {', '.join(filter(None, facts))}".rstrip())
    small = ", ".join(entry.mobile.stem for entry in entries if entry.mobile)
    for line in wrap(f"Small networks for stylescore apply: {small}" if small else "", 80, break_on_hyphens=False):
        say(line)
    say(f"Your own styles: put LoRA files (.safetensors) into {user_styles_dir()}")


def _short_base(base: str) -> str:
    """Return a base model's name as `--model` takes it, for the bundled one."""
    return base.removeprefix("stylescore-")


def _to_json(entry: StyleEntry) -> dict[str, Any]:
    """Return a style as JSON has it."""
    files = {"path": entry.path, "generator": entry.generator, "mobile": entry.mobile}
    return asdict(entry) | {key: None if path is None else str(path) for key, path in files.items()}


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA file.", parser=parse_path)],
    json: JsonOption = False,
) -> None:
    """Describe a LoRA file and say whether it can be used.

    The exit code is 2 if it cannot.
    """
    from stylescore.lora.report import describe

    report = describe(file)
    if json:
        print_json(report.to_dict())
    else:
        print_result("\n".join(format_report(report.to_dict(), _terminal_width())))
    if not report.usable:
        raise StyleError(report.reason or "it cannot be used", hint=report.hint)


def _terminal_width() -> int | None:
    """Return the terminal's columns, or `None` if the output is piped and lines must not be wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_report(report: dict[str, Any], width: int | None = None) -> list[str]:
    """Format a report as lines of name and value, wrapped at `width` columns; unknown values are left out."""
    lines = []
    for name, value in report.items():
        if text := _format_value(_describe_one_step(value) if name == "one_step" else value):
            line = f"{name.replace('_', ' ') + ':':<15} {text}"
            lines += _WRAPPER(width).wrap(line) if width else [line]
    return lines


def _describe_one_step(timestep: int | None) -> str:
    """Return what to do with a LoRA that is a one-step generator; nothing for any other."""
    return "" if timestep is None else f"a generator, evaluated once at timestep {timestep}: stylescore apply runs it"


def _format_value(value: Any) -> str:
    """Format a report's value; unknown ones become an empty text."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return ""
        case dict():
            return ", ".join(f"{count} {kind}" for kind, count in value.items() if count)
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def doctor(json: JsonOption = False) -> None:
    """Say which models work on this machine, and describe it."""
    from stylescore.diagnostics.doctor import examine

    facts = examine()
    if json:
        print_json(facts)
        return
    verdicts, needed = facts.pop("works"), facts.pop("needs")
    lines = [*map(format_verdict, verdicts), *_format_needs(needed), "", *format_report(facts, _terminal_width())]
    print_result("\n".join(lines))


def format_verdict(verdict: dict[str, Any]) -> str:
    """Format whether a model works here as one line."""
    name, time = f"{verdict['model']}:", format_duration(verdict["seconds"])
    size, there = f"{verdict['gigabytes']:.1f}", verdict["available"]
    if verdict["model"] == "mini":
        missing = "does not work here: files or memory are missing"
        return f"{name:<21} {f'works here, about {time} a picture' if verdict['works'] else missing}"
    option = "" if verdict["memory"] == "normal" else f", --memory {verdict['memory']}"
    if not verdict["works"]:
        return f"{name:<21} does not fit: needs {size} GB, there are {there:.1f}"
    return f"{name:<21} fits{option} ({size} GB), {time} at {verdict['size']} pixels"


def _format_needs(needs: list[dict[str, Any]]) -> list[str]:
    """Format the memory and time that runs need as a table."""
    rows = [["", *needs[0]["gigabytes"], *needs[0]["seconds"]]]
    for need in needs:
        sizes = [f"{size:.1f}" for size in need["gigabytes"].values()]
        rows.append([f"{need['family']} {need['size']}", *sizes, *map(format_duration, need["seconds"].values())])
    table = [f"{row[0]:<15}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows]
    return ["", "One picture with a model of yours, computed, not measured: GB of memory and time", *table]
