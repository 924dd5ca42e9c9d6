"""`fastvlm models`: list, pull, verify and convert checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fastvlm.errors import CheckpointError

app = typer.Typer(help="List, pull, verify and convert models.", no_args_is_help=True)

_PIPE_WIDTH = 240
"""Columns of a table that no terminal shows, so that no name or reason is cut."""


@app.command("list")
def list_models() -> None:
    """Show the models that are known by name, and which of them are on this disk."""
    from fastvlm.checkpoint.catalogue import KNOWN_MODELS
    from fastvlm.checkpoint.hub import list_pulled, local_folder

    entries = [*KNOWN_MODELS, *list_pulled()]
    rows = []
    for entry in entries:
        folder = local_folder(entry)
        num_bytes = _folder_bytes(folder) if folder else entry.approximate_bytes
        size = f"{'' if folder else 'about '}{_readable(num_bytes)}" if num_bytes else ""
        name = f"{entry.name} ({', '.join(entry.aliases)})" if entry.aliases else entry.name
        licence = entry.licence_label or entry.licence or "see its page"
        rows.append((name, size, licence, str(folder) if folder else "no"))
    _print_table(("Name", "Size", "Licence", "On disk"), rows)


@app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="0.5b, 1.5b, 7b, a name from `fastvlm models list`, or owner/repository."
        ),
    ],
) -> None:
    """Download a model, check it, and keep it for use by name. An interrupted download is resumed."""
    from fastvlm.checkpoint.hub import pull_model

    with _progress() as bar:
        watch = _Watch(bar)
        try:
            folder = pull_model(name, listener=watch)
        except KeyboardInterrupt:
            bar.stop()
            if watch.has_begun:
                typer.echo("stopped; what arrived is kept, the same command resumes it", err=True)
            raise
    typer.echo(folder)


@app.command()
def verify(
    path: Annotated[str, typer.Argument(help="A model folder, or the name of a pulled model.")],
) -> None:
    """Check that a model is whole: files, lengths, and hashes where they are known."""
    from fastvlm.checkpoint.hub import resolve_model
    from fastvlm.checkpoint.verify import verify_folder

    folder = resolve_model(path)
    total = _folder_bytes(folder)
    with _progress() as bar:
        watch = _Watch(bar)
        report = verify_folder(folder, on_bytes=lambda n: watch.on_progress("SHA-256", n, total))
    rows = [
        (
            check.name,
            _readable(check.size) if check.size is not None else "",
            check.detail,
            check.problem or "ok",
        )
        for check in report.checks
    ]
    _print_table(("File", "Size", "Checked", "Result"), rows)
    if not report.is_whole:
        count = len(report.problems)
        raise CheckpointError(
            f"{folder} has {count} problem{'s' if count > 1 else ''}: {report.problems[0]}; fetch it again"
        )
    typer.echo(f"{folder} is whole ({report.layout} layout, {len(report.checks)} files checked)")


@app.command()
def convert(
    src: Annotated[str, typer.Argument(help="A model folder, or the name of a pulled model.")],
    dst: Annotated[Path, typer.Argument(help="The folder to write; must not exist or be empty.")],
    layout: Annotated[
        Literal["apple", "hf"],
        typer.Option(help="apple: ml-fastvlm and its Hub folders; hf: fast_vlm of transformers."),
    ],
) -> None:
    """Write a model again in another layout. Also turns .bin files into safetensors."""
    from fastvlm.checkpoint.hub import resolve_model

    folder = resolve_model(src)
    # After the cheap check: this import brings PyTorch along.
    from fastvlm.checkpoint.convert import convert_checkpoint

    with _progress() as bar:
        watch = _Watch(bar)
        report = convert_checkpoint(
            folder,
            dst,
            layout=layout,
            progress=lambda done, total: watch.on_progress("converting", done, total),
        )
        for note in report.notes:
            watch.on_note(note)
    typer.echo(
        f"{dst}: {report.num_tensors} tensors, {_readable(report.num_bytes)}, layout {layout}"
    )


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _readable(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes} B"


def _print_table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=position == 0)
    for row in rows:
        table.add_row(*row)
    # Names and messages are data: square brackets in them are no markup.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on stderr, and only on a terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        yield bar


class _Watch:
    """Shows a pull: notes as lines on stderr, progress in the bar."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = None if bar.disable else bar.add_task("", total=None, visible=False)
        self.has_begun = False

    def on_note(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def on_progress(self, name: str, done: int, total: int) -> None:
        self.has_begun = True
        if self._task is not None:
            self._bar.update(
                self._task, description=name, completed=done, total=max(done, total), visible=True
            )
