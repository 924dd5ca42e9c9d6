"""From the log to curves."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.train.report.charts import Chart, Style, charts_of, smooth
from fastvlm.train.report.run_folder import Event, Phase, RunRecord


def _charts(*values: dict[str, Any]) -> dict[str, Chart]:
    events = tuple(Event(step, "", one) for step, one in enumerate(values))
    record = RunRecord(
        folder=Path("run"),
        events=events,
        phases=(Phase("", 0, len(events)),),
        duration_s=None,
        run={},
        comparison={},
        notes=(),
    )
    return {chart.name: chart for chart in charts_of(record)}


@given(
    st.lists(st.floats(-10, 10) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=30),
    st.sampled_from([1, 3, 5, 11]),
)
def test_the_median_moves_over_finite_values(values: list[float], width: int) -> None:
    smoothed = smooth(np.array(values), width)
    for index, found in enumerate(smoothed):
        window = values[max(0, index - width // 2) : index + width // 2 + 1]
        finite = [value for value in window if math.isfinite(value)]
        expected = float(np.median(finite)) if finite else math.nan
        assert found == pytest.approx(expected, nan_ok=True)


def test_a_spike_is_cut_and_counted() -> None:
    chart = _charts(*({"loss": 500.0 if step == 40 else 2.0} for step in range(100)))["loss"]
    assert chart.panels[0].top == pytest.approx(2.6)
    assert "1 value(s) lie above the frame." in chart.notes
    styles: list[Style] = [line.style for line in chart.panels[0].lines]
    assert styles == ["faint", "smooth"]


def test_groups_with_one_rate_share_a_curve() -> None:
    rates = {"projector": 1e-3, "language_model": 1e-4, "norms": 1e-4}
    lines = (
        _charts({"learning_rates": rates}, {"learning_rates": rates})["learning_rate"]
        .panels[0]
        .lines
    )
    assert [line.label for line in lines] == ["projector", "language model, norms"]


def test_shares_are_percent_and_others_have_axes_of_their_own() -> None:
    chart = _charts({"eval": {"loss": 1, "exact_match": 0.5, "cider": 2.0, "n": 64}})["metrics"]
    assert [(panel.label, panel.scale) for panel in chart.panels] == [
        ("share, %", "percent"),
        ("CIDEr-D", "linear"),
    ]


def test_what_does_not_fit_is_named() -> None:
    chart = _charts({"eval": dict.fromkeys(("a", "b", "c", "d_e"), 1.0)})["metrics"]
    assert len(chart.panels) == 3
    assert chart.notes == ("Not drawn: d e.",)


def test_gradients_over_decades_have_a_logarithmic_axis() -> None:
    norms = [1.0] * 30 + [100.0]
    assert _charts(*({"grad_norm": norm} for norm in norms))["grad_norm"].panels[0].scale == "log"


def test_memory_is_in_gibibytes() -> None:
    assert _charts({"memory_mib": 2048})["memory"].panels[0].lines[0].values.tolist() == [2.0]


def test_nothing_to_draw_has_a_reason() -> None:
    assert all(
        not chart.panels and "Nothing to draw" in chart.notes[0] for chart in _charts().values()
    )
