"""The figures at the top of a report, and what the run comes down to in a sentence or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastvlm.train.report.charts import Line, plain_name, read_line
from fastvlm.train.report.comparison import compare_set, describe, format_value, regression_line
from fastvlm.train.report.run_folder import RunRecord, as_object, as_objects


@dataclass(frozen=True, slots=True)
class Figure:
    """One tile of the page."""

    label: str
    value: str
    detail: str = ""


class Best(NamedTuple):
    """Where a curve is best."""

    step: int
    value: float


def headline(record: RunRecord) -> list[str]:
    """What came out, in plain words."""
    lines = []
    for name, one in as_object(record.comparison.get("sets")).items():
        if "image" in name.lower():
            continue  # has a line of its own
        for change in compare_set(as_object(one))[:1]:
            words = describe(change, as_object(one).get("n"))
            lines.append(f"{plain_name(name).capitalize()}: {words}")
    if line := regression_line(record.comparison):
        lines.append(line)
    loss = read_line(record.events, ("eval", "loss"), "")
    if not lines and loss is not None and len(loss.values) > 1:
        first, last = (format_value("loss", float(loss.values[index])) for index in (0, -1))
        lines.append(f"Validation loss went from {first} to {last}.")
    return lines


def figures_of(record: RunRecord) -> list[Figure]:
    """All tiles; one whose figure is not known says so."""
    return [
        _model(record),
        _loss(record),
        *_exact_match(record),
        _duration(record),
        _samples(record),
        _parameters(record),
        _hardware(record),
    ]


def best_of(line: Line, *, is_lowest: bool) -> Best | None:
    """The first best value that is finite."""
    is_finite = np.isfinite(line.values)
    if not is_finite.any():
        return None
    values = line.values[is_finite]
    index = int(values.argmin() if is_lowest else values.argmax())
    return Best(int(line.steps[is_finite][index]), float(values[index]))


def _model(record: RunRecord) -> Figure:
    started = str(record.run.get("started", ""))[:16].replace("T", " ")
    return Figure("model", str(record.run.get("model", "not recorded")), started)


def _loss(record: RunRecord) -> Figure:
    line = read_line(record.events, ("eval", "loss"), "")
    if line is not None:
        return _best_and_last("validation loss", "loss", line, is_lowest=True)
    line = read_line(record.events, ("loss",), "")
    if line is None:
        return Figure("loss", "not recorded")
    return Figure("training loss, last", format_value("loss", float(line.values[-1])))


def _exact_match(record: RunRecord) -> list[Figure]:
    line = read_line(record.events, ("eval", "exact_match"), "")
    if line is None:
        return []
    return [_best_and_last("validation exact match", "exact_match", line, is_lowest=False)]


def _best_and_last(label: str, metric: str, line: Line, *, is_lowest: bool) -> Figure:
    last = format_value(metric, float(line.values[-1]))
    best = best_of(line, is_lowest=is_lowest)
    if best is None:
        return Figure(label, last)
    return Figure(label, last, f"best {format_value(metric, best.value)} at step {best.step:,}")


def _duration(record: RunRecord) -> Figure:
    steps = record.events[-1].step if record.events else 0
    detail = f"{steps:,} steps" + (
        f", {len(record.phases)} phases" if len(record.phases) > 1 else ""
    )
    if record.duration_s is None:
        return Figure("duration", "not recorded", detail)
    return Figure("duration", format_duration(record.duration_s), detail)


def format_duration(seconds: float) -> str:
    """`2 h 5 min`, `5 min 12 s` or `8.4 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _samples(record: RunRecord) -> Figure:
    rates = read_line(record.events, ("samples_per_second",), "")
    found = rates.values[np.isfinite(rates.values)] if rates is not None else np.empty(0)
    rate = float(np.median(found)) if found.size else 0.0
    detail = f"{rate:.3g} a second" if rate else ""
    seen = read_line(record.events, ("samples_seen",), "")
    if seen is not None and np.isfinite(seen.values[-1]):
        return Figure("samples", f"{int(seen.values[-1]):,}", detail)
    if rate and record.duration_s:
        return Figure("samples", f"about {rate * record.duration_s:,.0f}", detail)
    return Figure("samples", "not recorded", detail)


def _parameters(record: RunRecord) -> Figure:
    groups = [
        (one["parameters"], bool(one.get("is_trained")))
        for one in as_objects(record.run.get("trainable"))
        if isinstance(one.get("parameters"), int)
    ]
    total = sum(count for count, _ in groups)
    if not total:
        return Figure("trainable parameters", "not recorded")
    trained = sum(count for count, is_trained in groups if is_trained)
    return Figure(
        "trainable parameters",
        format_count(trained),
        f"{100 * trained / total:.3g} % of {format_count(total)}",
    )


def format_count(count: int) -> str:
    """`1.5 B`, `12.3 M`, `4.1 k` or the number."""
    for scale, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            return f"{count / scale:.3g} {letter}"
    return str(count)


def _hardware(record: RunRecord) -> Figure:
    machine = as_object(record.run.get("machine"))
    name = next(
        (str(machine[key]) for key in ("gpu", "device", "cpu") if machine.get(key)), "not recorded"
    )
    peak = read_line(record.events, ("memory_mib",), "")
    detail = ""
    if peak is not None and np.isfinite(peak.values).any():
        highest = best_of(peak, is_lowest=False)
        detail = f"peak memory {highest.value / 1024:.1f} GiB" if highest else ""
    return Figure("hardware", name, detail)
