"""Answers against reference answers: exact match, BLEU-4, ROUGE-L, CIDEr-D.

`docs/metrics.md` says what each number means and where it misleads. The strict rules of single benchmarks
(VQA, ANLS, ...) are not here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from fastvlm.errors import ConfigError, MissingExtraError
from fastvlm.scorers.overlap import cider_d, rouge_l, split_words

_OPENING: Final = "\"'`*([{<\u201c\u2018\u00ab"
_CLOSING: Final = ".,;:!?\"'`*)]}>\u201d\u2019\u00bb\u3002"
_ARTICLE: Final = re.compile(r"(?:a|an|the)\s+(?=\S)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScores:
    """Means over `n` answers; an empty answer counts as 0 everywhere and stays in the mean."""

    exact_match: float
    """0..1: share of answers that equal a reference after `normalize_answer`."""
    bleu: float
    """0..1: corpus BLEU-4 of sacrebleu, which prints it times 100; 0 if no answer has four words."""
    rouge_l: float
    """0..1: mean ROUGE-L F."""
    cider: float
    """0..10: mean CIDEr-D; papers print it times 100 (our 1.2 is their 120)."""
    n: int
    num_empty: int
    """Answers without a letter, digit or sign."""


def score_texts(predictions: Sequence[str], references: Sequence[Sequence[str]], /) -> TextScores:
    """Score answers, each against one or more references.

    Args:
        predictions: what the model said.
        references: for each prediction the right answers; their number may differ.

    Raises:
        ConfigError: nothing to score, another number of predictions than of references, or a prediction
            without a reference.
        MissingExtraError: sacrebleu is not there.
    """
    _check(predictions, references)
    words = [split_words(text) for text in predictions]
    reference_words = [[split_words(text) for text in item] for item in references]
    count = len(predictions)
    pairs = list(zip(predictions, references, strict=True))
    return TextScores(
        exact_match=sum(matches(text, item) for text, item in pairs) / count,
        bleu=_corpus_bleu(predictions, references),
        rouge_l=sum(map(rouge_l, words, reference_words)) / count,
        cider=sum(cider_d(words, reference_words)) / count,
        n=count,
        num_empty=sum(not normalize_answer(text) for text in predictions),
    )


def matches(prediction: str, references: Sequence[str]) -> bool:
    """Whether an answer equals one of the references after `normalize_answer`; an empty one never does."""
    answer = normalize_answer(prediction)
    return answer != "" and any(answer == normalize_answer(reference) for reference in references)


def normalize_answer(text: str) -> str:
    """The form in which two answers are compared.

    Unicode NFKC, lower case, runs of white space to one space; quotes, brackets and asterisks at the
    beginning, these and sentence marks at the end go, then one leading article if something follows it.
    Signs within (`3.5`, `t-shirt`, `-5`, `50%`) and number words stay as they are.

    Example:
        >>> normalize_answer("The  Red Circle.")
        'red circle'
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    text = text.lstrip(_OPENING + " ").rstrip(_CLOSING + " ")
    return _ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text


def _corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Lower-cased, 13a words, smoothing of mteval (`exp`): what `sacrebleu --lowercase` prints, over 100."""
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingExtraError(
            "BLEU needs the package sacrebleu; run: pip install 'fastvlm[train]'"
        ) from error
    streams = list(
        zip_longest(*references)
    )  # one list a rank of reference, None where there is none
    # force: no warning that the text looks split into words already
    score = BLEU(lowercase=True, force=True).corpus_score(list(predictions), streams).score
    return float(score) / 100


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(predictions) != len(references):
        raise ConfigError(
            f"{len(predictions)} predictions and {len(references)} lists of references; give one list for each"
        )
    if not predictions:
        raise ConfigError("no predictions to score; the set of questions is empty")
    for index, item in enumerate(references):
        if isinstance(item, str):
            raise ConfigError(
                f"references[{index}] is the text {item[:40]!r}; expected a list of texts"
            )
        if not item:
            raise ConfigError(
                f"references[{index}] is empty; expected at least one reference answer"
            )
