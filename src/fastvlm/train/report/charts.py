"""Which curves a run has: from the log to charts, not yet drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fastvlm.train.report.run_folder import Event, Json, RunRecord, as_number, as_object

Array: TypeAlias = NDArray[np.float64]

Style: TypeAlias = Literal["plain", "points", "faint", "smooth"]
"""A smoothed curve stands behind the faint one it was made from and shares its colour."""

SHARES: Final = frozenset(
    {"exact_match", "token_accuracy", "accuracy", "bleu", "rouge_l", "flips", "consistency"}
)
"""Metrics from 0 to 1, shown in percent."""

_HUGE: Final = 1e30
"""From here on a number says no more than infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve. Values that are not finite are kept, to be marked."""

    label: str
    steps: Array
    values: Array
    style: Style = "plain"


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes."""

    label: str
    lines: tuple[Line, ...]
    scale: Literal["linear", "log", "percent"] = "linear"
    top: float | None = None
    """Where the axis ends, if single values would press all others flat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """One picture, or the reason why there is none."""

    name: str
    """Of its file, without `.png`."""
    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    """What a reader has to know, e.g. how many values were not finite."""


def charts_of(record: RunRecord) -> tuple[Chart, ...]:
    """All charts of a run; one without data has no panels and says why."""
    events = record.events
    return (
        _loss_chart(events),
        _metric_chart(events),
        _learning_rate_chart(events),
        _grad_norm_chart(events),
        _throughput_chart(events),
        _memory_chart(events),
    )


def read_line(
    events: Sequence[Event], keys: tuple[str, ...], label: str, *, style: Style = "plain"
) -> Line | None:
    """The curve of one number of the log, found under nested keys; None if no event has it."""
    found = [
        (event.step, number)
        for event in events
        if (number := as_number(_look_up(event.values, keys))) is not None
    ]
    if not found:
        return None
    steps, values = np.array(found, dtype=np.float64).T
    values = np.where(np.abs(values) < _HUGE, values, np.inf)
    return Line(label=label, steps=steps, values=values, style=style)


def _look_up(values: Json, keys: tuple[str, ...]) -> object:
    for key in keys[:-1]:
        values = as_object(values.get(key))
    return values.get(keys[-1])


def smooth(values: Array, width: int) -> Array:
    """Centred moving median of `width` values, fewer at the ends; a single spike leaves no trace.

    What is not finite does not count.
    """
    padding = np.full(width // 2, np.nan)
    padded = np.concatenate([padding, np.where(np.isfinite(values), values, np.nan), padding])
    windows = np.sort(sliding_window_view(padded, 2 * (width // 2) + 1), axis=1)  # nan to the end
    counts = np.isfinite(windows).sum(axis=1)
    rows = np.arange(len(values))
    middle = windows[rows, np.maximum(counts - 1, 0) // 2] + windows[rows, counts // 2]
    return np.where(counts > 0, middle / 2, np.nan)


def _loss_chart(events: Sequence[Event]) -> Chart:
    train = read_line(events, ("loss",), "training")
    validation = read_line(events, ("eval", "loss"), "validation", style="points")
    lines: list[Line] = []
    if train is not None:
        width = min(51, len(train.steps) // 12) | 1
        if width >= 3:
            smoothed = replace(
                train,
                label=f"training, median of {width}",
                values=smooth(train.values, width),
                style="smooth",
            )
            lines += [replace(train, label="training, each entry", style="faint"), smoothed]
        else:
            lines.append(train)
    if validation is not None:
        lines.append(validation)
    notes = _not_finite("training loss", train) + _not_finite("validation loss", validation)
    if validation is None and train is not None:
        notes += ("No validation loss in the log.",)
    return _chart("loss", "Loss", [("loss per token", lines)], notes, "the log has no loss")


def _metric_chart(events: Sequence[Event]) -> Chart:
    keys: dict[str, None] = {}
    for event in events:
        found = as_object(event.values.get("eval"))
        keys.update(dict.fromkeys(key for key in found if as_number(found[key]) is not None))
    lines = {
        key: line
        for key in keys
        if key not in ("loss", "n", "num_empty")
        and (
            line := read_line(
                events,
                ("eval", key),
                plain_name(key),
                style="points",
            )
        )
    }
    shares = [line for key, line in lines.items() if key in SHARES]
    others = [(line.label, [line]) for key, line in lines.items() if key not in SHARES]
    panels: list[tuple[str, list[Line]]] = [("share, %", shares)] if shares else []
    notes: tuple[str, ...] = ()
    for key, line in lines.items():
        notes += _not_finite(plain_name(key), line)
    if len(others) > 3:
        notes += ("Not drawn: " + ", ".join(label for label, _ in others[3:]) + ".",)
    return _chart(
        "metrics",
        "Validation metrics",
        panels + others[:3],
        notes,
        "the log has no validation metrics",
    )


def _learning_rate_chart(events: Sequence[Event]) -> Chart:
    groups: dict[str, None] = {}
    for event in events:
        groups.update(dict.fromkeys(as_object(event.values.get("learning_rates"))))
    lines: list[Line] = []
    for group in groups:
        line = read_line(
            events,
            ("learning_rates", group),
            plain_name(group),
        )
        if line is not None:
            _add_or_join(lines, line)
    return _chart(
        "learning_rate", "Learning rate", [("rate", lines)], (), "the log has no learning rates"
    )


def _add_or_join(lines: list[Line], line: Line) -> None:
    """Groups with the same rates share a curve, which then bears both names."""
    for index, other in enumerate(lines):
        if np.array_equal(other.steps, line.steps) and np.array_equal(other.values, line.values):
            lines[index] = replace(line, label=f"{other.label}, {line.label}")
            return
    lines.append(line)


def _grad_norm_chart(events: Sequence[Event]) -> Chart:
    line = read_line(events, ("grad_norm",), "norm before clipping")
    lines = [line] if line is not None else []
    chart = _chart(
        "grad_norm",
        "Gradient norm",
        [("norm", lines)],
        _not_finite("gradient norm", line),
        "the log has no gradient norms",
    )
    if line is not None and line.values.size and not line.values.any():
        return replace(chart, notes=(*chart.notes, "All gradient norms are 0: nothing is learnt."))
    return chart


def _throughput_chart(events: Sequence[Event]) -> Chart:
    names = {
        "samples_per_second": "samples / s",
        "tokens_per_second": "tokens / s",
        "mfu": "MFU, %",
    }
    panels = [
        (label, [line])
        for key, label in names.items()
        if (line := read_line(events, (key,), label))
    ]
    return _chart("throughput", "Throughput", panels, (), "the log has no throughput")


def _memory_chart(events: Sequence[Event]) -> Chart:
    line = read_line(events, ("memory_mib",), "peak")
    if line is not None:
        line = replace(line, values=line.values / 1024)
    return _chart(
        "memory", "Memory", [("GiB", [line] if line else [])], (), "the log has no memory figures"
    )


def _chart(
    name: str,
    title: str,
    panels: Sequence[tuple[str, Sequence[Line]]],
    notes: tuple[str, ...],
    reason: str,
) -> Chart:
    drawn = tuple(_panel(label, lines) for label, lines in panels if lines)
    if not drawn:
        return Chart(name=name, title=title, panels=(), notes=(f"Nothing to draw: {reason}.",))
    cut = sum(
        int((line.values[np.isfinite(line.values)] > panel.top).sum())
        for panel in drawn
        if panel.top is not None
        for line in panel.lines
        if line.style != "smooth"
    )
    if cut:
        notes += (f"{cut} value(s) lie above the frame.",)
    return Chart(name=name, title=title, panels=drawn, notes=notes)


def _panel(label: str, lines: Sequence[Line]) -> Panel:
    values = np.concatenate([line.values for line in lines])
    values = values[np.isfinite(values)]
    if label.endswith("%"):
        return Panel(label=label, lines=tuple(lines), scale="percent")
    if (
        label == "norm"
        and values.size
        and values.min() > 0
        and values.max() > 30 * np.median(values)
    ):
        return Panel(label=label, lines=tuple(lines), scale="log")
    return Panel(label=label, lines=tuple(lines), top=_top(values))


def _top(values: Array) -> float | None:
    """An end for the axis if a few values are far above all others."""
    if len(values) < 20:
        return None
    usual = float(np.quantile(values, 0.98))
    return 1.3 * usual if usual > 0 and float(values.max()) > 4 * usual else None


def _not_finite(name: str, line: Line | None) -> tuple[str, ...]:
    if line is None:
        return ()
    steps = line.steps[~np.isfinite(line.values)]
    if not len(steps):
        return ()
    shown = ", ".join(str(int(step)) for step in steps[:5]) + (", ..." if len(steps) > 5 else "")
    return (f"The {name} was not finite at {len(steps)} step(s): {shown}.",)


def plain_name(key: str) -> str:
    """`rouge_l` as people write it."""
    known = {
        "num_empty": "empty answers",
        "bleu": "BLEU-4",
        "rouge_l": "ROUGE-L",
        "cider": "CIDEr-D",
        "mfu": "MFU",
    }
    return known.get(key, key.replace("_", " "))
