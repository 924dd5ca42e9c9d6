"""One training sample, and what a file of them is to the rest of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastvlm.errors import DataError
from fastvlm.messages import ImagePart, Message, TextPart, VideoPart


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation that ends with an answer. Its pictures and clips are named, not opened."""

    id: str
    """As the file says; `source` where it says nothing."""
    messages: tuple[Message, ...]
    source: str
    """For error messages: "train.json, record 17". Records count from 0."""

    @property
    def media(self) -> tuple[ImagePart | VideoPart, ...]:
        """Pictures and clips in reading order."""
        return tuple(
            part
            for message in self.messages
            for part in message.content
            if not isinstance(part, TextPart)
        )


class RecordFile(Protocol):
    """Records by number. Opening one reads an index; a record is parsed when it is asked for."""

    @property
    def name(self) -> str:
        """The file as the user named it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """The record of this number, from 0.

        Raises:
            DataError: it cannot be used; the message names file and record.
            IndexError: there is no such record.
        """


def check_turns(messages: Sequence[Message]) -> None:
    """Raise unless a model can learn from this conversation.

    Raises:
        DataError: turns out of order, no answer at the end, or an empty turn.
    """
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    roles = [message.role for message in turns]
    if not turns or len(turns) % 2 or roles != ["user", "assistant"] * (len(turns) // 2):
        shown = ", ".join(message.role for message in messages[:8]) or "none"
        raise DataError(
            f"its turns are {shown}{', ...' if len(messages) > 8 else ''}; expected user and assistant in turns "
            "after an optional system turn, with an answer at the end",
            kind="roles",
        )
    first = len(messages) - len(turns)
    for number, message in enumerate(turns, start=first):
        is_empty = not message.text.strip()
        if message.role == "assistant" and is_empty:
            raise DataError(
                f"turn {number} (assistant) is an empty answer; expected text", kind="empty answer"
            )
        if is_empty and not message.has_media:
            raise DataError(f"turn {number} (user) is empty; expected text or media", kind="roles")
    for number, message in enumerate(messages):
        if message.has_media and message.role != "user":
            raise DataError(
                f"turn {number} ({message.role}) holds a picture or clip; only user turns can",
                kind="markers",
            )
