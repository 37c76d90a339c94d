"""The program `stylescore`: its commands and exit codes, and where errors become messages."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

import typer

from stylescore._version import __version__
from stylescore.cli.inform import doctor, inspect, styles
from stylescore.cli.output import print_error
from stylescore.cli.stylize import stylize
from stylescore.cli.train_style import train_style
from stylescore.errors import StylescoreError

INTERRUPTED = 130

# Depending on its version, Typer includes a copy of click or uses the installed one; this is the class in both cases.
UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="stylescore",
    help="Stylize photos with a diffusion model and a style LoRA.",
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


def _print_version(value: bool) -> bool:
    """Print the version and exit if the option was given."""
    if value:
        typer.echo(f"stylescore {__version__}")
        raise typer.Exit
    return value


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Define the options of the program itself."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit with 0 for success, 1 for a failed run, 2 for unusable input, 130 for an interrupt."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        result = typer.main.get_command(app).main(
            args=list(arguments) if arguments is not None else None, prog_name="stylescore", standalone_mode=False
        )
    except StylescoreError as error:
        print_error(str(error), error.hint or "see stylescore --help")
        return error.exit_code
    except UsageError as error:
        return _print_usage_error(error)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:  # depending on its version, Typer returns this number for Ctrl-C or raises
        print_error("interrupted", None)
    return result if isinstance(result, int) else 0


def _print_usage_error(error: Any) -> int:
    """Print what is wrong with the command line; without arguments the help has been printed, and nothing is added."""
    message = error.format_message()
    if message.strip():
        print_error(message, f"see {error.ctx.command_path if error.ctx else 'stylescore'} --help")
    return 2


if __name__ == "__main__":
    run()
