"""`fastvlm train`: run a training recipe in the background of a terminal, with a bar and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from fastvlm.train.scratch.launch import News


def train(
    recipe: Annotated[str, typer.Option(help="What to train: nano.")] = "nano",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for states, log and the model. [default: runs/RECIPE]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in that folder stopped.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    steps_scale: Annotated[
        float, typer.Option(help="Factor on the samples of every stage, e.g. 0.01 to try it out.")
    ] = 1.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Train a model from scratch on pictures drawn here, reproducibly from a seed.

    Ctrl-C saves the state and says how to go on. The finished model is in OUTPUT/model.
    """
    from fastvlm.train.scratch.export import export_run
    from fastvlm.train.scratch.launch import follow_run, start_run
    from fastvlm.train.scratch.state import read_settings

    folder = output or Path("runs") / recipe
    if resume:
        recipe = read_settings(folder).recipe
    else:
        start_run(folder, recipe, device=device, steps_scale=steps_scale)
    bar = _Bar(is_quiet=quiet)
    with bar.progress:
        is_finished = follow_run(folder, bar.show)
    if not is_finished:
        typer.echo(f"stopped; to go on: fastvlm train --resume --output {folder}", err=True)
        raise typer.Exit(130)
    export_run(folder, folder / "model")
    typer.echo(str(folder / "model"))


class _Bar:
    """A progress bar for each stage, and a line for each measurement."""

    def __init__(self, *, is_quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} pictures/s"),
            console=Console(stderr=True, quiet=is_quiet),
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, news: News) -> None:
        if news.stage not in self._tasks:
            self._tasks[news.stage] = self.progress.add_task(
                news.stage, total=news.num_steps, loss="", speed=""
            )
        self.progress.update(
            self._tasks[news.stage],
            completed=news.step,
            loss=news.loss,
            speed=news.samples_per_second,
        )
        if news.accuracies:
            self.progress.console.print(f"{news.stage} step {news.step}: {news.accuracies}")
