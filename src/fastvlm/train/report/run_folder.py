"""What a training run left in its folder, read with patience: a run that died is when a report matters most.

`log.jsonl` has one object a line, `run.json` says what was run, `comparison.json` (optional) has answers
before and after. Whatever is missing or damaged becomes a note, which the page shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

from fastvlm.errors import ConfigError

Json: TypeAlias = Mapping[str, Any]

LOG_FILE: Final = "log.jsonl"
RUN_FILE: Final = "run.json"
COMPARISON_FILE: Final = "comparison.json"

_PAUSE_S: Final = 600.0
"""A gap in the log counts as a pause if it is longer than this and than 20 usual gaps."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log that still holds: what a resumed run did again is there once."""

    step: int
    """Counted over all phases."""
    phase: str
    values: Json


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run with one recipe."""

    name: str
    first_step: int
    last_step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run folder in memory."""

    folder: Path
    events: tuple[Event, ...]
    phases: tuple[Phase, ...]
    duration_s: float | None
    """From the times in the log, steps done twice included, pauses left out; None if there are none."""
    run: Json
    comparison: Json
    notes: tuple[str, ...]
    """What is missing, damaged or repeated, one sentence each."""


def read_run_folder(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        ConfigError: no folder, or none of the three files in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name the folder of a training run")
    names = (LOG_FILE, RUN_FILE, COMPARISON_FILE)
    if not any((folder / name).is_file() for name in names):
        raise ConfigError(
            f"{folder} holds none of {', '.join(names)}; name the folder that a training run wrote"
        )
    notes: list[str] = []
    lines = _read_log(folder / LOG_FILE, notes)
    duration_s = _duration(lines, notes)
    kept = _drop_repeated(lines, notes)
    events, phases = _count_over_phases(kept)
    comparison_file = folder / COMPARISON_FILE
    return RunRecord(
        folder=folder,
        events=events,
        phases=phases,
        duration_s=duration_s,
        run=_read_object(folder / RUN_FILE, notes),
        comparison=_read_object(comparison_file, notes) if comparison_file.exists() else {},
        notes=tuple(notes),
    )


def as_number(value: object) -> float | None:
    """A number of the log, also one that is not finite; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def as_object(value: object) -> Json:
    """A JSON object; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_objects(value: object) -> list[Json]:
    """The objects of a JSON list; whatever else there is, is left out."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _read_object(path: Path, notes: list[str]) -> Json:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        notes.append(f"{path.name} is missing.")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} cannot be read: {error}.")
        return {}
    if not isinstance(found, dict):
        notes.append(f"{path.name} holds a {type(found).__name__} instead of an object.")
        return {}
    return found


def _read_log(path: Path, notes: list[str]) -> list[Json]:
    try:
        text = path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        notes.append(f"{path.name} is missing: no curves.")
        return []
    except OSError as error:
        notes.append(f"{path.name} cannot be read: {error}.")
        return []
    lines: list[Json] = []
    damaged: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if isinstance(event, dict) and type(event.get("step")) is int:
            lines.append(event)
        else:
            damaged.append(number)
    if damaged:
        notes.append(
            f"{len(damaged)} of {len(lines) + len(damaged)} lines of {path.name} are damaged or have no step, "
            f"the first is line {damaged[0]}; a run that was killed can leave one."
        )
    if not lines:
        notes.append(f"{path.name} has no entries yet: no curves.")
    return lines


def _duration(lines: Sequence[Json], notes: list[str]) -> float | None:
    found = (as_number(line.get("time")) for line in lines)
    times = [time for time in found if time is not None and math.isfinite(time)]
    gaps = [after - before for before, after in pairwise(times) if after > before]
    if not gaps:
        return None
    limit = max(_PAUSE_S, 20 * median(gaps))
    pauses = [gap for gap in gaps if gap > limit]
    if pauses:
        notes.append(
            f"The log pauses {len(pauses)} time(s), {sum(pauses) / 3600:.1f} h in all; "
            "the duration leaves that out."
        )
    return sum(gap for gap in gaps if gap <= limit)


def _drop_repeated(lines: Sequence[Json], notes: list[str]) -> list[Json]:
    """Leave out what a resumed run did again: where steps go back, later entries take the place."""
    kept: list[Json] = []
    order: list[str] = []
    num_returns = 0
    for line in lines:
        phase = str(line.get("phase", ""))
        if phase not in order:
            order.append(phase)
        place = (order.index(phase), line["step"])
        first = len(kept)
        while first and _is_undone(kept[first - 1], line, place, order):
            first -= 1
        if first < len(kept):
            num_returns += 1
            del kept[first:]
        kept.append(line)
    if num_returns:
        notes.append(
            f"The run was resumed from an earlier step {num_returns} time(s); "
            "steps done twice are shown once, as done last."
        )
    return kept


def _is_undone(old: Json, new: Json, place: tuple[int, int], order: Sequence[str]) -> bool:
    old_place = (order.index(str(old.get("phase", ""))), old["step"])
    if old_place != place:
        return old_place > place
    return any(key in old and key in new for key in ("loss", "eval"))  # the same step logged again


def _count_over_phases(
    lines: Sequence[Json],
) -> tuple[tuple[Event, ...], tuple[Phase, ...]]:
    """Steps counted through, whether the log begins again with each phase or not."""
    events: list[Event] = []
    phases: list[Phase] = []
    offset = 0
    for line in lines:
        name = str(line.get("phase", ""))
        if not phases or phases[-1].name != name:
            end = phases[-1].last_step if phases else 0
            offset = end if line["step"] < end else 0
            phases.append(Phase(name, offset + line["step"], offset + line["step"]))
        step = offset + line["step"]
        events.append(Event(step, name, line))
        phases[-1] = Phase(name, phases[-1].first_step, max(phases[-1].last_step, step))
    return tuple(events), tuple(phases)
