r"""LLaVA and ShareGPT records: `conversations` of `from` and `value`, media under keys of their own.

{"id": "7", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is this?"},
                                                {"from": "gpt", "value": "A cat."}]}

`image` and `video` (or `images` and `videos`) are a path or a list; clips may also stand under `image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastvlm.data.markers import Turn, place_media
from fastvlm.data.media import MediaFolder, media_of_columns
from fastvlm.errors import DataError
from fastvlm.messages import Message, Role

ROLES: Final[dict[str, Role]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "system": "system",
}


def messages_of_conversations(
    fields: Mapping[str, Any], folder: MediaFolder
) -> tuple[Message, ...]:
    """The conversation of a record with its media in place.

    Raises:
        DataError: a missing or unknown field, or markers that do not go with the media.
    """
    turns = [_turn(turn, number) for number, turn in enumerate(_list_of(fields, "conversations"))]
    if isinstance(system := fields.get("system"), str) and system:
        turns.insert(0, ("system", system))
    return place_media(turns, media_of_columns(fields, folder))


def _list_of(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = fields[key]
    if not isinstance(value, list):
        raise DataError(f"its {key!r} is {type(value).__name__}; expected a list of turns")
    return value


def _turn(turn: object, number: int) -> Turn:
    if not isinstance(turn, Mapping) or "from" not in turn or "value" not in turn:
        found = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else type(turn).__name__
        raise DataError(f"turn {number} is {found:.80}; expected the keys from and value")
    role = ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise DataError(
            f"turn {number} is from {turn['from']!r:.40}; expected one of {', '.join(ROLES)}",
            kind="roles",
        )
    if not isinstance(turn["value"], str):
        raise DataError(
            f"turn {number} has a value of type {type(turn['value']).__name__}; expected text",
            kind="empty answer" if turn["value"] is None and role == "assistant" else "schema",
        )
    return role, turn["value"]
