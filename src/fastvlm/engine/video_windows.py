"""Which parts of a long clip are asked about, one after the other: arithmetic on seconds, nothing is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastvlm.errors import ConfigError
from fastvlm.messages import MAX_FRAMES

MAX_WINDOWS: Final = 100_000
_REST: Final = 0.1
"""A rest shorter than this share of a window goes to the window before it."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a clip that gets an answer of its own, in seconds from its first frame.

    Attributes:
        start_s: where its frames begin.
        end_s: where they end.
        until_s: how long its answer stands: to its end, or to the start of the next window if that is earlier.
    """

    start_s: float
    end_s: float
    until_s: float


def plan_windows(
    start_s: float, end_s: float, *, window_s: float, stride_s: float | None = None
) -> list[Window]:
    """Cut a part of a clip into windows; the last one ends where the part ends.

    Args:
        start_s: start of the part.
        end_s: its end.
        window_s: length of a window.
        stride_s: from one start to the next; None is `window_s`, less lets windows overlap, more leaves gaps.

    Returns:
        At least one window, in order of time.

    Raises:
        ConfigError: a length that is not above 0, an empty part, or more than 100,000 windows.
    """
    stride_s = window_s if stride_s is None else stride_s
    if not (window_s > 0 and stride_s > 0):
        raise ConfigError(f"window is {window_s:g} s, stride {stride_s:g} s; expected more than 0")
    if not start_s < end_s:
        raise ConfigError(f"the part from {start_s:g} s to {end_s:g} s is empty")
    if (end_s - start_s) / stride_s > MAX_WINDOWS:
        raise ConfigError(
            f"a stride of {stride_s:g} s makes more than {MAX_WINDOWS} windows; take a longer one"
        )
    starts = [start_s]
    while end_s - starts[-1] > window_s:
        following = start_s + len(starts) * stride_s
        new_s = end_s - max(following, starts[-1] + window_s)
        if following >= end_s or new_s < _REST * window_s:
            break
        starts.append(following)
    ends = [min(start + window_s, end_s) for start in starts]
    if end_s - ends[-1] < _REST * window_s:
        ends[-1] = end_s
    following_starts = [*starts[1:], end_s]
    return [
        Window(start, end, min(end, following))
        for start, end, following in zip(starts, ends, following_starts, strict=True)
    ]


def keyframe_instants(
    scenes_s: Sequence[float], window: Window, num_frames: int
) -> tuple[float, ...]:
    """When to take frames: one for each scene, and evenly spaced ones where scenes are fewer than frames.

    Args:
        scenes_s: the time of one frame for each scene of the clip, ascending.
        window: the part that is looked at.
        num_frames: how many, 1 to 64.

    Returns:
        Seconds, ascending, `num_frames` or fewer. What looks alike among them is for the reader to leave out.
    """
    if not 1 <= num_frames <= MAX_FRAMES:
        raise ConfigError(f"num_frames is {num_frames}; expected 1 to {MAX_FRAMES}")
    inside = [time_s for time_s in scenes_s if window.start_s <= time_s < window.end_s]
    num_missing = num_frames - len(inside)
    if num_missing <= 0:
        places = [(2 * i + 1) * len(inside) // (2 * num_frames) for i in range(num_frames)]
        return tuple(inside[place] for place in places)
    step_s = (window.end_s - window.start_s) / num_missing
    filling = (window.start_s + (i + 0.5) * step_s for i in range(num_missing))
    return tuple(sorted({*inside, *filling}))
