"""Intervals of shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.evaluate.wilson import wilson_interval


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
