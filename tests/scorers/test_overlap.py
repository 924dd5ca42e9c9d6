"""ROUGE-L and CIDEr-D: known values, and the slow textbook form of the common subsequence."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvlm.scorers.overlap import cider_d, longest_common_subsequence, rouge_l, split_words

_WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


@given(_WORDS, _WORDS)
def test_bits_count_what_the_textbook_counts(first: list[str], second: list[str]) -> None:
    @cache
    def length(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if first[i - 1] == second[j - 1]:
            return length(i - 1, j - 1) + 1
        return max(length(i - 1, j), length(i, j - 1))

    assert longest_common_subsequence(first, second) == length(len(first), len(second))


def test_precision_and_recall_may_come_from_different_references() -> None:
    prediction = split_words("a cat is sitting on a mat")
    references = ["a cat sits on a mat", "a small cat is sitting on the mat"]
    assert rouge_l(prediction, list(map(split_words, references))) == pytest.approx(
        0.84293, abs=5e-6
    )


def test_cider_of_single_items() -> None:
    predictions = [
        "a cat is sitting on a mat",
        "two dogs are running on a beach",
        "a man on a red bike",
    ]
    references = [
        ["a cat sits on a mat", "a small cat is sitting on the mat"],
        ["two dogs run on the beach", "dogs running along a sandy beach"],
        ["a man rides a red bicycle", "a person riding a bike down the street"],
    ]
    scores = cider_d(
        [text.split() for text in predictions], [[r.split() for r in item] for item in references]
    )
    assert scores == pytest.approx([4.123588, 1.816044, 1.504445], abs=5e-7)


def test_cider_of_one_item_is_nothing() -> None:
    assert cider_d([["a", "cat"]], [[["a", "cat"]]]) == [0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's a T-shirt, isn't it?", ["it", "'s", "a", "t-shirt", "is", "n't", "it"]),
        ("1,250 dogs; 3.5%", ["1,250", "dogs", "3.5", "%"]),
        ("the dogs\u2019 bowl (red)...", ["the", "dogs", "bowl", "red"]),
        ("ends.Here 5", ["ends", "here", "5"]),
        ("", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words
