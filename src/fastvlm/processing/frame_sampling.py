"""Which frames of a clip are taken: arithmetic on presentation times, without any decoding.

With N frames in the part that is looked at, n wanted, and a constant rate:

| sampling | frames | the same as |
|---|---|---|
| uniform | floor(i (N - 1) / (n - 1)), n = 1: the first | LLaVA-OneVision, Video-LLaVA, lmms-eval |
| segment | floor((i + 1/2) N / n) | TSN in tests, InternVideo |
| fps | the frame shown at every 1 / fps seconds; above num_frames: uniform | LLaVA-Video |
| timestamps | the frame shown at each time | |

At a variable rate the same is done with times: evenly spaced instants, and the frame that is shown at each; if
several instants show one frame, its neighbours step in, so that min(n, N) frames come out in either case. No
frame is taken twice, and frames are in order of time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Final

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions

MAX_SCANNED: Final = 2000
"""Frames that a search for scenes looks at."""

_FULL_SCAN_FRAMES: Final = 1500
"""Up to here (a minute at 25 a second) a search for scenes decodes every frame; beyond, key frames are enough."""

_SCANS_PER_SECOND: Final = 4
_MAX_KEY_GAP_S: Final = 12
"""x264 writes a key frame at least every 250 frames, and one at each cut."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameTimes:
    """When the frames of a clip are shown.

    Attributes:
        ticks: start of each frame, ascending and distinct; the first is 0.
        tick_s: seconds per tick, exactly.
        end: tick at which the last frame ends.
    """

    ticks: Sequence[int]
    tick_s: Fraction
    end: int

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last."""
        return float(self.end * self.tick_s)

    def time_s(self, index: int) -> float:
        """When frame `index` is shown, in seconds from the first."""
        return float(self.ticks[index] * self.tick_s)

    @property
    def slack(self) -> Fraction:
        """Ticks by which times may differ and still be the same: containers round to a tick."""
        return min(Fraction(1, 2), Fraction(self.end, 8 * len(self.ticks)))

    def shown_at(self, tick: Fraction) -> int:
        """The frame on screen at an instant; before the first one the first."""
        return max(bisect_right(self.ticks, tick + self.slack) - 1, 0)

    def end_of(self, index: int) -> int:
        """The tick at which frame `index` gives way to the next."""
        return self.ticks[index + 1] if index + 1 < len(self.ticks) else self.end


def uniform_indices(num_frames: int, num_wanted: int) -> list[int]:
    """Evenly from the first to the last of `num_frames` frames, both included; all if there are no more."""
    if num_wanted >= num_frames:
        return list(range(num_frames))
    if num_wanted == 1:
        return [0]
    return [i * (num_frames - 1) // (num_wanted - 1) for i in range(num_wanted)]


def segment_indices(num_frames: int, num_wanted: int) -> list[int]:
    """The middle frame of each of `num_wanted` equal parts; all frames if there are no more."""
    if num_wanted >= num_frames:
        return list(range(num_frames))
    return [(2 * i + 1) * num_frames // (2 * num_wanted) for i in range(num_wanted)]


def plan_frames(times: FrameTimes, options: VideoOptions) -> list[int]:
    """Choose frames.

    Args:
        times: of all frames of the clip; at least one.
        options: `num_frames` is the most that is taken, except for timestamps, which say it themselves.

    Returns:
        Indices into `times.ticks`, ascending and distinct, at least one.

    Raises:
        MediaError: the part or a timestamp lies beyond the end of the clip.
    """
    first, last = _part(times, options)
    match options.sampling:
        case "timestamps":
            return _at_timestamps(times, options)
        case "fps":
            assert options.fps is not None
            return _at_rate(times, first, last, options.fps, options.num_frames)
        case "segment":
            return _spread(times, first, last, options.num_frames, is_segment=True)
        case "uniform":
            return _spread(times, first, last, options.num_frames, is_segment=False)


def scan_indices(times: FrameTimes, key_frames: Sequence[int]) -> list[int]:
    """Frames that a search for scenes looks at: four a second of a short clip, the key frames of a long one.

    Args:
        times: of all frames.
        key_frames: indices of those that decode without others, ascending.
    """
    num_frames = len(times.ticks)
    rarely = max(ceil(times.duration_s / _MAX_KEY_GAP_S), 2)
    if num_frames > _FULL_SCAN_FRAMES and len(key_frames) >= rarely:
        return [key_frames[i] for i in uniform_indices(len(key_frames), MAX_SCANNED)]
    return _at_rate(times, 0, num_frames - 1, _SCANS_PER_SECOND, MAX_SCANNED)


def _part(times: FrameTimes, options: VideoOptions) -> tuple[int, int]:
    """First and last frame that begin between start_s and end_s, or the one on screen if none begins there."""
    start = Fraction(options.start_s) / times.tick_s
    if start > 0 and start >= times.end:
        raise MediaError(
            f"start_s is {options.start_s:g}, but the clip is {times.duration_s:.3f} s long"
        )
    first = bisect_left(times.ticks, start - times.slack)
    last = len(times.ticks) - 1
    if options.end_s is not None and options.end_s < times.duration_s:
        end = Fraction(options.end_s) / times.tick_s
        last = bisect_right(times.ticks, end + times.slack) - 1
    if first > last:
        first = last = times.shown_at(start)
    return first, last


def _at_timestamps(times: FrameTimes, options: VideoOptions) -> list[int]:
    end_s = times.duration_s
    if options.end_s is not None:
        end_s = min(end_s, options.end_s)
    chosen = set()
    for time_s in options.timestamps_s:
        if not options.start_s <= time_s <= end_s:
            raise MediaError(
                f"timestamp {time_s:g} s lies outside of {options.start_s:g} to {end_s:.3f} s; the clip is "
                f"{times.duration_s:.3f} s long"
            )
        chosen.add(times.shown_at(Fraction(time_s) / times.tick_s))
    return sorted(chosen)


def _at_rate(times: FrameTimes, first: int, last: int, fps: float, num_wanted: int) -> list[int]:
    begin = times.ticks[first]
    step = 1 / (Fraction(fps) * times.tick_s)
    num_instants = max(ceil((times.end_of(last) - begin) / step), 1)
    if num_instants > num_wanted:
        return _spread(times, first, last, num_wanted, is_segment=False)
    shown = {times.shown_at(begin + i * step) for i in range(num_instants)}
    return sorted(min(index, last) for index in shown)


def _spread(
    times: FrameTimes, first: int, last: int, num_wanted: int, *, is_segment: bool
) -> list[int]:
    num_frames = last - first + 1
    if num_wanted >= num_frames or _is_constant_rate(times.ticks, first, last):
        rule = segment_indices if is_segment else uniform_indices
        return [first + index for index in rule(num_frames, num_wanted)]
    begin = times.ticks[first]
    if is_segment:
        step = Fraction(times.end_of(last) - begin, num_wanted)
        instants = [begin + step * (2 * i + 1) / 2 for i in range(num_wanted)]
    elif num_wanted == 1:
        instants = [Fraction(begin)]
    else:
        step = Fraction(times.ticks[last] - begin, num_wanted - 1)
        instants = [begin + step * i for i in range(num_wanted)]
    return _distinct([times.shown_at(instant) for instant in instants], last)


def _is_constant_rate(ticks: Sequence[int], first: int, last: int) -> bool:
    """Whether every frame lies within half a frame of an even grid; then counting and timing agree."""
    span, num_gaps = ticks[last] - ticks[first], last - first
    return all(
        2 * abs((ticks[first + i] - ticks[first]) * num_gaps - i * span) <= span
        for i in range(1, num_gaps)
    )


def _distinct(indices: list[int], last: int) -> list[int]:
    """Move ascending indices apart, upwards while there is room, so that none comes twice."""
    moved: list[int] = []
    for index in indices:
        moved.append(max(index, moved[-1] + 1) if moved else index)
    highest = last
    for place in reversed(range(len(moved))):
        moved[place] = min(moved[place], highest)
        highest = moved[place] - 1
    return moved
