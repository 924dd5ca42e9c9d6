"""Logs of runs that were resumed, paused or cut."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastvlm.train.report.run_folder import RunRecord, read_run_folder


def _read(folder: Path, *events: dict[str, Any]) -> RunRecord:
    text = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "log.jsonl").write_text(text, "utf-8")
    return read_run_folder(folder)


def _losses(record: RunRecord) -> list[tuple[int, object]]:
    return [(event.step, event.values["loss"]) for event in record.events]


def test_what_was_done_again_counts_once(tmp_path: Path) -> None:
    first = [{"step": step, "loss": 1} for step in (10, 20, 30)]
    again = [{"step": step, "loss": 2} for step in (20, 25, 30, 40)]
    record = _read(tmp_path, *first, *again)
    assert _losses(record) == [(10, 1), (20, 2), (25, 2), (30, 2), (40, 2)]
    assert any("resumed from an earlier step 1 time" in note for note in record.notes)


def test_a_step_logged_again_takes_the_place(tmp_path: Path) -> None:
    record = _read(tmp_path, {"step": 10, "loss": 1}, {"step": 10, "loss": 2})
    assert _losses(record) == [(10, 2)]


def test_a_validation_at_the_same_step_is_no_return(tmp_path: Path) -> None:
    record = _read(tmp_path, {"step": 10, "loss": 1}, {"step": 10, "eval": {"loss": 1}})
    assert len(record.events) == 2
    assert not any("resumed" in note for note in record.notes)


def test_steps_that_begin_again_with_a_phase_are_counted_through(tmp_path: Path) -> None:
    record = _read(
        tmp_path,
        {"step": 10, "phase": "a", "loss": 1},
        {"step": 20, "phase": "a", "loss": 1},
        {"step": 10, "phase": "b", "loss": 1},
        {"step": 30, "phase": "b", "loss": 1},
    )
    assert [event.step for event in record.events] == [10, 20, 30, 50]
    assert [(one.name, one.first_step, one.last_step) for one in record.phases] == [
        ("a", 10, 20),
        ("b", 30, 50),
    ]


def test_steps_that_go_on_over_phases_stay(tmp_path: Path) -> None:
    events = [{"step": step, "phase": "ab"[step > 20], "loss": 1} for step in (10, 20, 30, 40)]
    assert [event.step for event in _read(tmp_path, *events).events] == [10, 20, 30, 40]


def test_a_return_to_an_earlier_phase_undoes_the_later_one(tmp_path: Path) -> None:
    record = _read(
        tmp_path,
        {"step": 10, "phase": "a", "loss": 1},
        {"step": 20, "phase": "a", "loss": 1},
        {"step": 10, "phase": "b", "loss": 1},
        {"step": 20, "phase": "a", "loss": 2},
        {"step": 10, "phase": "b", "loss": 2},
    )
    assert _losses(record) == [(10, 1), (20, 2), (30, 2)]


def test_pauses_are_no_duration(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 90_000, 90_010]
    record = _read(tmp_path, *({"step": i, "time": time} for i, time in enumerate(times)))
    assert record.duration_s == 40
    assert any("pauses 1 time(s), 25.0 h" in note for note in record.notes)


def test_damaged_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(
        b'{"step": 1, "loss": 2}\n\n{"loss": 3}\n\xff\xfe\n{"step": 2'
    )
    record = read_run_folder(tmp_path)
    assert len(record.events) == 1
    assert any("3 of 4 lines" in note and "the first is line 3" in note for note in record.notes)


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), max_size=30))
def test_steps_never_go_back(entries: list[tuple[int, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        record = _read(
            Path(folder), *({"step": step, "phase": phase, "loss": 1} for step, phase in entries)
        )
    steps = [event.step for event in record.events]
    assert steps == sorted(steps)
    assert bool(steps) == bool(entries)
    if steps:
        assert record.phases[-1].last_step == steps[-1]
