"""ROUGE-L and CIDEr-D against the COCO caption evaluation, on made-up captions."""

import random

import pytest

from fastvlm.scorers.overlap import cider_d, rouge_l

cider_module = pytest.importorskip("pycocoevalcap.cider.cider")
rouge_module = pytest.importorskip("pycocoevalcap.rouge.rouge")
pytestmark = pytest.mark.oracle

_VOCABULARY = "the red blue dog cat runs sits on under table two small"


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_those_of_the_coco_evaluation(seed: int) -> None:
    rng = random.Random(seed)

    def caption() -> list[str]:
        return rng.choices(_VOCABULARY.split(), k=rng.randint(1, 20))

    predictions = [caption() for _ in range(20)]
    references = [[caption() for _ in range(rng.randint(1, 5))] for _ in predictions]
    theirs = {index: [" ".join(words)] for index, words in enumerate(predictions)}
    gold = {index: [" ".join(words) for words in item] for index, item in enumerate(references)}
    _, cider = cider_module.Cider().compute_score(gold, theirs)
    _, rouge = rouge_module.Rouge().compute_score(gold, theirs)
    # float64 on both sides, sums in another order
    assert cider_d(predictions, references) == pytest.approx(list(cider), rel=1e-9, abs=1e-12)
    assert list(map(rouge_l, predictions, references)) == pytest.approx(list(rouge), rel=1e-12)
