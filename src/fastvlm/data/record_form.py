"""From the fields of a record, wherever they were stored, to a `Record`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastvlm.data.chat import messages_of_chat
from fastvlm.data.llava import messages_of_conversations
from fastvlm.data.media import MediaFolder
from fastvlm.data.record import Record, check_turns
from fastvlm.errors import DataError


def parse_json(text: bytes, *, source: str) -> Any:
    """One JSON value.

    Raises:
        DataError: it is none.
    """
    try:
        return json.loads(text.decode("utf-8-sig"))
    except RecursionError as err:
        raise DataError(f"{source}: nested too deeply for a record") from err
    except UnicodeDecodeError as err:
        raise DataError(f"{source}: byte {err.start} is not UTF-8; expected JSON in UTF-8") from err
    except json.JSONDecodeError as err:
        raise DataError(f"{source}: invalid JSON, {err.msg} at its character {err.pos}") from err


def record_of(fields: object, *, source: str, folder: MediaFolder) -> Record:
    """A record of either form; `conversations` and `messages` tell them apart.

    Raises:
        DataError: it cannot be used; the message begins with `source`.
    """
    try:
        if not isinstance(fields, Mapping):
            raise DataError(f"is {type(fields).__name__}; expected an object with fields")
        if fields.get("messages") is not None:
            messages = messages_of_chat(fields, folder)
        elif fields.get("conversations") is not None:
            messages = messages_of_conversations(fields, folder)
        else:
            keys = ", ".join(map(str, fields))
            raise DataError(
                f"has the fields {keys or 'none'!s:.120}; expected conversations (LLaVA, ShareGPT) or messages"
            )
        check_turns(messages)
    except DataError as err:
        raise DataError(f"{source}: {err}", kind=err.kind) from err
    own_id = fields.get("id")
    return Record(source if own_id is None or own_id == "" else str(own_id), messages, source)
