"""The report as one HTML text: styles and pictures within, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Final

from fastvlm import __version__
from fastvlm.train.report.charts import Chart, plain_name
from fastvlm.train.report.comparison import (
    Change,
    compare_set,
    format_difference,
    format_value,
    regression_line,
)
from fastvlm.train.report.examples import render_examples
from fastvlm.train.report.figures import figures_of, headline
from fastvlm.train.report.run_folder import Json, RunRecord, as_object, as_objects

_BADGES: Final = {
    "better": ("good", "better"),
    "worse": ("bad", "worse"),
    "open": ("", "not shown"),
    "same": ("", "same"),
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart as PNG on light and on dark paper; empty where there was nothing to draw."""

    light: bytes
    dark: bytes


def render_page(record: RunRecord, charts: Sequence[Chart], drawings: Mapping[str, Drawing]) -> str:
    """The whole page.

    Args:
        record: the run.
        charts: in the order of the page.
        drawings: by name of the chart; a chart without one is shown by its notes.
    """
    name = escape(record.folder.resolve().name)
    style = files("fastvlm.train.report").joinpath("page.css").read_text("utf-8")
    sections = (
        _top(record, name),
        _notes(record.notes),
        _comparison(record.comparison),
        render_examples(record.comparison, record.folder),
        _curves(charts, drawings),
        _trainable(record.run),
        _data(record.run),
        _recipe(record.run),
        _machine(record.run),
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Training run {name}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f'\n<p class="soft">Made by fastvlm {escape(__version__)}.</p>\n</main>\n</body>\n</html>\n'
    )


def _top(record: RunRecord, name: str) -> str:
    tiles = "".join(
        f'<div class="card tile"><span class="soft">{escape(figure.label)}</span>'
        f'<b>{escape(figure.value)}</b><span class="soft">{escape(figure.detail)}</span></div>'
        for figure in figures_of(record)
    )
    said = "".join(f'<p class="headline">{escape(line)}</p>' for line in headline(record))
    return f'<h1>Training run {name}</h1>\n{said}\n<div class="grid">{tiles}</div>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<h2>To know first</h2>\n<div class="card notes"><ul>{items}</ul></div>'


def _comparison(comparison: Json) -> str:
    sets = as_object(comparison.get("sets"))
    if not sets:
        return (
            '<h2>Before and after</h2>\n<p class="soft">This run has not measured the model before and '
            "after tuning (no sets in comparison.json).</p>"
        )
    parts = ["<h2>Before and after</h2>"]
    if regression_line(comparison) is None:
        parts.append(
            '<p class="soft">No image-only set was measured: whether pictures got worse is not known.</p>'
        )
    parts.extend(_set_table(name, as_object(sets[name])) for name in sets)
    parts.append(
        '<p class="soft">Intervals are 95 %. Coloured where the interval of the change leaves out 0; "not shown" '
        "where it does not; grey where no interval is known.</p>"
    )
    return "\n".join(parts)


def _set_table(name: str, one: Json) -> str:
    rows = [_change_row(change) for change in compare_set(one)]
    n = one.get("n")
    count = f", {n:,} questions" if isinstance(n, int) else ""
    head = ("metric", "base", "tuned", "change")
    return f"<h3>{escape(plain_name(name))}{count}</h3>\n" + table(head, rows, num_text=1)


def _change_row(change: Change) -> tuple[str, ...]:
    css, word = _BADGES[change.verdict]
    if change.difference_interval is None:
        css = ""
    difference = "-"
    if change.difference is not None:
        difference = escape(format_difference(change.metric, change.difference))
    return (
        escape(plain_name(change.metric)),
        escape(format_value(change.metric, change.base)) + _small(change.base_interval),
        escape(format_value(change.metric, change.tuned)) + _small(change.tuned_interval),
        f'<span class="badge {css}">{word}</span> {difference}'
        + _small(change.difference_interval, sign="+"),
    )


def _small(interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return ""
    low, high = (format(100 * bound, f"{sign}.1f") for bound in interval)
    return f"<small>{low} to {high}</small>"


def _curves(charts: Sequence[Chart], drawings: Mapping[str, Drawing]) -> str:
    cards = []
    for chart in charts:
        picture = ""
        if drawing := drawings.get(chart.name):
            picture = (
                f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_png_url(drawing.dark)}">'
                f'<img alt="{escape(chart.title)} over steps" src="{_png_url(drawing.light)}"></picture>'
            )
        notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in chart.notes)
        cards.append(f'<div class="card"><h3>{escape(chart.title)}</h3>{picture}{notes}</div>')
    return f'<h2>Curves</h2>\n<div class="grid charts">{"".join(cards)}</div>'


def _trainable(run: Json) -> str:
    rows = [
        (
            escape(str(one.get("group", "?"))),
            _count(one.get("parameters")),
            escape(f"{rate:g}")
            if isinstance(rate := one.get("learning_rate"), int | float)
            else "-",
            '<span class="badge good">trained</span>'
            if one.get("is_trained")
            else '<span class="badge">frozen</span>',
        )
        for one in as_objects(run.get("trainable"))
    ]
    if not rows:
        return '<h2>What was trained</h2>\n<p class="soft">run.json does not say.</p>'
    return "<h2>What was trained</h2>\n" + table(
        ("group", "parameters", "learning rate", ""), rows, num_text=1
    )


def _data(run: Json) -> str:
    rows = [
        (
            escape(str(one.get("file", "?"))),
            _count(one.get("records")),
            f"<code>{escape(str(one.get('sha256', '-')))[:16]}</code>",
        )
        for one in as_objects(run.get("data"))
    ]
    if not rows:
        return '<h2>Data</h2>\n<p class="soft">run.json names no data.</p>'
    return "<h2>Data</h2>\n" + table(("file", "records", "SHA-256, beginning"), rows, num_text=1)


def _recipe(run: Json) -> str:
    recipe = run.get("recipe")
    phases = as_objects(recipe) or ([as_object(recipe)] if as_object(recipe) else [])
    if not phases:
        return '<h2>Recipe</h2>\n<p class="soft">run.json has no recipe.</p>'
    keys = dict.fromkeys(key for phase in phases for key in phase)
    rows = [
        (f"<code>{escape(key)}</code>", *(_plain(phase.get(key, "")) for phase in phases))
        for key in keys
    ]
    head = ("field", *(f"phase {index}" for index in range(1, len(phases) + 1)))
    body = table(head if len(phases) > 1 else ("field", "value"), rows, num_text=len(head))
    return f"<h2>Recipe</h2>\n<details><summary>All {len(keys)} fields</summary>\n{body}</details>"


def _machine(run: Json) -> str:
    version = {"fastvlm": run["fastvlm_version"]} if "fastvlm_version" in run else {}
    machine = {**version, **as_object(run.get("machine"))}
    if not machine:
        return ""
    rows = [(escape(plain_name(key)), _plain(value)) for key, value in machine.items()]
    body = table(("", ""), rows, num_text=2)
    return f"<h2>Machine</h2>\n<details><summary>Hardware and versions</summary>\n{body}</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_text: int) -> str:
    """An HTML table of cells that are HTML already; all but the first `num_text` columns are numbers."""

    def css(column: int) -> str:
        return "value" if column < num_text else "number"

    header = "".join(f'<th class="{css(i)}">{escape(text)}</th>' for i, text in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{css(i)}">{cell}</td>' for i, cell in enumerate(row))
        + "</tr>\n"
        for row in rows
    )
    header = f"<thead><tr>{header}</tr></thead>\n" if any(head) else ""
    return f'<div class="table"><table>{header}<tbody>{body}</tbody></table></div>'


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _plain(value: object) -> str:
    """A setting: objects and lists in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{escape(str(key))} {_plain(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return escape("-" if value is None else str(value))


def _png_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()
