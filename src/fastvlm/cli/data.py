"""`fastvlm data`: look through training data before a run, and split it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvlm.cli import synthesize
from fastvlm.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from fastvlm.data.check import CheckReport, Lengths
    from fastvlm.data.record import RecordFile
    from fastvlm.messages import VideoOptions
    from fastvlm.processing.processor import Processor

app = typer.Typer(help="Check, split and draw training data.", no_args_is_help=True)
app.add_typer(synthesize.app, name="synthesize")

_PIPE_WIDTH = 240
"""Columns of a table that no terminal shows, so that no path or reason is cut."""
_BAR_WIDTH = 30

Files = Annotated[
    list[str],
    typer.Argument(
        help="Files of records, patterns, or lists of files: JSON, JSONL, parquet, tar, TOML.",
        show_default=False,
    ),
]
MediaFolder = Annotated[
    Path | None,
    typer.Option(
        help="Folder that paths of pictures and clips are relative to.", show_default="each file's"
    ),
]


@app.command()
def check(
    files: Files,
    media_folder: MediaFolder = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Counts tokens; the one to be trained.")
    ] = "nano",
    max_length: Annotated[
        int | None, typer.Option(help="Longest record in tokens.", show_default="the model's")
    ] = None,
    num_frames: Annotated[int, typer.Option("--frames", help="Most frames of a clip.")] = 8,
    frame_size: Annotated[
        int | None, typer.Option(help="Pixels per side of a frame.", show_default="the model's")
    ] = None,
    other_split: Annotated[
        list[str] | None,
        typer.Option(help="File of another split, such as validation; may be given again."),
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Draw some records into this .png.")
    ] = None,
    sheet_records: Annotated[int, typer.Option(help="Records on the contact sheet.")] = 24,
    fast: Annotated[
        bool, typer.Option("--fast", help="Do not open media; only look whether they exist.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(help="Look only at so many records of each file.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report as JSON instead of tables.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Look for broken records and media, long and double ones, and for leaks between splits.

    Exit codes: 0 nothing wrong, 3 records that cannot be used or stand in both splits, 2 a file that cannot be read.
    """
    from fastvlm.data.check import check_files, evenly
    from fastvlm.data.contact_sheet import check_sheet_path, save_contact_sheet
    from fastvlm.messages import VideoOptions

    for name, value in (("sample", sample), ("sheet-records", sheet_records)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; expected at least 1")
    if contact_sheet is not None:
        check_sheet_path(contact_sheet)
    video = VideoOptions(num_frames=num_frames, frame_size=frame_size)
    processor = _processor(model, max_length)
    opened = _open(files, media_folder, video)
    others = _open(other_split or [], media_folder, video)
    total = sum(len(evenly(len(file), sample)) for file in [*opened, *others])
    with _progress(total, is_quiet=quiet) as show:
        report = check_files(
            opened,
            other_split=others,
            processor=processor,
            opens_media=not fast,
            max_records=sample,
            on_progress=show,
        )
    if contact_sheet is not None:
        save_contact_sheet(opened, contact_sheet, num_records=sheet_records)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
    else:
        _print_report(report)
    if report.num_problems:
        raise typer.Exit(3)


@app.command()
def split(
    file: Annotated[Path, typer.Argument(help="A JSON list or JSON Lines.", show_default=False)],
    by: Annotated[
        str,
        typer.Option(help="What stays together: media, folder, or a field of the records."),
    ] = "media",
    fractions: Annotated[
        str, typer.Option(help="Shares of the sources, two or three.")
    ] = "0.8,0.1,0.1",
    names: Annotated[
        str | None, typer.Option(help="Names of the parts.", show_default="train,val,test")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="that of FILE")
    ] = None,
    media_folder: MediaFolder = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of an earlier split.")
    ] = False,
) -> None:
    """Write training, validation and test files that share no picture, clip or other source.

    Stable: a source stays in its part when records are added.
    """
    from fastvlm.data.split import split_records

    try:
        shares = [float(share) for share in fractions.split(",")]
    except ValueError:
        raise ConfigError(
            f"fractions are {fractions!r}; expected numbers such as 0.8,0.1,0.1"
        ) from None
    folder = output or file.parent
    parts = split_records(
        file,
        folder,
        by=by,
        fractions=shares,
        names=names.split(",") if names else None,
        seed=seed,
        media_folder=media_folder,
        overwrite=overwrite,
    )
    rows = [(str(part.path), f"{part.num_sources:,}", f"{part.num_records:,}") for part in parts]
    _print_table(_console(), ("File", "Sources", "Records"), rows)
    if folder.resolve() != file.parent.resolve() or media_folder is not None:
        typer.echo(
            f"paths in them are still relative to {media_folder or file.parent} (--media-folder)"
        )


def _open(names: list[str], media_folder: Path | None, video: VideoOptions) -> list[RecordFile]:
    from fastvlm.data.records import open_records
    from fastvlm.data.sources import read_sources

    return [
        open_records(source.path, media_folder=source.media_folder or media_folder, video=video)
        for source in read_sources(names)
    ]


def _processor(model: str, max_length: int | None) -> Processor:
    from dataclasses import replace

    from fastvlm.checkpoint.config_json import read_config
    from fastvlm.checkpoint.hub import resolve_model
    from fastvlm.processing.processor import Processor

    folder = resolve_model(model)
    config, _ = read_config(folder)
    if max_length is not None:
        if max_length < 1:
            raise ConfigError(f"--max-length is {max_length}; expected at least 1")
        config = replace(config, max_length=max_length)
    return Processor.from_folder(folder, config)


@contextmanager
def _progress(total: int, *, is_quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, and only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, quiet=is_quiet)
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=is_quiet or not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)


def _print_report(report: CheckReport) -> None:
    console = _console()
    rows = [
        (name, f"{num_records:,}", "all" if num_seen == num_records else f"{num_seen:,}")
        for name, num_records, num_seen in report.files
    ]
    _print_table(console, ("File", "Records", "Looked at"), rows)
    console.print(
        f"\n{report.num_pictures:,} pictures, {report.num_clips:,} clips, "
        f"{report.num_text_only:,} records of text only"
    )
    if report.lengths is not None:
        _print_lengths(console, report.lengths)
    for title, kinds in (("Problem", report.problems), ("Note", report.notes)):
        rows = [
            (kind if number == 0 else "", f"{found.count:,}" if number == 0 else "", example)
            for kind, found in kinds.items()
            for number, example in enumerate(found.examples)
        ]
        if rows:
            console.print()
            _print_table(console, (title, "Records", "The first of them"), rows)
    console.print()
    scope = "" if report.is_complete else ", but not everything was looked at"
    if report.num_problems:
        console.print(f"{report.num_problems:,} problems{scope}")
    else:
        console.print(f"nothing wrong{scope}")


def _print_lengths(console: Console, lengths: Lengths) -> None:
    console.print(
        f"tokens: median {lengths.median:,}, mean {lengths.mean:,.0f}, longest {lengths.longest:,}, "
        f"max_length {lengths.max_length:,}\n"
    )
    most = max(count for _, count in lengths.bins)
    rows = [
        (f"to {edge:,}", f"{count:,}", "#" * -(-count * _BAR_WIDTH // most))
        for edge, count in lengths.bins
    ]
    _print_table(console, ("Tokens", "Records", ""), rows)


def _console() -> Console:
    from rich.console import Console

    # Names and messages are data: square brackets in them are no markup.
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _print_table(
    console: Console, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]
) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, heading in enumerate(headings):
        is_number = heading in ("Records", "Sources", "Looked at")
        table.add_column(
            heading,
            overflow="fold",
            no_wrap=position == 0,
            justify="right" if is_number else "left",
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
