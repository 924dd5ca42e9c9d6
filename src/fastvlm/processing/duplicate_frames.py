"""Frames that look alike, and cuts between scenes, judged on thumbnails.

A thumbnail is the picture as 32 x 32 levels of grey, and two are compared by the mean absolute difference of
their levels (0..255). That is blind to colour of equal brightness and to things of less than about 3 % of the
width, and cannot tell a fast pan from a cut; it is meant to thin frames out, not to judge them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIZE: Final = 32

DUPLICATE_THRESHOLD: Final = 0.5
"""Levels. Coding noise of a still scene stays below 0.3; a thing of 1 % of the picture that moves by its own
width in good contrast reaches 2."""

SCENE_THRESHOLD: Final = 30.0
"""Levels. A quarter of a second apart, frames of one scene in lively motion differ by up to 25, those of two scenes
by 30 to 90."""


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """A picture as uint8 [32, 32] levels of grey, each the mean of its part of the picture."""
    small = image.convert("L").resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    return np.asarray(small)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two thumbnails in levels, 0..255."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def is_distinct(
    current: NDArray[np.uint8],
    kept: NDArray[np.uint8] | None,
    *,
    threshold: float = DUPLICATE_THRESHOLD,
) -> bool:
    """Whether a frame looks different from the last one that was kept; the first always does.

    Comparing with the last kept frame, not with the neighbour, keeps slow changes from being lost.
    """
    return kept is None or difference(kept, current) >= threshold


def scene_cuts(
    thumbnails: Sequence[NDArray[np.uint8]],
    times_s: Sequence[float],
    *,
    threshold: float = SCENE_THRESHOLD,
    max_cuts: int | None = None,
) -> list[float]:
    """When new scenes begin.

    Args:
        thumbnails: of frames in order of time.
        times_s: when each is shown.
        threshold: difference from the frame before at which a scene begins.
        max_cuts: keep only the hardest so many.

    Returns:
        Times of the first frame of each scene but the first, ascending.
    """
    strengths = [difference(*pair) for pair in pairwise(thumbnails)]
    cuts = [place for place, strength in enumerate(strengths) if strength >= threshold]
    cuts.sort(key=lambda place: -strengths[place])
    return sorted(times_s[place + 1] for place in cuts[:max_cuts])


def scene_frames(times_s: Sequence[float], cuts_s: Sequence[float]) -> list[float]:
    """The time of one frame for each scene: the middle one of those that were looked at."""
    starts = [0, *(times_s.index(cut) for cut in cuts_s), len(times_s)]
    return [times_s[(a + b - 1) // 2] for a, b in pairwise(starts)]
