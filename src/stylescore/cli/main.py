"""The program `stylescore`: commands, exit codes, and the one place where errors become lines."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer

from stylescore._version import __version__
from stylescore.cli.inform import doctor, inspect, styles
from stylescore.cli.output import complain
from stylescore.cli.stylize import stylize
from stylescore.cli.train_style import train_style
from stylescore.errors import StylescoreError

INTERRUPTED = 130

# By its version, Typer carries its own copy of click or uses the installed one; this is the right class for both.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="stylescore",
    help="Turn a photo into a picture in a given style: the style is really the style, the content is still the "
    "content.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(stylize)
app.command()(train_style)
app.command()(styles)
app.command()(inspect)
app.command()(doctor)


def show_version(value: bool) -> bool:
    """Print the version and stop, if it is asked for."""
    if value:
        typer.echo(f"stylescore {__version__}")
        raise typer.Exit
    return value


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=show_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Hold the options of the program itself."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 1 our own failure, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        result = typer.main.get_command(app).main(
            args=list(arguments) if arguments is not None else None, prog_name="stylescore", standalone_mode=False
        )
    except StylescoreError as error:
        complain(str(error), error.hint or "stylescore --help tells what can be given")
        return error.exit_code
    except UsageError as error:
        return misused(error)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:  # by its version, Typer turns Ctrl-C into this number or lets it through
        complain("interrupted", None)
    return result if isinstance(result, int) else 0


def misused(error: Any) -> int:
    """Say what was wrong with the command line; without any arguments the help has said it already."""
    message = error.format_message()
    if message.strip():
        complain(message, f"see {error.ctx.command_path if error.ctx else 'stylescore'} --help")
    return 2


if __name__ == "__main__":
    run()
