"""The program `stylescore`: its commands and exit codes, and where errors become messages."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

from stylescore._version import __version__
from stylescore.cli.apply import PASSED_ON, apply, export
from stylescore.cli.benchmark import benchmark
from stylescore.cli.compare import compare
from stylescore.cli.evaluate import evaluate
from stylescore.cli.inform import doctor, inspect, styles
from stylescore.cli.output import first_failure, print_error, print_result
from stylescore.cli.push import push
from stylescore.cli.streams import BROKEN_PIPE, GuardedStream, guarded_streams
from stylescore.cli.studio import studio
from stylescore.cli.stylize import stylize
from stylescore.cli.train_generator import train_generator
from stylescore.cli.train_style import train_style
from stylescore.cli.tune import tune
from stylescore.errors import OutputError, StylescoreError, quote

INTERRUPTED = 130
OUTPUT_HINT = "send it to a file, a pipe or /dev/null; pictures that were made are in their folders"
START = (
    "Start with:",
    "  stylescore styles                                 what needs no download",
    "  stylescore stylize photo.jpg --style watercolor   makes a picture in out/",
    "  stylescore doctor                                 what works on this machine",
)
"""What is printed below the help if nothing is given."""

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
app.command()(studio)
app.command()(train_style)
app.command()(train_generator)
app.command()(tune)
app.command()(evaluate)
app.command()(compare)
app.command()(benchmark)
app.command(context_settings=PASSED_ON, add_help_option=False)(apply)
app.command()(export)
app.command()(push)
app.command()(styles)
app.command()(inspect)
app.command()(doctor)


def _print_version(value: bool) -> bool:
    """Print the version and exit if the option was given."""
    if value:
        print_result(f"stylescore {__version__}")
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
    with guarded_streams() as out:
        return _check_output(out) or _execute(arguments) or _check_output(out)


def _check_output(out: GuardedStream) -> int:
    """Return 0 if everything could be printed, else an exit code; a pipe that is closed early is no error."""
    if out.error is None:
        return 0
    if out.error.errno == errno.EPIPE:
        return BROKEN_PIPE
    print_error(f"standard output cannot be written: {out.error.strerror}", OUTPUT_HINT)
    return OutputError.exit_code


@cache
def _program() -> Any:
    """Return the parser of all commands; making it takes longer than many a command."""
    return typer.main.get_command(app)


def _execute(arguments: Sequence[str] | None) -> int:
    """Run the command and return its exit code; errors become messages."""
    try:
        result = _program().main(
            args=list(arguments) if arguments is not None else None, prog_name="stylescore", standalone_mode=False
        )
    except StylescoreError as error:
        return _print_failure(first_failure(error))
    except UsageError as error:
        return _print_usage_error(error)
    except OSError as error:
        print_error(f"the system refused: {error}", "check this path, its permissions and the free space")
        return OutputError.exit_code
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    if result == INTERRUPTED:  # depending on its version, Typer returns this number for Ctrl-C or raises
        print_error("interrupted", None)
    return result if isinstance(result, int) else 0


def _print_failure(error: StylescoreError) -> int:
    """Print one of our errors and return its exit code."""
    print_error(str(error), error.hint or "see stylescore --help")
    return error.exit_code


def _print_usage_error(error: Any) -> int:
    """Print what is wrong with the command line; without arguments the help has been printed, and how to start."""
    message = error.format_message()
    if message.strip():
        program = error.ctx.command_path if error.ctx else "stylescore"
        print_error(f"{message}{_wrong_value(error)}", f"see {program} --help")
    else:
        print("\n".join(START), file=sys.stderr)
    return OutputError.exit_code


def _wrong_value(error: Any) -> str:
    """Return the value that an option cannot have, where Typer converts it with Pydantic and leaves it unsaid."""
    reasons: list[Any] = getattr(error.__cause__, "errors", list)()
    return f", not {quote(reasons[0]['input'])}" if reasons else ""


if __name__ == "__main__":
    run()
