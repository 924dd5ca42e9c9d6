"""Intervals of shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.scorers.wilson import (
    PairedCounts,
    Share,
    count_pairs,
    difference_interval,
    wilson_interval,
)


def test_known_values() -> None:
    # Worked example of the method: 81 of 263 (Newcombe 1998, table I, method 3).
    low, high = wilson_interval(81, 263)
    assert low == pytest.approx(0.2553, abs=5e-5)
    assert high == pytest.approx(0.3662, abs=5e-5)


def test_ends_have_a_width() -> None:
    assert wilson_interval(0, 20)[0] == 0
    assert 0.1 < wilson_interval(0, 20)[1] < 0.2
    assert wilson_interval(20, 20)[1] == pytest.approx(1)
    assert wilson_interval(0, 0) == (0, 1)


@given(st.integers(1, 1000), st.data())
def test_the_share_is_inside(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1


def test_more_correct_than_asked_is_an_error() -> None:
    with pytest.raises(ValueError, match="5 correct of 4"):
        wilson_interval(5, 4)


def test_shares_add_up() -> None:
    total = Share(1, 2) + Share(3, 4)
    assert (total.num, total.total) == (4, 6)
    assert total.value == pytest.approx(2 / 3)
    assert Share(0, 0).interval == (0, 1)


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4))
def test_the_difference_is_inside_its_interval(cells: list[int]) -> None:
    counts = PairedCounts(*cells)
    low, high = counts.difference_interval
    difference = counts.first.value - counts.second.value
    assert -1 <= low <= difference + 1e-12
    assert difference - 1e-12 <= high <= 1


@given(st.lists(st.integers(0, 60), min_size=4, max_size=4))
def test_swapping_the_systems_mirrors_the_interval(cells: list[int]) -> None:
    both, only_first, only_second, neither = cells
    low, high = PairedCounts(both, only_first, only_second, neither).difference_interval
    mirrored = PairedCounts(both, only_second, only_first, neither).difference_interval
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize("cells", [(0.6, 0.2, 0.1, 0.1), (0.85, 0.02, 0.03, 0.1), (0, 0.5, 0.5, 0)])
def test_the_paired_interval_covers_the_truth(cells: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    truth = cells[1] - cells[2]
    draws = rng.multinomial(100, cells, size=2000)
    intervals = [PairedCounts(*map(int, draw)).difference_interval for draw in draws]
    covered = float(np.mean([low <= truth <= high for low, high in intervals]))
    # 2,000 draws: standard error 0.005; exact coverage moves around 0.95 since counts are whole.
    assert 0.93 < covered < 0.99


def test_pairing_makes_the_interval_narrower() -> None:
    counts = PairedCounts(80, 2, 3, 15)
    paired, unpaired = (
        counts.difference_interval,
        difference_interval(counts.first, counts.second),
    )
    assert paired[1] - paired[0] < 0.6 * (unpaired[1] - unpaired[0])


def test_known_difference() -> None:
    # 56 of 70 against 48 of 80: Newcombe 1998 (873), table II, contrast (a), method 10.
    low, high = difference_interval(Share(56, 70), Share(48, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_pairs_are_counted() -> None:
    first, second = [True, True, True, False, False, False], [True, True, False, True, False, False]
    assert count_pairs(first, second) == PairedCounts(2, 1, 1, 2)
    with pytest.raises(ValueError, match="shorter"):
        count_pairs([True], [])
