"""From logits to the next token. Pure functions of one sequence's logits [V], float32."""

from __future__ import annotations

import torch
from torch import Tensor

from fastvlm.engine.options import GenerationOptions


def pick_token(
    logits: Tensor,
    options: GenerationOptions,
    generated: list[int],
    generator: torch.Generator | None,
) -> int:
    """The next token: the likeliest at temperature 0, else one drawn by the options.

    Args:
        logits: [V] float32.
        options: what to draw by.
        generated: tokens of the answer so far, for the repetition penalty.
        generator: source of randomness on the device of `logits`; None takes torch's own.
    """
    logits = penalize_repetition(logits, generated, options.repetition_penalty)
    if options.temperature == 0:
        return int(logits.argmax())
    probabilities = filter_logits(logits, options).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def penalize_repetition(logits: Tensor, generated: list[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of tokens already generated (CTRL, arXiv 1909.05858).

    Only the answer counts, not the prompt: a model asked for the colour of a circle may well say "circle".
    """
    if penalty == 1.0 or not generated:
        return logits
    ids = torch.tensor(sorted(set(generated)), device=logits.device)
    seen = logits[ids]
    return logits.index_copy(0, ids, torch.where(seen > 0, seen / penalty, seen * penalty))


def filter_logits(logits: Tensor, options: GenerationOptions) -> Tensor:
    """Logits [..., V] at the options' temperature, -inf where top_k or top_p leaves a token out."""
    logits = logits / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        smallest = logits.topk(options.top_k).values[..., -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if options.top_p < 1:
        ordered, order = logits.sort(descending=True)
        probabilities = ordered.softmax(-1)
        # A token stays if the likelier ones before it do not reach top_p yet: the first always stays.
        is_out = probabilities.cumsum(-1) - probabilities >= options.top_p
        logits = logits.masked_fill(is_out.scatter(-1, order, is_out), -torch.inf)
    return logits
