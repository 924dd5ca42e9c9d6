"""Scores of answers against references."""

import logging
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.errors import ConfigError, MissingExtraError
from fastvlm.scorers.text import matches, normalize_answer, score_texts

_REFERENCES = [
    ["a cat sits on a mat", "a small cat is sitting on the mat"],
    ["two dogs run on the beach", "dogs running along a sandy beach"],
    ["a man rides a red bicycle", "a person riding a bike down the street"],
]
_PREDICTIONS = [
    "a cat is sitting on a mat",
    "two dogs are running on a beach",
    "a man on a red bike",
]


def test_known_captions() -> None:
    scores = score_texts(_PREDICTIONS, _REFERENCES)
    assert scores.exact_match == 0
    assert scores.bleu == pytest.approx(0.310391, abs=5e-6)
    assert scores.rouge_l == pytest.approx(0.711212, abs=5e-7)
    assert scores.cider == pytest.approx(2.481359, abs=5e-7)
    assert (scores.n, scores.num_empty) == (3, 0)


def test_a_reference_as_answer() -> None:
    scores = score_texts([item[0] for item in _REFERENCES], _REFERENCES)
    assert scores.exact_match == scores.rouge_l == 1
    assert scores.bleu == pytest.approx(1)
    assert scores.cider == pytest.approx(5.393034, abs=5e-7)


@pytest.mark.parametrize("nothing", ["", "  \n", "...", "\u201c\u201d"])
def test_an_empty_answer_scores_nothing(nothing: str) -> None:
    scores = score_texts([nothing] * 3, [["yes"], [""], ["."]])
    assert (scores.exact_match, scores.bleu, scores.rouge_l, scores.cider) == (0, 0, 0, 0)
    assert scores.num_empty == 3


def test_empty_answers_stay_in_the_mean() -> None:
    whole = score_texts(_PREDICTIONS, _REFERENCES)
    halved = score_texts([*_PREDICTIONS, "", "", ""], _REFERENCES * 2)
    assert halved.rouge_l == pytest.approx(whole.rouge_l / 2)
    assert halved.bleu < whole.bleu


def test_numbers_of_references_may_differ() -> None:
    scores = score_texts(["red", "a blue square on top"], [["red", "scarlet"], ["a blue square"]])
    assert scores.exact_match == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Red\nCircle.", "red circle"),
        ("(A)", "a"),
        ("A", "a"),
        ("a cat", "cat"),
        ("**Yes!**", "yes"),
        ("-5", "-5"),
        ("3.5.", "3.5"),
        (".5", ".5"),
        ("50%", "50%"),
        ("\u201cSTOP\u201d", "stop"),
        ("\uff11\uff12", "12"),
        ("another", "another"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def test_number_words_are_not_digits() -> None:
    assert not matches("three", ["3"])


@given(st.text(max_size=40))
def test_the_normal_form_is_final_but_for_articles(text: str) -> None:
    once = normalize_answer(text)
    if not once.startswith(("a ", "an ", "the ")):  # one article goes, a second one stays
        assert normalize_answer(once) == once


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=6))
def test_scores_stay_within_their_ranges(pairs: list[tuple[str, str]]) -> None:
    scores = score_texts([one for one, _ in pairs], [[other] for _, other in pairs])
    assert 0 <= scores.exact_match <= 1
    assert 0 <= scores.bleu <= 1 + 1e-9
    assert 0 <= scores.rouge_l <= 1
    assert 0 <= scores.cider <= 10 + 1e-9


def test_scoring_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        score_texts(["it is red ."] * 200, [["it is red ."]] * 200)
    assert not caplog.records


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(ConfigError, match="2 predictions and 1 lists"):
        score_texts(["a", "b"], [["a"]])
    with pytest.raises(ConfigError, match=r"references\[1\] is empty"):
        score_texts(["a", "b"], [["a"], []])
    with pytest.raises(ConfigError, match=r"references\[0\] is the text 'yes'"):
        score_texts(["yes"], ["yes"])
    with pytest.raises(ConfigError, match="no predictions"):
        score_texts([], [])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(MissingExtraError, match=r"fastvlm\[train\]"):
        score_texts(["a"], [["a"]])
