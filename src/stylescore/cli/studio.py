"""`stylescore studio`: a local page on which photos are stylized."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from stylescore.errors import ConfigError
from stylescore_apply.names import parse_path

WHAT = "What it offers"
WHERE = "Where it is reached"
PACKAGES = ("fastapi", "uvicorn")


def studio(
    styles: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="More styles: a folder of LoRA files, or one. Can be given again.",
            rich_help_panel=WHAT,
            parser=parse_path,
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="mini|FOLDER|FILE|HUB_ID", help="Base model.", rich_help_panel=WHAT)
    ] = "mini",
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="auto, cpu, cuda, cuda:N or mps. Given again, each makes pictures.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="ray|ray:N", help="Make the pictures on a Ray cluster.", rich_help_panel=WHAT),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; others than this machine's need the token.", rich_help_panel=WHERE),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port; by default 8188 or the next that is free.", rich_help_panel=WHERE)
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(help="What a browser must show once; drawn if others can reach it.", rich_help_panel=WHERE),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of photos and pictures.", rich_help_panel=WHERE, parser=parse_path),
    ] = None,
    storage: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000_000, metavar="MIB", help="Largest size of that folder.", rich_help_panel=WHERE
        ),
    ] = 10_240,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.", rich_help_panel=WHERE)
    ] = True,
    stop: Annotated[
        bool,
        typer.Option(
            "--stop", help="End what computes in the background; a later studio goes on.", rich_help_panel=WHERE
        ),
    ] = False,
) -> None:
    """Open a page in the browser on which photos are dropped, stylized and compared.

    Nothing leaves this machine. Pictures that are being made go on when the page is closed.
    """
    _require_extra()
    from stylescore.cli.output import say
    from stylescore.studio.folder import default_folder
    from stylescore.studio.serve import StudioOptions, serve, stop_workers

    folder = data or default_folder()
    if stop:
        stop_workers(folder)
        say("the pictures that are being made are saved; a later studio goes on with them")
        return
    options = StudioOptions(
        folder=folder,
        host=host,
        port=port,
        token=token,
        styles=styles or [],
        model=model,
        devices=device or (),
        workers=workers,
        storage=storage,
        browser=browser,
    )
    serve(options, say)


def _require_extra() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the studio needs {', '.join(missing)}", hint="pip install 'stylescore[studio]'")
