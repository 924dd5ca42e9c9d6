"""Answers of a model to the records of a validation set, and how good they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fastvlm.backends.torch_backend import TorchBackend
from fastvlm.data.record import Record
from fastvlm.engine import Engine
from fastvlm.errors import FastVLMError
from fastvlm.processing.processor import Processor
from fastvlm.scorers.text import score_texts
from fastvlm.train.network import TuningNetwork

_BATCH: Final = 8
_MAX_NEW_TOKENS: Final = 256


@dataclass(frozen=True, slots=True)
class Scored:
    """A record with what the model said in place of its last answer."""

    record: Record
    prediction: str

    @property
    def reference(self) -> str:
        return self.record.messages[-1].text

    @property
    def question(self) -> str:
        return self.record.messages[-2].text


def answer_records(
    engine: Engine,
    records: Sequence[Record],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Scored]:
    """Greedy answers to the last question of each record, with the turns before it as they are.

    A record whose media cannot be opened has an empty answer, which scores 0.
    """
    scored: list[Scored] = []
    for start in range(0, len(records), _BATCH):
        if should_stop():
            break
        batch = records[start : start + _BATCH]
        asked = [record.messages[:-1] for record in batch]
        try:
            texts = [one.text for one in engine.generate(asked, max_new_tokens=_MAX_NEW_TOKENS)]
        except FastVLMError:
            texts = [_answer_or_nothing(engine, messages) for messages in asked]
        scored += [Scored(record, text) for record, text in zip(batch, texts, strict=True)]
    return scored


def score(scored: Sequence[Scored]) -> dict[str, float]:
    """Exact match, BLEU, ROUGE-L and CIDEr of answers against their references."""
    if not scored:
        return {}
    scores = score_texts([one.prediction for one in scored], [[one.reference] for one in scored])
    return {
        "exact_match": scores.exact_match,
        "bleu": scores.bleu,
        "rouge_l": scores.rouge_l,
        "cider": scores.cider,
    }


@contextmanager
def engine_of(network: TuningNetwork, processor: Processor) -> Iterator[Engine]:
    """An engine on the network as it stands: the tower is fused in a copy, all else is shared.

    The network is in eval mode and without gradients inside, and as it was afterwards but for its mode.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    shared = copy.copy(network.model)
    # A module of its own, or the fused tower would take the place of the one that is trained.
    shared._modules = dict(network.model._modules)
    try:
        yield Engine(TorchBackend(shared), processor, name="the model being trained")
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _answer_or_nothing(engine: Engine, messages: Any) -> str:
    try:
        return engine.ask(messages, max_new_tokens=_MAX_NEW_TOKENS).text
    except FastVLMError:
        return ""
