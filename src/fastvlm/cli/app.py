"""The `fastvlm` program: registers the subcommands and turns errors into one line and an exit code.

Exit codes: 0 done, 1 failure while running, 2 wrong use or unreadable input, 3 some inputs of several failed,
4 the model cannot be loaded, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import click
import typer

from fastvlm.cli import models
from fastvlm.errors import (
    CheckpointError,
    ConfigError,
    ContextLengthError,
    FastVLMError,
    MediaError,
)

app = typer.Typer(
    name="fastvlm",
    help="Run, stream, fine-tune and measure FastVLM.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
    """Run, stream, fine-tune and measure FastVLM."""


def main() -> None:
    """Entry point of the `fastvlm` script."""
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader (`| head`) went away: keep the interpreter's own flush at exit quiet as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except FastVLMError as error:
        typer.echo(f"error: {error}", err=True)
        code = exit_code_of(error)
    raise SystemExit(code or 0)


def exit_code_of(error: FastVLMError) -> int:
    """The exit code that stands for this class of error."""
    if isinstance(error, CheckpointError):
        return 4
    if isinstance(error, ConfigError | MediaError | ContextLengthError):
        return 2
    return 1
