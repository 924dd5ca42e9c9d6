"""Charts to PNG, drawn with matplotlib's own canvas: no window, no global state left changed, no LaTeX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fastvlm.errors import MissingExtraError
from fastvlm.train.report.charts import Chart, Line, Panel
from fastvlm.train.report.run_folder import Phase

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN, _PANEL_HEIGHT_IN, _EXTRA_HEIGHT_IN, _DPI = 5.6, 1.25, 0.9, 150
"""A size at which text of 11 points is still read on a phone, where the picture is about 340 points wide."""


_NAMED_SHARE: Final = 0.15
"""A phase shorter than this part of the run has no room for its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Theme:
    """Colours of a drawing; the page has the same."""

    paper: str
    ink: str
    grid: str
    alarm: str
    colours: tuple[str, ...]


LIGHT: Final = Theme(
    paper="#ffffff",
    ink="#1f2328",
    grid="#d8dee4",
    alarm="#b42318",
    colours=("#0072b2", "#d55e00", "#00805e", "#a8509a", "#6a5acd", "#8a6d00"),
)
DARK: Final = Theme(
    paper="#161b22",
    ink="#e6edf3",
    grid="#30363d",
    alarm="#ff7b72",
    colours=("#58a6ff", "#ff9e64", "#56d4a4", "#e292c8", "#b3a6ff", "#e3c567"),
)


def require_matplotlib() -> None:
    """Say in one line what to install.

    Raises:
        MissingExtraError: matplotlib is not there.
    """
    try:
        import matplotlib as _  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "the report needs the package matplotlib; run: pip install 'fastvlm[train]'"
        ) from error


def draw_chart(chart: Chart, phases: Sequence[Phase], theme: Theme) -> bytes:
    """One chart as PNG. Phases are parted by lines if there are several.

    Raises:
        MissingExtraError: matplotlib is not there.
        ValueError: a chart without panels.
    """
    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if not chart.panels:
        raise ValueError(f"chart {chart.name} has no panels")
    settings: Any = {
        "savefig.facecolor": "auto",
        "text.usetex": False,
        "text.parse_math": False,  # names come from users: a $ is a $
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 11,
        "axes.unicode_minus": False,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
    }
    shares = [2 if len(panel.lines) > 1 or len(chart.panels) == 1 else 1 for panel in chart.panels]
    size = (_WIDTH_IN, _EXTRA_HEIGHT_IN + _PANEL_HEIGHT_IN * sum(shares))
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box is drawn
        figure = Figure(figsize=size, dpi=_DPI, facecolor=theme.paper, layout="constrained")
        grid = figure.subplots(len(shares), 1, sharex=True, squeeze=False, height_ratios=shares)
        for axes, panel in zip(grid[:, 0], chart.panels, strict=True):
            _draw_panel(axes, panel, theme)
            _draw_phases(axes, phases, theme, has_names=axes is grid[0, 0])
        grid[-1, 0].set_xlabel("step")
        if any(len(panel.lines) > 1 for panel in chart.panels):
            _add_legend(figure, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    axes.set_facecolor(theme.paper)
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    factor = 100.0 if panel.scale == "percent" else 1.0
    colours = iter(theme.colours * (1 + len(panel.lines) // len(theme.colours)))
    colour = theme.colours[0]
    for line in panel.lines:
        colour = colour if line.style == "smooth" else next(colours)
        _draw_line(axes, line, factor, colour, theme)
    if panel.scale == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel(panel.label)
    _set_limits(axes, panel, factor)


def _add_legend(figure: Figure, theme: Theme) -> None:
    """Names of the curves below all axes; those of panels with a single curve stand at their axis."""
    handles = [
        handle
        for axes in figure.axes
        if len(found := axes.get_legend_handles_labels()[0]) > 1
        for handle in found
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        fontsize=9.5,
        frameon=False,
        labelcolor=theme.ink,
    )


def _draw_line(axes: Axes, line: Line, factor: float, colour: str, theme: Theme) -> None:
    is_finite = np.isfinite(line.values)
    values = np.where(is_finite, line.values, np.nan) * factor
    is_marked = line.style == "points" or is_finite.sum() < 2
    axes.plot(
        line.steps,
        values,
        color=colour,
        alpha=0.35 if line.style == "faint" else 1.0,
        linewidth=1.0 if line.style == "faint" else 1.8,
        marker="o" if is_marked else "",
        markersize=4,
        label=line.label,
    )
    lost = line.steps[~is_finite]
    if len(lost) and line.style != "smooth":
        axes.plot(
            lost,
            np.ones(len(lost)),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="x",
            markersize=7,
            markeredgewidth=2,
            color=theme.alarm,
            clip_on=False,
        )


def _set_limits(axes: Axes, panel: Panel, factor: float) -> None:
    values = np.concatenate([line.values for line in panel.lines])
    values = values[np.isfinite(values)] * factor
    if not values.size:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])
        return
    if panel.scale == "log":
        return
    if panel.top is not None:
        axes.set_ylim(top=panel.top)
    if values.min() >= 0:
        axes.set_ylim(bottom=0)
    if values.max() == 0:
        axes.set_ylim(top=1)


def _draw_phases(axes: Axes, phases: Sequence[Phase], theme: Theme, *, has_names: bool) -> None:
    first, last = phases[0].first_step, phases[-1].last_step
    margin = 0.03 * (last - first) or 1.0
    axes.set_xlim(first - margin, last + margin)  # the same in all charts
    if len(phases) < 2:
        return
    starts = [first, *(phase.last_step for phase in phases[:-1])]
    for start, phase in zip(starts, phases, strict=True):
        if start > first:
            axes.axvline(start, color=theme.ink, linewidth=0.8, linestyle=":")
        if has_names and phase.last_step - start >= _NAMED_SHARE * (last - first):
            axes.text(
                (start + phase.last_step) / 2,
                1.02,
                phase.name[:14],
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=9.5,
            )
