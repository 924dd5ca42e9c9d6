"""Answers of a model to the records of a validation set, and how good they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from fastvlm.backends.torch_backend import TorchBackend
from fastvlm.data.record import Record
from fastvlm.engine import Engine
from fastvlm.errors import FastVLMError
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import Message, Part, VideoPart
from fastvlm.processing.processor import Processor
from fastvlm.scorers.text import matches, score_texts
from fastvlm.train.network import TuningNetwork

FrameOrder: TypeAlias = Literal["forward", "reversed", "shuffled"]

_BATCH: Final = 8
_NUM_ORDER_CLIPS: Final = 100
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
    frame_order: FrameOrder = "forward",
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Scored]:
    """Greedy answers to the last question of each record, with the turns before it as they are.

    A record whose media cannot be opened has an empty answer, which scores 0.

    Args:
        engine: the model.
        records: each ends with an answer.
        frame_order: how frames of clips are shown.
        should_stop: asked between batches.
    """
    scored: list[Scored] = []
    for start in range(0, len(records), _BATCH):
        if should_stop():
            break
        batch = records[start : start + _BATCH]
        asked = [record.messages[:-1] for record in batch]
        try:
            shown = [reorder_frames(engine.processor, messages, frame_order) for messages in asked]
            texts = [one.text for one in engine.generate(shown, max_new_tokens=_MAX_NEW_TOKENS)]
        except FastVLMError:
            texts = [_answer_or_nothing(engine, messages, frame_order) for messages in asked]
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


def reorder_frames(
    processor: Processor, messages: Sequence[Message], frame_order: FrameOrder
) -> tuple[Message, ...]:
    """The same conversation, opened, with the frames of its clips in another order; their times stay in order."""
    return tuple(
        Message(message.role, tuple(_reorder(part, frame_order) for part in message.content))
        for message in processor.prepare(messages)
    )


def order_metrics(
    engine: Engine,
    scored: Sequence[Scored],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Whether answers about clips depend on the order of frames; empty where there are no clips.

    Returns:
        clips_forward: exact match of the first hundred answers about clips; clips_reversed, clips_shuffled: of
        the same questions and references with frames in another order; order_gain: forward - shuffled, which is
        0 for a model that sees frames as a heap of pictures (docs/metrics.md).
    """
    clips = [one for one in scored if any(isinstance(m, VideoPart) for m in one.record.media)]
    clips = clips[:_NUM_ORDER_CLIPS]
    if not clips:
        return {}
    metrics = {"clips_forward": _accuracy(clips)}
    records = [one.record for one in clips]
    orders: tuple[FrameOrder, ...] = ("reversed", "shuffled")
    for order in orders:
        answered = answer_records(engine, records, frame_order=order, should_stop=should_stop)
        metrics[f"clips_{order}"] = _accuracy(answered)
    metrics["order_gain"] = metrics["clips_forward"] - metrics["clips_shuffled"]
    return metrics


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


def _answer_or_nothing(engine: Engine, messages: Sequence[Message], frame_order: FrameOrder) -> str:
    try:
        shown = reorder_frames(engine.processor, messages, frame_order)
        return engine.ask(shown, max_new_tokens=_MAX_NEW_TOKENS).text
    except FastVLMError:
        return ""


def _reorder(part: Part, frame_order: FrameOrder) -> Part:
    if not isinstance(part, VideoPart) or not isinstance(part.video, PreparedVideo):
        return part
    frames = part.video.frames
    places = list(range(len(frames)))
    if frame_order == "reversed":
        places.reverse()
    elif frame_order == "shuffled":
        places = _shuffle(len(frames))
    shown = tuple(frames[place] for place in places)
    return replace(part, video=replace(part.video, frames=shown))


def _shuffle(count: int) -> list[int]:
    """The same for clips of one length, so that all models see the same: odd places first, then even ones."""
    return [*range(1, count, 2), *range(0, count, 2)]


def _accuracy(scored: Sequence[Scored]) -> float:
    right = sum(matches(one.prediction, [one.reference]) for one in scored)
    return right / max(len(scored), 1)
