"""The `fastvlm` program: registers the subcommands and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failure while running, 2 wrong use or unreadable input, 3 some inputs of several failed,
4 the model cannot be loaded, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fastvlm.cli import bench, data, models, train
from fastvlm.cli import eval as evaluation
from fastvlm.cli.chat import chat
from fastvlm.cli.predict import predict
from fastvlm.cli.video import video
from fastvlm.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    DataError,
    FastVLMError,
    MediaError,
    NumericalError,
)

app = typer.Typer(
    name="fastvlm",
    help="Run and measure FastVLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(predict)
app.command()(video)
app.command()(chat)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.add_typer(evaluation.app, name="eval")
app.add_typer(bench.app, name="bench")
app.add_typer(models.app, name="models")


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"fastvlm {version('fastvlm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run and measure FastVLM."""


def main() -> None:
    """Entry point of the `fastvlm` script; wrong use and Ctrl-C are typer's to report (2 and 130)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # started with a closed stream, as by `>&-`
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    try:
        app()
    except FastVLMError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(exit_code_of(error)) from None
    except OSError as error:  # a full disk, a closed stream, a folder that may not be written
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise SystemExit(1) from None


def exit_code_of(error: FastVLMError) -> int:
    """The exit code that stands for this class of error."""
    if isinstance(error, CheckpointError):
        return 4
    wrong_use = ConfigError | MediaError | DataError | ContextLengthError | BackendError
    if isinstance(error, wrong_use) and not isinstance(error, NumericalError):
        return 2
    return 1
