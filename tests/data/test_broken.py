"""Broken records are counted once each, named, and end the run above the limit."""

from __future__ import annotations

import pytest

from fastvlm.data.broken import BrokenRecords
from fastvlm.errors import DataError


def test_the_limit_is_the_smaller_of_fraction_and_count() -> None:
    assert BrokenRecords(1000, max_fraction=0.01).limit == 10
    assert BrokenRecords(1000, max_fraction=0.01, max_count=3).limit == 3
    assert BrokenRecords(50).limit == 0
    with pytest.raises(DataError, match="expected a fraction of 0 to 1"):
        BrokenRecords(50, max_fraction=2)


def test_the_run_ends_above_the_limit_with_names() -> None:
    broken = BrokenRecords(200, max_fraction=0.02)
    for epoch in range(2):
        for number in range(4):
            broken.add(f"a.json, record {number}", f"a.json, record {number}: epoch {epoch}")
    assert len(broken) == 4
    broken_again = "4 broken records of 200 were left out: a.json, record 0: epoch 0"
    assert broken.summary() is not None
    assert broken.summary().startswith(broken_again)
    with pytest.raises(
        DataError, match=r"5 broken records of 200 are more than the limit of 4: a.json, rec"
    ):
        broken.add("b.json, record 9", "there is no\nsuch file")
    assert broken.named[-1] == "b.json, record 9: there is no such file"


def test_nothing_broken_has_no_summary() -> None:
    assert BrokenRecords(10).summary() is None
