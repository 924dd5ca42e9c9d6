"""Clips show what their script says, and as many frames as slots are enough to see it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.data.synthetic.clips import (
    CLIP_KINDS,
    MANY_SLOTS,
    NUM_SLOTS,
    Clip,
    ClipKind,
    draw_clip,
    frame_times,
    sample_clip,
)
from fastvlm.errors import ConfigError

seeds = st.integers(0, 2**31)
kinds = st.sampled_from(CLIP_KINDS)


def sampled(kind: ClipKind, seed: int, num_frames: int = NUM_SLOTS) -> Clip:
    return sample_clip(np.random.default_rng(seed), kind, num_frames=num_frames)


def first_shape_per_frame(clip: Clip, times: tuple[float, ...]) -> list[tuple[str, ...]]:
    return [tuple(f"{t.colour} {t.shape}" for t in clip.scene_at(time).things) for time in times]


@settings(deadline=None, max_examples=60)
@given(kinds, seeds)
def test_one_frame_falls_into_each_slot(kind: ClipKind, seed: int) -> None:
    """At 4 frames, and at the 4 of 8 frames of a file that uniform sampling takes."""
    clip = sampled(kind, seed)
    at_slots = first_shape_per_frame(clip, tuple((i + 0.5) / 4 for i in range(4)))
    assert first_shape_per_frame(clip, frame_times(4)) == at_slots
    of_eight = tuple(float(frame) / 7 for frame in np.linspace(0, 7, 4).round())
    assert first_shape_per_frame(clip, of_eight) == at_slots


@settings(deadline=None, max_examples=60)
@given(kinds, seeds)
def test_backwards_shows_the_same_frames_in_reverse(kind: ClipKind, seed: int) -> None:
    clip = sampled(kind, seed, MANY_SLOTS)
    for time in frame_times(8):
        ahead, back = clip.scene_at(time).things, clip.reversed().scene_at(1 - time).things
        for one, other in zip(ahead, back, strict=True):
            assert (one.shape, one.colour, one.rgb) == (other.shape, other.colour, other.rgb)
            assert (one.x, one.y) == pytest.approx((other.x, other.y))
    twice = clip.reversed().reversed()
    assert twice == clip


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_the_mover_goes_where_it_says_and_meets_nothing(seed: int) -> None:
    clip = sampled("motion", seed)
    mover = clip.actors[0]
    others = {actor.thing.cell for actor in clip.actors[1:]}
    first, last = mover.at(0.0), mover.at(1.0)
    assert first is not None
    assert last is not None
    dx, dy = last.x - first.x, last.y - first.y
    expected = {"right": dx > 0.3, "left": dx < -0.3, "down": dy > 0.3, "up": dy < -0.3}
    if mover.direction is None:
        assert dx == dy == 0
    else:
        assert [name for name, holds in expected.items() if holds] == [mover.direction]
        cells = {one.cell for time in frame_times(9) if (one := mover.at(time)) is not None}
        assert first.cell != last.cell
        assert not cells & others


@settings(deadline=None, max_examples=60)
@given(kinds, seeds)
def test_things_have_different_shapes_and_stand_out(kind: ClipKind, seed: int) -> None:
    clip = sampled(kind, seed, MANY_SLOTS)
    assert len({actor.shape for actor in clip.actors}) == len(clip.actors)
    assert clip.num_slots == (MANY_SLOTS if kind == "flash" else NUM_SLOTS)
    for actor in clip.actors:
        assert actor.shown
        assert clip.background not in actor.colours


def test_a_single_flash_is_no_appearance() -> None:
    for seed in range(100):
        flasher = sampled("flash", seed).actors[0]
        if flasher.num_flashes == 1:
            assert flasher.slots[0] is None
            assert flasher.slots[-1] is None


def test_flashes_are_as_many_as_frames_can_show_and_as_likely() -> None:
    few = Counter(sampled("flash", seed).actors[0].num_flashes for seed in range(400))
    many = Counter(sampled("flash", seed, 8).actors[0].num_flashes for seed in range(400))
    assert set(few) == {1, 2}
    assert set(many) == {1, 2, 3, 4}
    assert min(few.values()) > 160
    assert min(many.values()) > 70


def test_a_clip_can_be_drawn_at_any_time_and_looks_like_its_scene() -> None:
    clip = sampled("vanish", 4)
    thing = next(a.at(t) for a in clip.actors[:1] for t in (0.0, 1.0) if a.at(t) is not None)
    assert thing is not None
    frames = draw_clip(clip, (0.0, 0.3, 1.0), 96)
    assert frames.shape == (3, 96, 96, 3)
    is_there = [clip.actors[0].at(time) is not None for time in (0.0, 0.3, 1.0)]
    seen = frames[:, round(thing.y * 96), round(thing.x * 96)].astype(int)
    nearness = np.abs(seen - np.array(thing.rgb)).sum(axis=1)
    assert [bool(distance < 45) for distance in nearness] == is_there


def test_the_same_seed_gives_the_same_clip() -> None:
    assert sampled("order", 3) == sampled("order", 3)
    assert sampled("order", 3) != sampled("order", 4)


def test_too_few_frames_are_an_error() -> None:
    with pytest.raises(ConfigError, match="num_frames is 3; expected at least 4"):
        sampled("order", 0, 3)
