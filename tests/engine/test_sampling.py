from __future__ import annotations

import pytest
import torch

from fastvlm.engine.options import GenerationOptions
from fastvlm.engine.sampling import filter_logits, penalize_repetition, pick_token

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0])


def test_temperature_zero_takes_the_likeliest() -> None:
    assert pick_token(LOGITS, GenerationOptions(), [], None) == 1


def test_top_k_keeps_the_k_likeliest() -> None:
    kept = filter_logits(LOGITS, GenerationOptions(temperature=1.0, top_k=2))
    assert kept.isfinite().tolist() == [False, True, False, True]


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, 1), (0.62, 2), (0.95, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    logits = filter_logits(LOGITS, GenerationOptions(temperature=1.0, top_p=top_p))
    assert int(logits.isfinite().sum()) == kept
    assert logits[1] == LOGITS[1]


def test_sampling_follows_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    options = GenerationOptions(temperature=0.7)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[pick_token(LOGITS, options, [], generator)] += 1
    torch.testing.assert_close(counts / 4000, (LOGITS / 0.7).softmax(-1), atol=0.03, rtol=0)


def test_repetition_penalty_lowers_generated_tokens_only() -> None:
    penalized = penalize_repetition(LOGITS, [1, 2, 1], 2.0)
    assert penalized.tolist() == [0.5, 1.0, -2.0, 1.0]
    assert LOGITS.tolist() == [0.5, 2.0, -1.0, 1.0]
