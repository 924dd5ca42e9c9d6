"""Order sensitivity and consistency of per-frame answers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import ConfigError, ShapeError
from fastvlm.scorers.temporal import (
    OrderAnswers,
    answer_consistency,
    feature_changes,
    order_sensitivity,
    pool_consistency,
)

_GOLD = st.lists(
    st.permutations(["left", "right", "up", "down"]).map(lambda order: tuple(order[:2])),
    min_size=1,
    max_size=30,
)


def _perfect(gold: tuple[str, str]) -> OrderAnswers:
    return OrderAnswers(
        forward=f"The {gold[0]}.",
        reversed=gold[1].upper(),
        gold_forward=gold[0],
        gold_reversed=gold[1],
    )


@given(_GOLD)
def test_a_perfect_model_flips_always(gold: list[tuple[str, str]]) -> None:
    result = order_sensitivity([_perfect(one) for one in gold])
    assert result.flips.value == result.pairs.value == result.forward.value == 1
    assert result.backward.value == 1
    assert result.shuffled is result.shuffle_loss is result.shuffle_loss_interval is None


@given(_GOLD, st.data())
def test_a_model_that_ignores_order_never_flips(
    gold: list[tuple[str, str]], data: st.DataObject
) -> None:
    questions = []
    for one in gold:
        said = data.draw(st.sampled_from(["left", "right", "up", "down", "", "a wall"]))
        questions.append(replace(_perfect(one), forward=said, reversed=said, shuffled=said))
    result = order_sensitivity(questions)
    assert result.flips.value == result.pairs.value == 0
    assert result.shuffle_loss == 0
    assert result.shuffle_loss_interval is not None
    low, high = result.shuffle_loss_interval
    assert low <= 0 <= high


def test_flips_are_counted_among_those_right_forward() -> None:
    right = _perfect(("left", "right"))
    questions = [
        right,  # right both ways
        replace(right, reversed="left"),  # stays with its answer
        replace(right, forward="up"),  # right in reverse only: says nothing about a flip
        replace(right, forward="up", reversed="up"),
    ]
    result = order_sensitivity(questions)
    assert (result.flips.num, result.flips.total) == (1, 2)
    assert (result.pairs.num, result.pairs.total) == (1, 4)
    assert (result.forward.num, result.backward.num) == (2, 2)


def test_shuffling_takes_away_what_order_gave() -> None:
    right = _perfect(("left", "right"))
    told = [replace(right, shuffled="left" if index < 10 else "up") for index in range(40)]
    result = order_sensitivity(told)
    assert result.shuffled is not None
    assert (result.shuffled.num, result.shuffled.total) == (10, 40)
    assert result.shuffle_loss == 0.75
    assert result.shuffle_loss_interval is not None
    low, high = result.shuffle_loss_interval
    assert 0.5 < low < 0.75 < high <= 1


def test_questions_that_do_not_fit_are_named() -> None:
    right = _perfect(("left", "right"))
    with pytest.raises(ConfigError, match=r"questions\[1\]: the right answer is 'Red.' in both"):
        order_sensitivity([right, replace(right, gold_forward="Red.", gold_reversed="red")])
    with pytest.raises(ConfigError, match=r"questions\[0\] has no answer for shuffled"):
        order_sensitivity([right, replace(right, shuffled="left")])
    with pytest.raises(ConfigError, match="set is empty"):
        order_sensitivity([])


@given(st.integers(1, 20), st.text(max_size=10))
def test_one_answer_to_a_still_clip_is_consistent(num_frames: int, answer: str) -> None:
    result = answer_consistency([answer] * num_frames, [0.0] * (num_frames - 1), 0.1)
    assert result.flips.num == 0
    if num_frames > 1:
        assert result.consistency.value == result.agreement.value == 1
    assert result.responses.total == 0


@given(
    st.lists(st.tuples(st.sampled_from(["red", "blue"]), st.floats(0, 1)), min_size=1, max_size=20)
)
def test_every_pair_is_counted_once(frames: list[tuple[str, float]]) -> None:
    answers, changes = [one for one, _ in frames], [change for _, change in frames[1:]]
    result = answer_consistency(answers, changes, 0.5)
    assert result.flips.total + result.responses.total == len(frames) - 1
    changed = sum(a != b for a, b in pairwise(answers))
    assert result.flips.num + result.responses.num == changed


def test_flips_and_responses() -> None:
    answers = ["red", "Red.", "blue", "blue", "green"]
    result = answer_consistency(answers, [0.0, 0.1, 0.8, 0.9], 0.1)  # at the threshold: still
    assert (result.flips.num, result.flips.total) == (1, 2)
    assert (result.responses.num, result.responses.total) == (1, 2)
    assert (result.agreement.num, result.agreement.total) == (2, 4)


def test_clips_are_pooled_by_pairs() -> None:
    still = answer_consistency(["red", "red", "red"], [0, 0], 0.1)
    nervous = answer_consistency(["red", "blue"], [0], 0.1)
    pooled = pool_consistency([still, nervous])
    assert (pooled.flips.num, pooled.flips.total) == (1, 3)
    assert pool_consistency([]).consistency.interval == (0, 1)


@pytest.mark.parametrize(
    ("changes", "threshold", "message"),
    [
        ([0.1, 0.2], 0.1, "2 answers and 2 changes"),
        ([-0.1], 0.1, r"changes\[0\] is -0.1"),
        ([float("nan")], 0.1, r"changes\[0\] is nan"),
        ([0.1], float("inf"), "threshold is inf"),
    ],
)
def test_changes_that_do_not_fit_are_named(
    changes: list[float], threshold: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        answer_consistency(["a", "b"], changes, threshold)


def test_changes_of_features() -> None:
    changes = feature_changes([[1, 0], [2, 0], [0, 3], [0, -1]])
    np.testing.assert_allclose(changes, [0, 1, 2])
    assert feature_changes(np.ones((1, 4))).shape == (0,)
    with pytest.raises(ShapeError, match=r"shape \[3\]"):
        feature_changes([1, 2, 3])
    with pytest.raises(ShapeError, match="zero or not finite"):
        feature_changes([[0, 0], [1, 0]])
