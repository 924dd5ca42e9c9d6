"""`fastvlm eval`: measure a model on a task, with counts and intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fastvlm.cli.pictures import SUFFIXES
from fastvlm.cli.session import progress_bars
from fastvlm.errors import ConfigError, MediaError

app = typer.Typer(help="Measure a model on a task.", no_args_is_help=True)


@app.callback()
def _tasks() -> None:
    """Measure a model on a task."""


@app.command()
def nano(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model by name, or its folder.")
    ] = "nano",
    n: Annotated[int, typer.Option("--n", help="Questions of each kind.")] = 500,
    seed: Annotated[int, typer.Option(help="Another seed asks other questions.")] = 0,
    photographs: Annotated[
        Path | None,
        typer.Option(help="A folder of real pictures that the model should decline."),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the report to this file.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """The drawn world: fresh pictures, fonts not seen in training, and a second renderer."""
    from fastvlm.engine import Engine
    from fastvlm.evaluate.nano import evaluate_nano, markdown_table, uses_only_built_in_font

    _check_place(json_path)
    pictures = _pictures_in(photographs) if photographs else []
    engine = Engine.load(model, dtype=dtype, device=device)
    with progress_bars(quiet) as show:
        report = evaluate_nano(
            engine, num_questions=n, seed=seed, photographs=pictures, on_progress=show
        )
    if uses_only_built_in_font(report) and not quiet:
        typer.echo("note: only one held-out font (inside Pillow) was found", err=True)
    document = report.as_json()
    typer.echo(markdown_table(document), nl=False)
    _write(document, json_path)


@app.command("nano-video")
def nano_video(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A model by name, or its folder.")
    ] = "nano",
    n: Annotated[int, typer.Option("--n", help="Questions of each kind.")] = 300,
    frames: Annotated[int, typer.Option("--frames", help="Frames of each clip, 4 to 8.")] = 4,
    seed: Annotated[int, typer.Option(help="Another seed asks other questions.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Also write the report to this file.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """The drawn world in motion: fresh clips as they are, reversed, shuffled, and one frame alone."""
    from fastvlm.engine import Engine
    from fastvlm.evaluate.nano_video import evaluate_nano_video, video_markdown_table

    _check_place(json_path)
    engine = Engine.load(model, dtype=dtype, device=device)
    with progress_bars(quiet) as show:
        report = evaluate_nano_video(
            engine, num_questions=n, seed=seed, num_frames=frames, on_progress=show
        )
    document = report.as_json()
    typer.echo(video_markdown_table(document), nl=False)
    _write(document, json_path)


def _check_place(json_path: Path | None) -> None:
    if json_path is not None and not json_path.parent.is_dir():
        raise ConfigError(f"{json_path.parent} is not a folder; the report cannot be written there")


def _write(document: dict[str, Any], json_path: Path | None) -> None:
    if json_path is not None:
        partial = json_path.with_name(f".{json_path.name}.partial")
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        partial.replace(json_path)


def _pictures_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MediaError(f"{folder} is not a folder; expected one with photographs")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise MediaError(f"no pictures in {folder}; expected files such as .jpg or .png")
    return found
