"""Which differences are shown by the numbers."""

from typing import Any

import pytest

from fastvlm.train.report.comparison import (
    compare_set,
    mark_words,
    outcome_of,
    regression_line,
)


def _images(base: float, tuned: float, n: int = 1000, **more: Any) -> dict[str, Any]:
    metrics = {"base": {"exact_match": base}, "tuned": {"exact_match": tuned}, "n": n, **more}
    return {"sets": {"images": metrics}}


@pytest.mark.parametrize(
    ("base", "tuned", "words"),
    [
        (0.80, 0.70, "-10.0 points (95 % interval -13.7 to -6.2, n = 1000): GOT WORSE."),
        (0.70, 0.80, ": got better."),
        (0.80, 0.79, "no difference shown, a loss of more than 4.5 points is unlikely."),
        (0.80, 0.80, "no difference shown"),
    ],
)
def test_the_line_about_pictures(base: float, tuned: float, words: str) -> None:
    line = regression_line(_images(base, tuned))
    assert line is not None
    assert words in line
    assert "\n" not in line


def test_pairs_make_the_line_sharper() -> None:
    # 790 of 1,000 before, 768 after: unpaired this shows nothing, paired it does.
    apart = compare_set(_images(0.790, 0.768)["sets"]["images"])[0]
    paired = compare_set(_images(0.790, 0.768, pairs=[765, 25, 3, 207])["sets"]["images"])[0]
    assert (apart.verdict, paired.verdict) == ("open", "worse")
    assert paired.difference == pytest.approx(-0.022)


@pytest.mark.parametrize("pairs", [[765, 3, 25, 207], [1, 2, 3], "abc", [765, 25, 3, -1]])
def test_pairs_that_do_not_fit_are_not_used(pairs: object) -> None:
    apart = compare_set(_images(0.790, 0.768)["sets"]["images"])
    assert compare_set(_images(0.790, 0.768, pairs=pairs)["sets"]["images"]) == apart


def test_a_lower_loss_is_better() -> None:
    changes = compare_set({"base": {"loss": 2.0, "bleu": 0.5}, "tuned": {"loss": 1.0, "bleu": 0.4}})
    assert [(one.metric, one.verdict) for one in changes] == [("loss", "better"), ("bleu", "worse")]


def test_no_image_set_has_no_line() -> None:
    assert regression_line({}) is None
    assert regression_line({"sets": {"validation": _images(0.5, 0.5)["sets"]["images"]}}) is None
    assert regression_line(_images(float("nan"), 0.5)) is None


@pytest.mark.parametrize(
    ("base", "tuned", "outcome"),
    [
        ("Left.", "right", "fixed"),
        ("RIGHT", "left", "broken"),
        ("", "up", "still wrong"),
        ("right", "The right.", "still right"),
    ],
)
def test_outcomes(base: str, tuned: str, outcome: str) -> None:
    assert outcome_of({"reference": "right", "base": base, "tuned": tuned}) == outcome


def test_words_that_are_not_in_the_reference_are_marked() -> None:
    marked = list(mark_words("A red circle, right of it.", "a blue circle right of it"))
    assert [word for word, is_hit in marked if not is_hit] == ["red"]
    assert " ".join(word for word, _ in marked) == "A red circle, right of it."
