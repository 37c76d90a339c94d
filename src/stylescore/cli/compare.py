"""`stylescore compare`: people vote between folders of pictures on a local page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stylescore.cli.options import parse_names
from stylescore.cli.output import print_json, print_result, require_writable, say
from stylescore.errors import ConfigError, quote
from stylescore_apply.names import parse_path
from stylescore_apply.storage.files import atomic, check_target

if TYPE_CHECKING:
    from stylescore.comparison.server import PollServer
    from stylescore.comparison.study import Study
    from stylescore.comparison.votes import Votes

SHOWN = "What is shown"
ASKED = "What is asked, and who"
RESULTS = "Results"
LONGEST_NAME = 100
"""Longest name of a voter, in letters."""


def compare(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER...",
            help="Folders of pictures, or of runs, one a method.",
            show_default=False,
            parser=parse_path,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The photos, shown beside.", rich_help_panel=SHOWN, parser=parse_path),
    ] = None,
    style: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A picture in the style, shown beside.", rich_help_panel=SHOWN, parser=parse_path
        ),
    ] = None,
    questions: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="style, content, overall.", rich_help_panel=ASKED)
    ] = "style,content,overall",
    pairs: Annotated[
        int, typer.Option(metavar="N", help="Comparisons for each voter, 0 for all.", rich_help_panel=ASKED)
    ] = 0,
    voter: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A voter with a link, repeatable.", rich_help_panel=ASKED)
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=ASKED)] = "127.0.0.1",
    address: Annotated[
        str | None, typer.Option(metavar="NAME", help="How voters reach it, if not --host.", rich_help_panel=ASKED)
    ] = None,
    port: Annotated[int, typer.Option(help="Port, 0 for a free one.", rich_help_panel=ASKED)] = 0,
    seed: Annotated[int, typer.Option(help="Of orders and sides.", rich_help_panel=ASKED)] = 0,
    votes: Annotated[
        Path, typer.Option(metavar="FILE", help="SQLite file of the votes.", rich_help_panel=RESULTS, parser=parse_path)
    ] = Path("votes.sqlite"),
    results: Annotated[
        bool, typer.Option("--results", help="Print the results, ask nobody.", rich_help_panel=RESULTS)
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Write all votes there.", rich_help_panel=RESULTS, parser=parse_path),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print results as JSON.", rich_help_panel=RESULTS)] = False,
) -> None:
    """Let people vote blindly between the pictures of several methods.

    A page shows two pictures of one photo; Ctrl-C ends it and prints win rates and a ranking.
    """
    if export is not None:
        check_target(export)
        require_writable(export.absolute().parent, "choose another --export")
    if results:
        from stylescore.comparison.votes import Votes

        _show_results(Votes.existing(votes), export, json=json)
        return
    from stylescore.comparison.server import Poll, PollServer, check_host, check_listening
    from stylescore.comparison.votes import Votes

    check_host(host, address)
    check_listening(host, port)
    study = _make_study(folders or (), source, style, questions=questions, seed=seed, most=pairs)
    require_writable(votes.absolute().parent, "choose another --votes")
    saved = Votes.open(votes, study, _voter_names(voter))
    with PollServer(Poll(study, saved), host, port, address) as server:
        _serve(server, study)
    _show_results(saved, export, json=json)


def _make_study(
    folders: Sequence[Path], source: Path | None, style: Path | None, *, questions: str, seed: int, most: int
) -> Study:
    from stylescore.cli.evaluate import name_folders
    from stylescore.comparison.study import make_study
    from stylescore.evaluation.pairs import list_pictures, list_results
    from stylescore.images import read_photo

    if style is not None:
        read_photo(style)
    return make_study(
        {name: list_results(path) for name, path in zip(name_folders(folders), folders, strict=True)},
        [] if source is None else list_pictures(source),
        questions=parse_names(questions),
        style=style,
        seed=seed,
        most=most,
    )


def _voter_names(names: Sequence[str] | None) -> list[str]:
    """Return the voters' names; a single one by default.

    Raises:
        ConfigError: a name is empty, stands twice, or cannot be printed on one line.
    """
    found = list(names or ["voter"])
    for name in found:
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ConfigError(
                f"a voter's name must be at most {LONGEST_NAME} letters on one line, not {quote(name)}",
                hint="--voter anna",
            )
    if not all(name.strip() for name in found) or len(set(found)) < len(found):
        raise ConfigError("every --voter needs a name of its own", hint="--voter anna --voter ben")
    return found


def _serve(server: PollServer, study: Study) -> None:
    """Print the links and serve until Ctrl-C."""
    from stylescore.comparison.server import is_loopback

    say(f"{len(study.pairs())} comparisons of {len(study.methods)} methods; keys: left, right, down, Backspace")
    if not is_loopback(str(server.server_address[0])):
        say("every machine that reaches this address can vote with one of these links")
    for name, link in server.links().items():
        say(f"{name}: {link}")
    say("Ctrl-C ends it; votes are saved at once, and the same command goes on")
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        say("")
    if server.failures:
        say(f"a voter could not go on: {server.failures[0]}")


def _show_results(votes: Votes, export: Path | None, *, json: bool) -> None:
    from stylescore.comparison.results import format_results, summarise
    from stylescore.comparison.votes import to_csv

    rows = votes.rows()
    if export is not None:
        with atomic(export) as temporary:
            temporary.write_text(to_csv(rows), encoding="utf-8")
    summary = summarise(rows, votes.methods())
    if json:
        print_json(summary)
    else:
        print_result("\n".join(format_results(summary)))
