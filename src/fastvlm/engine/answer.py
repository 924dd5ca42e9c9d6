"""What comes back: an answer, or a stream that becomes one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fastvlm.errors import FastVLMError
from fastvlm.inputs import Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Callable

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished answer.

    Attributes:
        text: what the model said, without control tokens and stop strings.
        finish_reason: `stop` (the model ended, or a stop string), `length` or `cancelled`.
        usage: tokens read and written.
        timings: where the time went.
        token_ids: the ids behind the text, the end token included.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]

    def __str__(self) -> str:
        return self.text


class AnswerStream(Iterator[str]):
    """Pieces of text, each as soon as it is final; afterwards `answer` holds the whole.

    Example:
        >>> stream = model.stream("What is this?", images=["cat.png"])  # doctest: +SKIP
        >>> for piece in stream:  # doctest: +SKIP
        ...     print(piece, end="", flush=True)
        >>> stream.answer.timings.ttft_ms  # doctest: +SKIP
    """

    def __init__(self, start: Callable[[threading.Event], Iterator[str | Answer]]) -> None:
        self._cancelled = threading.Event()
        self._pieces = start(self._cancelled)
        self._answer: Answer | None = None
        self._error: FastVLMError | None = None
        self._listeners: list[Callable[[Answer], None]] = []

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except FastVLMError as error:
            self._error = error
            raise
        if isinstance(piece, str):
            return piece
        self._answer = piece
        for listener in self._listeners:
            listener(piece)
        raise StopIteration

    def when_finished(self, call: Callable[[Answer], None]) -> None:
        """Have a function called with the finished answer, cancelled ones included."""
        self._listeners.append(call)

    def cancel(self) -> None:
        """End the answer at the next token; safe to call from any thread."""
        self._cancelled.set()

    @property
    def answer(self) -> Answer:
        """The finished answer; reads what is left of the stream first, and raises what reading raised."""
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer
