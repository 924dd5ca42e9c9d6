"""Does a model see time? Order sensitivity and consistency of per-frame answers; both defined here.

These are this project's own measures, not published ones. `docs/metrics.md` has the formulas beside their
limits. Answers are compared after `normalize_answer`, so questions should have short answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastvlm.errors import ConfigError, ShapeError
from fastvlm.scorers.text import matches, normalize_answer
from fastvlm.scorers.wilson import PairedCounts, Share, count_pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderAnswers:
    """One question about order, asked of the same frames in several orders."""

    forward: str
    """Answer of the model to the frames as filmed."""
    reversed: str
    """Answer to the frames from last to first."""
    gold_forward: str
    gold_reversed: str
    """The right answer for the reversed frames; it differs from `gold_forward`."""
    shuffled: str | None = None
    """Answer to the frames in a random order, if it was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderSensitivity:
    """How answers follow the order of frames."""

    flips: Share
    """Of the questions answered rightly forward: those answered rightly in reverse too. 0 for a model that
    ignores order, 1 for a perfect one."""
    pairs: Share
    """Of all questions: right forward and in reverse. A guesser among k answers gets 1 / k**2."""
    forward: Share
    backward: Share
    """Right answers to the reversed frames."""
    shuffled: Share | None
    """Answers to shuffled frames that agree with `gold_forward`: what can be known without order. None if
    shuffled frames were not asked about."""
    shuffle_loss: float | None
    """Accuracy forward minus `shuffled`, -1..1; 0 for a model that ignores order."""
    shuffle_loss_interval: tuple[float, float] | None
    """95 %, paired by question."""


def order_sensitivity(questions: Sequence[OrderAnswers], /) -> OrderSensitivity:
    """Measure how far a model uses the order of frames.

    Raises:
        ConfigError: no questions, one whose right answer is the same in both directions, or shuffled
            answers for only some of them.
    """
    if not questions:
        raise ConfigError("no questions about order; the set is empty")
    for index, one in enumerate(questions):
        if normalize_answer(one.gold_forward) == normalize_answer(one.gold_reversed):
            raise ConfigError(
                f"questions[{index}]: the right answer is {one.gold_forward!r} in both directions; "
                "leave out questions that do not ask about order"
            )
    forward = [matches(one.forward, [one.gold_forward]) for one in questions]
    backward = [matches(one.reversed, [one.gold_reversed]) for one in questions]
    num_pairs = sum(map(min, forward, backward))
    counts = _shuffle_counts(questions, forward)
    return OrderSensitivity(
        flips=Share(num_pairs, sum(forward)),
        pairs=Share(num_pairs, len(questions)),
        forward=Share(sum(forward), len(questions)),
        backward=Share(sum(backward), len(questions)),
        shuffled=counts.second if counts else None,
        shuffle_loss=counts.first.value - counts.second.value if counts else None,
        shuffle_loss_interval=counts.difference_interval if counts else None,
    )


def _shuffle_counts(questions: Sequence[OrderAnswers], forward: list[bool]) -> PairedCounts | None:
    """Right forward against right when shuffled; None if no question was asked of shuffled frames."""
    asked = [one.shuffled is not None for one in questions]
    if not any(asked):
        return None
    if not all(asked):
        raise ConfigError(
            f"questions[{asked.index(False)}] has no answer for shuffled frames but others have; "
            "ask all of them or none"
        )
    shuffled = [matches(one.shuffled or "", [one.gold_forward]) for one in questions]
    return count_pairs(forward, shuffled)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerConsistency:
    """Answers to neighbouring frames against change in the picture."""

    flips: Share
    """Of the pairs with a still picture: those whose answers differ. 0 is best."""
    responses: Share
    """Of the pairs with a changed picture: those whose answers differ. 1 is best only if the question is
    about what changed."""

    @property
    def consistency(self) -> Share:
        """Of the pairs with a still picture: those with the same answer. 1 is best."""
        return Share(self.flips.total - self.flips.num, self.flips.total)

    @property
    def agreement(self) -> Share:
        """Of all pairs: answer and picture both changed, or both stayed."""
        return self.consistency + self.responses


def answer_consistency(
    answers: Sequence[str], changes: Sequence[float], threshold: float
) -> AnswerConsistency:
    """Compare answers to single frames of a clip with change in the picture.

    Args:
        answers: one for each frame, in order, all to the same question.
        changes: how much the picture changed between frame t and t + 1, one fewer than answers, 0 or more,
            in any unit (see `feature_changes`).
        threshold: in that unit; a pair counts as changed when its change is above it, as still otherwise.

    Raises:
        ConfigError: numbers of answers and changes that do not fit, a negative or not finite change, a
            threshold that is not finite.
    """
    if len(changes) != max(0, len(answers) - 1):
        raise ConfigError(
            f"{len(answers)} answers and {len(changes)} changes; expected one change between each two answers"
        )
    if not math.isfinite(threshold):
        raise ConfigError(f"threshold is {threshold}; expected a finite number")
    for index, change in enumerate(changes):
        if not (math.isfinite(change) and change >= 0):
            raise ConfigError(f"changes[{index}] is {change}; expected a finite number, 0 or more")
    normal = [normalize_answer(answer) for answer in answers]
    differs = [before != after for before, after in pairwise(normal)]
    has_moved = [change > threshold for change in changes]
    pairs = list(zip(has_moved, differs, strict=True))
    return AnswerConsistency(
        flips=Share(pairs.count((False, True)), has_moved.count(False)),
        responses=Share(pairs.count((True, True)), has_moved.count(True)),
    )


def pool_consistency(clips: Iterable[AnswerConsistency]) -> AnswerConsistency:
    """One result for many clips; each pair of frames counts the same."""
    flips = responses = Share(0, 0)
    for clip in clips:
        flips, responses = flips + clip.flips, responses + clip.responses
    return AnswerConsistency(flips=flips, responses=responses)


def feature_changes(features: ArrayLike) -> NDArray[np.float64]:
    """Change between neighbouring frames as 1 - cosine of their features, 0..2.

    Args:
        features: one row for each frame, e.g. image features averaged over the tokens of the frame.

    Shape:
        [T, D] -> [max(T - 1, 0)]

    Raises:
        ShapeError: not two axes, or a row of zeros or of numbers that are not finite.
    """
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ShapeError(f"features have shape {list(rows.shape)}; expected [frames, channels]")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        raise ShapeError("a row of features is zero or not finite; its direction is not defined")
    rows = rows / norms
    return np.clip(1 - (rows[:-1] * rows[1:]).sum(axis=1), 0, 2)
