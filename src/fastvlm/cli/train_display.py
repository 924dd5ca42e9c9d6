"""What `fastvlm train` shows on stderr: bars, a table of what is trained, and a line now and then."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from fastvlm.train.parts import PartRow
    from fastvlm.train.scratch.launch import News


class TuningDisplay:
    """A bar for each phase, and a line for each validation."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=is_quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._progress.stop()

    def begin_phase(self, name: str, parts: tuple[PartRow, ...], num_records: int) -> None:
        """Show what a phase trains."""
        table = Table(title=f"phase {name}: {num_records:,} records", title_justify="left")
        table.add_column("part")
        for column in ("parameters", "trained", "peak rate"):
            table.add_column(column, justify="right")
        for row in parts:
            rate = f"{row.learning_rate:g}" if row.trained else "frozen"
            table.add_row(row.group, f"{row.parameters:,}", f"{row.trained:,}", rate)
        self._console.print(table)
        if self._task is None:  # not before: an error so far is one line, without a bar
            self._progress.start()
        self._task = self._progress.add_task(name, total=None, figures="")

    def show(self, line: dict[str, Any]) -> None:
        """Take a line of the log."""
        if self._task is not None:
            self._progress.update(self._task, total=line.get("num_steps"), completed=line["step"])
        if "loss" in line and self._task is not None:
            figures = f"loss {line['loss']:.4f}  {line['samples_per_second']:.1f} samples/s"
            self._progress.update(self._task, figures=figures)
        if "eval" in line:
            values = "  ".join(f"{name} {value:.4f}" for name, value in line["eval"].items())
            self._console.print(f"{line['phase']} step {line['step']}: {values}", highlight=False)

    def note(self, text: str) -> None:
        """A line for people."""
        self._console.print(text, highlight=False)

    def compare(self, comparison: dict[str, Any]) -> None:
        """The model before and after."""
        if not comparison:
            return
        from fastvlm.train.report.comparison import regression_line

        table = Table(title="before and after", title_justify="left")
        table.add_column("set")
        table.add_column("metric")
        for column in ("n", "before", "after"):
            table.add_column(column, justify="right")
        for name, one in comparison["sets"].items():
            for metric, before in one["base"].items():
                after = one["tuned"].get(metric)
                if isinstance(before, float) and isinstance(after, float):
                    table.add_row(name, metric, str(one["n"]), f"{before:.3f}", f"{after:.3f}")
        self._console.print(table)
        if (line := regression_line(comparison)) is not None:
            self.note(line)


class ScratchBar:
    """A progress bar for each stage of training from nothing, and a line for each measurement."""

    def __init__(self, *, is_quiet: bool) -> None:
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
        """Take a line of progress."""
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
