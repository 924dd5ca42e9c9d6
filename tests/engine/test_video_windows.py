from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.engine.video_windows import Window, keyframe_instants, plan_windows
from fastvlm.errors import ConfigError

seconds = st.floats(0.1, 500, allow_nan=False)


def test_windows_follow_one_another_to_the_end() -> None:
    assert plan_windows(0, 25, window_s=10) == [
        Window(0, 10, 10),
        Window(10, 20, 20),
        Window(20, 25, 25),
    ]


def test_short_rest_goes_to_the_last_window() -> None:
    assert plan_windows(2, 22.9, window_s=10) == [Window(2, 12, 12), Window(12, 22.9, 22.9)]


def test_answer_of_an_overlapping_window_ends_where_the_next_begins() -> None:
    assert plan_windows(0, 20, window_s=10, stride_s=5) == [
        Window(0, 10, 5),
        Window(5, 15, 10),
        Window(10, 20, 20),
    ]


def test_wide_stride_leaves_gaps() -> None:
    assert plan_windows(0, 12, window_s=2, stride_s=5) == [
        Window(0, 2, 2),
        Window(5, 7, 7),
        Window(10, 12, 12),
    ]


def test_clip_shorter_than_a_window_is_one_window() -> None:
    assert plan_windows(0, 3, window_s=10, stride_s=1) == [Window(0, 3, 3)]


@given(seconds, seconds, st.floats(0.5, 100), st.floats(0.05, 1))
def test_windows_cover_the_part_when_the_stride_is_not_longer(
    start_s: float, length_s: float, window_s: float, share: float
) -> None:
    end_s = start_s + length_s
    windows = plan_windows(start_s, end_s, window_s=window_s, stride_s=window_s * share)
    assert windows[0].start_s == start_s
    assert windows[-1].end_s == windows[-1].until_s == end_s
    for before, after in itertools.pairwise(windows):
        assert before.start_s < before.until_s == min(before.end_s, after.start_s) <= after.start_s
        assert after.start_s <= before.end_s + 1e-6
        assert after.end_s > before.end_s


@pytest.mark.parametrize(
    ("part", "window_s", "stride_s", "message"),
    [
        ((0, 5), 0, None, "window is 0 s"),
        ((0, 5), 1, -1, "stride -1 s"),
        ((5, 5), 1, None, "is empty"),
        ((0, 20_000), 1, 0.1, "more than 100000 windows"),
    ],
)
def test_windows_that_cannot_be(
    part: tuple[float, float], window_s: float, stride_s: float | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_windows(*part, window_s=window_s, stride_s=stride_s)


def test_scenes_are_filled_up_evenly() -> None:
    assert keyframe_instants([1.5, 9.0, 30.0], Window(0, 12, 12), 4) == (1.5, 3.0, 9.0)
    assert keyframe_instants([], Window(10, 12, 12), 2) == (10.5, 11.5)


def test_many_scenes_are_thinned_evenly() -> None:
    scenes = [float(second) for second in range(10)]
    assert keyframe_instants(scenes, Window(0, 10, 10), 2) == (2.0, 7.0)


@given(st.lists(seconds, max_size=100), st.integers(1, 64))
def test_instants_lie_within_the_window(scenes_s: list[float], num_frames: int) -> None:
    window = Window(10, 60, 60)
    instants = keyframe_instants(sorted(scenes_s), window, num_frames)
    assert 1 <= len(instants) <= num_frames
    assert list(instants) == sorted(instants)
    assert all(10 <= instant < 60 for instant in instants)
