"""How much two texts share: ROUGE-L and CIDEr-D, on texts split into words beforehand.

The numbers are those of the COCO caption evaluation (its package needs Java for the rest, so it is only the
oracle of the tests). Words come from `split_words`, not from Stanford's Java tokenizer: almost all captions
split alike.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final, TypeAlias

Words: TypeAlias = Sequence[str]
_NGram: TypeAlias = tuple[str, ...]

_WORD: Final = re.compile(
    r"n't\b|'(?:s|re|ve|ll|d|m)\b|\d+(?:[.,:]\d+)+|\w+(?:-\w+)*|[%$\u20ac\u00a3]"
)
_BETA: Final = 1.2
"""Recall counts this much more than precision in ROUGE-L; the value of the COCO evaluation."""

_MAX_N: Final = 4
_SIGMA: Final = 6.0
"""Bigrams by which a text may differ in length before CIDEr-D falls; the value of the COCO evaluation."""


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and clitics (`it's` is `it`, `'s`) without punctuation marks.

    Close to the Penn Treebank rules that caption scores are defined on. Scripts that write no spaces come
    out as one word.
    """
    text = text.lower().replace("\u2019", "'")
    return _WORD.findall(re.sub(r"n't\b", " n't", text))


def rouge_l(prediction: Words, references: Sequence[Words]) -> float:
    """ROUGE-L F of one text, 0..1: longest common subsequence, best precision and best recall of all references.

    Source: Lin 2004, with beta 1.2 as in the COCO caption evaluation. A text or reference without words
    scores 0.
    """
    precision = recall = 0.0
    for reference in references:
        if prediction and reference:
            common = longest_common_subsequence(prediction, reference)
            precision = max(precision, common / len(prediction))
            recall = max(recall, common / len(reference))
    if precision == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(first: Words, second: Words) -> int:
    """Number of words, in O(len(second)) operations on integers of len(first) bits.

    Source: the bit-vector recurrence of Hyyro 2004: a zero bit stands where the common subsequence grew.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << index
    everywhere = (1 << len(first)) - 1
    open_places = everywhere
    for word in second:
        hits = open_places & places.get(word, 0)
        open_places = ((open_places + hits) | (open_places - hits)) & everywhere
    return len(first) - open_places.bit_count()


def cider_d(predictions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each text, 0..10: TF-IDF weighted n-grams shared with the references, n = 1 to 4.

    The weights come from the references that are passed in: an n-gram that all items share weighs nothing,
    so one item alone scores 0 and small sets are not comparable with large ones.

    Source: Vedantam et al. 2015, in the form of the COCO caption evaluation (clipped counts, a Gaussian on
    the difference in length).
    """
    num_items_with = Counter(
        ngram
        for item in references
        for ngram in {ngram for words in item for ngram in _count_ngrams(words)}
    )
    log_items = math.log(max(1, len(references)))

    def weigh(words: Words) -> list[dict[_NGram, float]]:
        """TF-IDF of the n-grams of a text, one table for each n."""
        tables: list[dict[_NGram, float]] = [{} for _ in range(_MAX_N)]
        for ngram, count in _count_ngrams(words).items():
            idf = log_items - math.log(max(1, num_items_with[ngram]))
            tables[len(ngram) - 1][ngram] = count * idf
        return tables

    scores = []
    for prediction, item in zip(predictions, references, strict=True):
        mine = weigh(prediction)
        total = 0.0
        for reference in item:
            cosines = map(_clipped_cosine, mine, weigh(reference))
            difference = _num_bigrams(prediction) - _num_bigrams(reference)
            total += sum(cosines) / _MAX_N * math.exp(-(difference**2) / (2 * _SIGMA**2))
        scores.append(10 * total / len(item))
    return scores


def _count_ngrams(words: Words) -> Counter[_NGram]:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, _MAX_N + 1)
        for start in range(len(words) - n + 1)
    )


def _num_bigrams(words: Words) -> int:
    return max(0, len(words) - 1)


def _clipped_cosine(mine: dict[_NGram, float], reference: dict[_NGram, float]) -> float:
    """Cosine of two weight tables, each of my weights cut to that of the reference; 0 for an empty one."""
    shared = sum(
        min(weight, reference[ngram]) * reference[ngram]
        for ngram, weight in mine.items()
        if ngram in reference
    )
    norms = math.hypot(*mine.values()) * math.hypot(*reference.values())
    return shared / norms if norms else 0.0
