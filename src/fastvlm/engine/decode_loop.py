"""The one decode loop: prompts in, pieces of text out; a single user is a batch of one.

Sequences that end leave the batch at once. Each row's answer is the same as if it were alone (greedy, float32).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from fastvlm.backends.base import Backend, Prompt
from fastvlm.engine.answer import FinishReason
from fastvlm.engine.beam_search import beam_search
from fastvlm.engine.detokenizer import StreamDecoder
from fastvlm.engine.options import GenerationOptions
from fastvlm.engine.sampling import pick_token


@dataclass(slots=True, eq=False)
class Row:
    """One answer in the making."""

    prompt: Prompt
    options: GenerationOptions
    decoder: StreamDecoder
    eos_token_ids: frozenset[int]
    generator: torch.Generator | None = None
    token_ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    first_token_at: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    """Work after the first token; the time that a reader takes between two pieces does not count."""

    def accept(self, token_id: int) -> str:
        """Add a token; returns the text that has become final with it."""
        self.first_token_at = self.first_token_at or time.perf_counter()
        self.token_ids.append(token_id)
        if token_id in self.eos_token_ids:
            return self.finish("stop")
        text = self.decoder.push(token_id)
        if self.decoder.stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.options.max_new_tokens:
            return self._keep(text) + self.finish("length")
        return self._keep(text)

    def finish(self, reason: FinishReason) -> str:
        """End the answer; returns the text that was still held back."""
        self.finish_reason = reason
        text = self._keep(self.decoder.finish())
        if self.decoder.stopped:
            self.finish_reason = "stop"
        return text

    def _keep(self, text: str) -> str:
        self.pieces.append(text)
        return text

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def decode(
    backend: Backend, rows: Sequence[Row], *, is_cancelled: Callable[[], bool] = lambda: False
) -> Iterator[tuple[Row, str]]:
    """Generate all rows to their end, yielding each piece of text with its row."""
    if len(rows) == 1 and rows[0].options.num_beams > 1:
        yield from _decode_beams(backend, rows[0], is_cancelled)
        return
    started = time.perf_counter()
    logits, state = backend.prefill([row.prompt for row in rows])
    backend.synchronize()
    for row in rows:
        row.prefill_seconds = time.perf_counter() - started
    active = list(rows)
    started = time.perf_counter()
    while True:
        pieces = [
            (row, row.accept(pick_token(row_logits, row.options, row.token_ids, row.generator)))
            for row, row_logits in zip(active, logits, strict=True)
        ]
        if len(active[0].token_ids) > 1:
            for row in active:
                row.decode_seconds += time.perf_counter() - started
        yield from ((row, text) for row, text in pieces if text)
        going = [i for i, row in enumerate(active) if row.finish_reason is None]
        if is_cancelled():
            for i in going:
                yield active[i], active[i].finish("cancelled")
            return
        if not going:
            return
        if len(going) < len(active):
            state = backend.select(state, torch.tensor(going, device=logits.device))
            active = [active[i] for i in going]
        started = time.perf_counter()
        newest = torch.tensor([row.token_ids[-1] for row in active], device=logits.device)
        logits = backend.decode_step(newest, state)


def _decode_beams(
    backend: Backend, row: Row, is_cancelled: Callable[[], bool]
) -> Iterator[tuple[Row, str]]:
    """Beam search knows its answer only at the end, so that all text comes at once, and TTFT is its end."""
    started = time.perf_counter()
    logits, state = backend.prefill([row.prompt])
    backend.synchronize()
    prefilled = time.perf_counter()
    row.prefill_seconds = prefilled - started
    found = beam_search(
        backend,
        logits,
        state,
        row.options,
        eos_token_ids=row.eos_token_ids,
        generator=row.generator,
        is_cancelled=is_cancelled,
    )
    row.decode_seconds = time.perf_counter() - prefilled
    for token_id in found.token_ids:
        text = row.accept(token_id)
        if text:
            yield row, text
        if row.finish_reason is not None:
            return
    yield row, row.finish("cancelled")
