"""Beam search: several candidate answers side by side, and the likeliest one in the end.

Same choice as transformers' `generate(num_beams=...)` with its defaults: candidates are ranked by their mean
log-probability a token, and the search ends when no open candidate can still enter the finished ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvlm.backends.base import Backend, DecodeState
from fastvlm.engine.options import GenerationOptions
from fastvlm.engine.sampling import filter_logits, penalize_repetition


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A candidate answer and the log-probability of all its tokens."""

    token_ids: tuple[int, ...]
    log_probability: float

    @property
    def score(self) -> float:
        """Mean log-probability a token."""
        return self.log_probability / len(self.token_ids)


def beam_search(
    backend: Backend,
    logits: Tensor,
    state: DecodeState,
    options: GenerationOptions,
    *,
    eos_token_ids: frozenset[int],
    generator: torch.Generator | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Hypothesis:
    """The likeliest answer found, with its end token if it has one.

    At a temperature above 0, candidates are drawn instead of ranked (beam sampling).

    Args:
        backend: continues the beams.
        logits: [1, V] after the prompt.
        state: what the prompt left behind.
        options: number of beams, length, penalty and temperature.
        eos_token_ids: what ends an answer.
        generator: source of randomness on the device of `logits`.
        is_cancelled: asked at every step; the best answer so far is given then.
    """
    beams = [Hypothesis((), 0.0)]
    finished: list[Hypothesis] = []
    while True:
        candidates = _continuations(logits, beams, options, generator)
        rows: list[int] = []
        next_beams: list[Hypothesis] = []
        for rank, (row, hypothesis) in enumerate(candidates):
            if hypothesis.token_ids[-1] in eos_token_ids:
                if rank < options.num_beams:
                    finished.append(hypothesis)
            elif len(next_beams) < options.num_beams:
                next_beams.append(hypothesis)
                rows.append(row)
        finished = sorted(finished, key=lambda h: -h.score)[: options.num_beams]
        beams = next_beams
        length = len(candidates[0][1].token_ids)
        if length == options.max_new_tokens or is_cancelled() or not beams:
            return max((*finished, *beams), key=lambda h: h.score)
        if len(finished) == options.num_beams and beams[0].score <= finished[-1].score:
            return finished[0]
        state = backend.select(state, torch.tensor(rows, device=logits.device))
        newest = torch.tensor([h.token_ids[-1] for h in beams], device=logits.device)
        logits = backend.decode_step(newest, state)


def _continuations(
    logits: Tensor,
    beams: list[Hypothesis],
    options: GenerationOptions,
    generator: torch.Generator | None,
) -> list[tuple[int, Hypothesis]]:
    """The 2 x num_beams best continuations (row of their beam, hypothesis), best first.

    Twice as many as beams, so that enough stay open when some of them end.
    """
    rows = [
        penalize_repetition(row, list(beam.token_ids), options.repetition_penalty)
        for row, beam in zip(logits.log_softmax(-1), beams, strict=True)
    ]
    steps = torch.stack(rows)  # [beams, V]
    if options.temperature > 0:
        steps = filter_logits(steps, options)
    totals = steps + steps.new_tensor([beam.log_probability for beam in beams])[:, None]
    ranking = totals
    if options.temperature > 0:
        # Adding Gumbel noise and taking the largest draws without replacement.
        noise = torch.empty_like(totals).exponential_(generator=generator).log_().neg_()
        ranking = totals + noise
    vocabulary = totals.shape[-1]
    best = ranking.flatten().topk(min(2 * options.num_beams, ranking.numel())).indices
    values = totals.flatten()[best].tolist()
    found = []
    for index, total in sorted(zip(best.tolist(), values, strict=True), key=lambda pair: -pair[1]):
        row, token = divmod(index, vocabulary)
        found.append((row, Hypothesis((*beams[row].token_ids, token), total)))
    return found
