"""The report of a training run: one HTML page and its plots, in the folder `report` of the run."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from fastvlm.errors import ConfigError
from fastvlm.train.report.charts import charts_of
from fastvlm.train.report.page import Drawing, render_page
from fastvlm.train.report.plots import DARK, LIGHT, draw_chart, require_matplotlib
from fastvlm.train.report.run_folder import read_run_folder

__all__ = ["write_report"]

_FOLDER: Final = "report"
_PAGE: Final = "index.html"


def write_report(run_folder: Path) -> Path:
    """Write `report/index.html` and one PNG a chart into a run folder, also of a run that is not finished.

    Logs with gaps, damaged lines or numbers that are not finite are reported on the page, not raised. An older
    report is replaced.

    Returns:
        The path of the page.

    Raises:
        ConfigError: no run folder, or it cannot be written.
        MissingExtraError: matplotlib is not there.
    """
    require_matplotlib()
    record = read_run_folder(run_folder)
    charts = charts_of(record)
    drawings = {
        chart.name: Drawing(
            light=draw_chart(chart, record.phases, LIGHT),
            dark=draw_chart(chart, record.phases, DARK),
        )
        for chart in charts
        if chart.panels
    }
    page = render_page(record, charts, drawings)
    folder = run_folder / _FOLDER
    try:
        folder.mkdir(exist_ok=True)
        for chart in charts:
            plot = folder / f"{chart.name}.png"
            if chart.name in drawings:
                _write(plot, drawings[chart.name].light)
            else:
                plot.unlink(missing_ok=True)
        _write(folder / _PAGE, page.encode("utf-8", "replace"))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder / _PAGE


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    staging = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        staging.write_bytes(data)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
