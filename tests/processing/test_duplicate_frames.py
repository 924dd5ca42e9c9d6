from __future__ import annotations

import numpy as np
from PIL import Image

from fastvlm.processing.duplicate_frames import (
    difference,
    is_distinct,
    scene_cuts,
    scene_frames,
    thumbnail,
)


def flat(level: int) -> np.ndarray:
    return np.full((32, 32), level, np.uint8)


def test_thumbnail_is_the_mean_of_each_part() -> None:
    image = Image.new("RGB", (640, 320), "black")
    image.paste("white", (0, 0, 20, 10))
    small = thumbnail(image)
    assert small.shape == (32, 32)
    assert small[0, 0] == 255
    assert small.sum() == 255


def test_difference_is_in_levels_and_does_not_wrap_around() -> None:
    assert difference(flat(0), flat(255)) == difference(flat(255), flat(0)) == 255
    assert difference(flat(7), flat(7)) == 0


def test_first_frame_is_distinct_and_its_noisy_copy_is_not() -> None:
    scene = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    noise = np.random.default_rng(1).integers(-4, 5, scene.shape)
    copy = np.clip(scene + noise, 0, 255).astype(np.uint8)
    kept = thumbnail(Image.fromarray(scene))
    assert is_distinct(kept, None)
    assert not is_distinct(thumbnail(Image.fromarray(copy)), kept)


def test_small_thing_that_moves_is_distinct() -> None:
    one, other = (Image.new("RGB", (320, 320), "black") for _ in range(2))
    one.paste("white", (0, 0, 32, 32))
    other.paste("white", (32, 0, 64, 32))
    assert is_distinct(thumbnail(other), thumbnail(one))


def test_cuts_are_where_the_picture_changes_and_the_hardest_are_kept() -> None:
    frames = [flat(level) for level in (0, 2, 60, 61, 59, 200, 201)]
    times = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert scene_cuts(frames, times) == [1.0, 2.5]
    assert scene_cuts(frames, times, max_cuts=1) == [2.5]
    assert scene_cuts(frames, times, max_cuts=0) == []
    assert scene_frames(times, [1.0, 2.5]) == [0.0, 1.5, 2.5]
    assert scene_frames(times, []) == [1.5]


def test_one_frame_is_one_scene() -> None:
    assert scene_cuts([flat(0)], [0.0]) == []
    assert scene_frames([0.0], []) == [0.0]
