"""`stylescore styles`, `inspect` and `doctor`: what there is, what a file is, what this machine can do."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from textwrap import TextWrapper
from typing import Annotated, Any

import typer

from stylescore.cli.output import give

WRAPPER = partial(TextWrapper, subsequent_indent=16 * " ", break_long_words=False, break_on_hyphens=False)
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def styles(json: JsonOption = False) -> None:
    """List the styles that can be named: bundled ones and those in your style folder."""
    from stylescore.catalog.registry import list_styles, user_styles_dir

    entries = list_styles()
    if json:
        give(
            {
                "folder": str(user_styles_dir()),
                "styles": [asdict(entry) | {"path": str(entry.path)} for entry in entries],
            }
        )
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        origin = "bundled" if entry.bundled else "yours"
        facts = [f"base {entry.base}" if entry.base else "", f"says {entry.trigger!r}" if entry.trigger else ""]
        typer.echo(f"{entry.name:<{width}}  {origin:<7}  {', '.join(filter(None, facts))}".rstrip())
    typer.echo(f"Your own styles: put LoRA files (.safetensors) into {user_styles_dir()}", err=True)


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A LoRA file.")], json: JsonOption = False
) -> None:
    """Tell what a LoRA file is, and whether it can be used."""
    from stylescore.lora.report import describe

    report = describe(file)
    if json:
        give(report.to_dict())
        return
    typer.echo("\n".join(report_lines(report.to_dict(), columns())))


def columns() -> int | None:
    """Return how wide the terminal is; `None` where the output goes elsewhere, so that a line stays a line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def report_lines(report: dict[str, Any], width: int | None = None) -> list[str]:
    """Return a report in names and plain words, without what is not known; a width wraps it between words."""
    lines = []
    for name, value in report.items():
        if text := plain(value):
            line = f"{name.replace('_', ' ') + ':':<15} {text}"
            lines += WRAPPER(width).wrap(line) if width else [line]
    return lines


def plain(value: Any) -> str:
    """Return a report's value in words."""
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
    """Tell what this machine has, and what a run would download."""
    from stylescore.diagnostics.doctor import examine

    facts = examine()
    if json:
        give(facts)
        return
    needed = facts.pop("needs")
    typer.echo("\n".join([*report_lines(facts, columns()), *needs_lines(needed)]))


def needs_lines(needs: list[dict[str, Any]]) -> list[str]:
    """Return what runs need as a table."""
    rows = [["", *needs[0]["gigabytes"], *needs[0]["seconds"]]]
    for need in needs:
        sizes = [f"{size:.1f}" for size in need["gigabytes"].values()]
        rows.append([f"{need['family']} {need['size']}", *sizes, *map(duration, need["seconds"].values())])
    table = [f"{row[0]:<15}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows]
    return ["", "One picture on this machine, computed, not measured: GB at most and time", *table]


def duration(seconds: float) -> str:
    """Return a time in words, in the largest unit that leaves a digit or two."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 100 * 3600 else f"{seconds / 86400:.0f} days"
