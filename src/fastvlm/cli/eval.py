"""`fastvlm eval`: measure a model on a task, with counts and intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fastvlm.cli.pictures import SUFFIXES
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
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from fastvlm.engine import Engine
    from fastvlm.evaluate.nano import evaluate_nano, markdown_table, uses_only_built_in_font

    if json_path is not None and not json_path.parent.is_dir():
        raise ConfigError(f"{json_path.parent} is not a folder; the report cannot be written there")
    pictures = _pictures_in(photographs) if photographs else []
    engine = Engine.load(model, dtype=dtype, device=device)
    tasks: dict[str, TaskID] = {}
    with Progress(console=Console(stderr=True, quiet=quiet)) as bar:

        def show(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done)

        report = evaluate_nano(
            engine, num_questions=n, seed=seed, photographs=pictures, on_progress=show
        )
    if uses_only_built_in_font(report) and not quiet:
        typer.echo("note: only one held-out font (inside Pillow) was found", err=True)
    document = report.as_json()
    typer.echo(markdown_table(document), nl=False)
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
