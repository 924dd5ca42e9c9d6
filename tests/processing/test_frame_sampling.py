"""Published numbers, then what must hold for any clip."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.frame_sampling import (
    MAX_SCANNED,
    FrameTimes,
    plan_frames,
    scan_indices,
    segment_indices,
    uniform_indices,
)

NTSC = Fraction(30000, 1001)


def constant(
    num_frames: int, rate: Fraction | int = 25, tick_s: Fraction | None = None
) -> FrameTimes:
    """Frames at a constant rate, in ticks of one frame or rounded to `tick_s`."""
    gap = 1 / (Fraction(rate) * tick_s) if tick_s else Fraction(1)
    ticks = [round(i * gap) for i in range(num_frames)]
    return FrameTimes(ticks, tick_s or 1 / Fraction(rate), round(num_frames * gap))


def variable(*seconds: float, end: float) -> FrameTimes:
    return FrameTimes([round(s * 1000) for s in seconds], Fraction(1, 1000), round(end * 1000))


def test_worked_numbers_of_100_frames() -> None:
    assert uniform_indices(100, 8) == [0, 14, 28, 42, 56, 70, 84, 99]
    assert segment_indices(100, 8) == [6, 18, 31, 43, 56, 68, 81, 93]
    assert uniform_indices(100, 1) == [0]
    assert segment_indices(100, 1) == [50]
    assert uniform_indices(5, 8) == segment_indices(5, 8) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "times",
    [
        constant(100),
        constant(100, NTSC, Fraction(1, 30000)),
        constant(100, NTSC, Fraction(1, 1000)),
        constant(100, 24, Fraction(1, 90000)),
        constant(100, 240, Fraction(1, 1000)),
    ],
    ids=["25", "ntsc mp4", "ntsc mkv", "24 ts", "240 mkv"],
)
def test_constant_rate_gives_the_published_frames_in_every_container(times: FrameTimes) -> None:
    assert plan_frames(times, VideoOptions()) == [0, 14, 28, 42, 56, 70, 84, 99]
    segments = plan_frames(times, VideoOptions(sampling="segment"))
    assert segments == [6, 18, 31, 43, 56, 68, 81, 93]


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_very_short_clips_give_each_frame_once(num_frames: int) -> None:
    for options in (
        VideoOptions(),
        VideoOptions(sampling="segment"),
        VideoOptions(sampling="fps", fps=240, num_frames=64),
    ):
        assert plan_frames(constant(num_frames), options) == list(range(num_frames))


def at_rate(times: FrameTimes, fps: float, num_frames: int = 64, **part: float) -> list[int]:
    return plan_frames(times, VideoOptions(sampling="fps", fps=fps, num_frames=num_frames, **part))


def test_rate_takes_every_nth_frame() -> None:
    assert at_rate(constant(100), 1) == [0, 25, 50, 75]
    assert at_rate(constant(100), 5) == list(range(0, 100, 5))
    assert at_rate(constant(100, 30, Fraction(1, 1000)), 15) == list(range(0, 100, 2))


def test_rate_between_frames_takes_the_one_on_screen() -> None:
    # int(i * avg_fps / target) with 25 and 10: 0, 2.5, 5, 7.5 ...
    assert at_rate(constant(20), 10) == [0, 2, 5, 7, 10, 12, 15, 17]


def test_rate_above_the_cap_is_uniform() -> None:
    assert at_rate(constant(100), 5, num_frames=8) == uniform_indices(100, 8)
    assert at_rate(constant(30), 240) == list(range(30))


def test_variable_rate_goes_by_time() -> None:
    times = variable(*[i / 100 for i in range(100)], *range(1, 11), end=11)
    assert plan_frames(times, VideoOptions(num_frames=3)) == [0, 104, 109]
    assert plan_frames(times, VideoOptions(num_frames=2, sampling="segment")) == [101, 107]


def test_instants_that_show_one_frame_take_its_neighbours_too() -> None:
    times = variable(0, 9.8, 9.85, 9.9, 9.95, end=10)
    assert plan_frames(times, VideoOptions(num_frames=4)) == [0, 1, 2, 4]
    times = variable(0, 0.01, 0.02, 0.05, end=10)
    assert plan_frames(times, VideoOptions(num_frames=3, sampling="segment")) == [1, 2, 3]


def test_timestamps_take_the_frame_on_screen_once() -> None:
    times = constant(100, 30, Fraction(1, 1000))
    options = VideoOptions(sampling="timestamps", timestamps_s=(2.0, 0.0, 0.05, 0.06, 1 / 3))
    assert plan_frames(times, options) == [0, 1, 10, 60]
    at_end = VideoOptions(sampling="timestamps", timestamps_s=(times.duration_s,))
    assert plan_frames(times, at_end) == [99]


def test_more_timestamps_than_num_frames_are_all_taken() -> None:
    options = VideoOptions(sampling="timestamps", timestamps_s=tuple(range(10)), num_frames=2)
    assert len(plan_frames(constant(300), options)) == 10


def test_timestamp_beyond_the_end_names_the_duration() -> None:
    options = VideoOptions(sampling="timestamps", timestamps_s=(1.0, 4.5))
    with pytest.raises(
        MediaError, match=r"4\.5 s lies outside of 0 to 4\.000 s; the clip is 4\.000"
    ):
        plan_frames(constant(100), options)


def test_part_is_cut_before_sampling() -> None:
    part = VideoOptions(start_s=1, end_s=2, num_frames=3)
    assert plan_frames(constant(100), part) == [25, 37, 50]
    assert plan_frames(constant(100), VideoOptions(start_s=3.9, end_s=99)) == [98, 99]
    assert at_rate(constant(100), 2, start_s=1, end_s=2) == [25, 37, 50]


def test_part_between_two_frames_is_the_one_on_screen() -> None:
    assert plan_frames(variable(0, 5, end=10), VideoOptions(start_s=6, end_s=7)) == [1]
    assert plan_frames(constant(100), VideoOptions(start_s=3.99)) == [99]


def test_part_beyond_the_end_names_the_duration() -> None:
    with pytest.raises(MediaError, match=r"start_s is 4, but the clip is 4\.000 s long"):
        plan_frames(constant(100), VideoOptions(start_s=4))


def test_scan_of_a_short_clip_takes_four_a_second_and_of_a_long_one_its_key_frames() -> None:
    assert scan_indices(constant(100), [0, 50]) == at_rate(constant(100), 4)
    assert scan_indices(constant(2500), list(range(0, 2500, 250))) == list(range(0, 2500, 250))
    long = FrameTimes(range(10**6), Fraction(1, 25), 10**6)
    assert len(scan_indices(long, range(0, 10**6, 10))) == MAX_SCANNED
    few = scan_indices(constant(2500), [0])
    assert len(few) == 400  # key frames too far apart: decoded throughout


gaps = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(gaps, st.integers(1, 64), st.sampled_from(["uniform", "segment"]), st.data())
def test_any_clip_gives_as_many_distinct_frames_as_it_can(
    gaps: list[int], num_frames: int, sampling: str, data: st.DataObject
) -> None:
    ticks = [sum(gaps[:i]) for i in range(len(gaps))]
    times = FrameTimes(ticks, Fraction(1, 600), sum(gaps))
    start = data.draw(st.integers(0, sum(gaps) - 1)) / 600
    options = VideoOptions(num_frames=num_frames, sampling=sampling, start_s=start)  # type: ignore[arg-type]
    plan = plan_frames(times, options)
    begun = [i for i, tick in enumerate(ticks) if tick / 600 >= start]
    assert len(plan) == min(num_frames, max(len(begun), 1))
    assert plan == sorted(set(plan))
    assert begun == [] or set(plan) <= set(begun)
    if sampling == "uniform" and num_frames > 1 and len(begun) > 1:
        assert (plan[0], plan[-1]) == (begun[0], begun[-1])


@given(st.integers(1, 5000), st.integers(1, 64), st.sampled_from([24, 25, 30, 50, 60, NTSC]))
def test_any_constant_rate_in_milliseconds_follows_the_rule(
    num_frames: int, num_wanted: int, rate: Fraction
) -> None:
    times = constant(num_frames, rate, Fraction(1, 1000))
    plan = plan_frames(times, VideoOptions(num_frames=num_wanted))
    if num_wanted == 1 or num_frames <= num_wanted:
        assert plan == list(range(min(num_frames, num_wanted)))
    else:
        step = Fraction(num_frames - 1, num_wanted - 1)
        assert plan == [int(i * step) for i in range(num_wanted)]


@given(gaps, st.floats(0.1, 240))
def test_any_rate_gives_frames_on_screen_at_its_instants(gaps: list[int], fps: float) -> None:
    ticks = [sum(gaps[:i]) for i in range(len(gaps))]
    times = FrameTimes(ticks, Fraction(1, 600), sum(gaps))
    plan = at_rate(times, fps)
    assert plan[0] == 0
    assert plan == sorted(set(plan))
    assert plan[-1] < len(ticks)
    assert len(plan) <= min(64, len(ticks))
