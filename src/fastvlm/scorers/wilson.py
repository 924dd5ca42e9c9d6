"""Shares of questions, and the intervals in which they and their differences lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_Z_95: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many; shares add up by `+`."""

    num: int
    total: int

    @property
    def value(self) -> float:
        """0..1; 0 when nothing was asked, where `interval` says that nothing is known."""
        return self.num / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return wilson_interval(self.num, self.total)

    def __add__(self, other: Share) -> Share:
        return Share(self.num + other.num, self.total + other.total)


@dataclass(frozen=True, slots=True)
class PairedCounts:
    """How two systems, or two conditions, did on the same questions."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def first(self) -> Share:
        return Share(self.both + self.only_first, self.total)

    @property
    def second(self) -> Share:
        return Share(self.both + self.only_second, self.total)

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference_interval(self) -> tuple[float, float]:
        """95 % interval of `first.value - second.value`, within -1..1; (-1, 1) when nothing was asked.

        Source: R. G. Newcombe, Statistics in Medicine 17 (1998), 2635: method 10, Wilson's limits joined
        with the correlation of the two answers.
        """
        if self.total == 0:
            return -1.0, 1.0
        return _difference_interval(self.first, self.second, _correlation(self))


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> PairedCounts:
    """Count who was right where, on the same questions in the same order.

    Raises:
        ValueError: lists of different lengths.
    """
    outcomes = list(zip(map(bool, first), map(bool, second), strict=True))
    return PairedCounts(
        both=outcomes.count((True, True)),
        only_first=outcomes.count((True, False)),
        only_second=outcomes.count((False, True)),
        neither=outcomes.count((False, False)),
    )


def wilson_interval(num_correct: int, num_total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) when nothing was asked.

    Source: E. B. Wilson, JASA 22 (1927). Unlike the usual interval it stays within 0..1 and has a width at
    0 and 1.

    Raises:
        ValueError: more correct than asked, or a negative number.
    """
    if not 0 <= num_correct <= num_total:
        raise ValueError(f"{num_correct} correct of {num_total}; expected 0 <= correct <= total")
    if num_total == 0:
        return 0.0, 1.0
    share, z2 = num_correct / num_total, _Z_95**2
    centre = (share + z2 / (2 * num_total)) / (1 + z2 / num_total)
    half = (
        _Z_95
        / (1 + z2 / num_total)
        * math.sqrt(share * (1 - share) / num_total + z2 / (4 * num_total**2))
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(first: Share, second: Share) -> tuple[float, float]:
    """95 % interval of `first.value - second.value` when it is not known who was right where.

    Source: Newcombe, Statistics in Medicine 17 (1998), 873: method 10. Wider than the paired interval when
    both tend to be right on the same questions, as a model before and after tuning does.
    """
    return _difference_interval(first, second, 0.0)


def _difference_interval(first: Share, second: Share, correlation: float) -> tuple[float, float]:
    (low1, high1), (low2, high2) = first.interval, second.interval
    down1, up1 = first.value - low1, high1 - first.value
    down2, up2 = second.value - low2, high2 - second.value
    below = math.sqrt(max(0.0, down1**2 - 2 * correlation * down1 * up2 + up2**2))
    above = math.sqrt(max(0.0, up1**2 - 2 * correlation * up1 * down2 + down2**2))
    difference = first.value - second.value
    return max(-1.0, difference - below), min(1.0, difference + above)


def _correlation(counts: PairedCounts) -> float:
    a, b, c, d = counts.both, counts.only_first, counts.only_second, counts.neither
    scale = math.sqrt((a + b) * (c + d) * (a + c) * (b + d))
    if scale == 0:
        return 0.0
    surplus = float(a * d - b * c)
    if surplus > 0:  # the continuity correction of the source
        surplus = max(0.0, surplus - counts.total / 2)
    return surplus / scale
