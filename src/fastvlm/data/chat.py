"""Messages records, the chat form of Hugging Face: `messages` of `role` and `content`.

{"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"},
                                           {"type": "text", "text": "What is this?"}]},
              {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}]}

A part without a value of its own takes the next of the columns `images` or `videos`. Content that is a plain
text may hold `<image>` and `<video>` markers for these columns; the text of a part is always literal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastvlm.data.llava import ROLES
from fastvlm.data.markers import place_media
from fastvlm.data.media import MediaFolder, MediaKind, media_of_columns
from fastvlm.errors import DataError
from fastvlm.messages import ImagePart, Message, Part, Role, TextPart, VideoPart


def messages_of_chat(fields: Mapping[str, Any], folder: MediaFolder) -> tuple[Message, ...]:
    """The conversation of a record with its media in place.

    Raises:
        DataError: a missing or unknown field, or places that do not go with the media.
    """
    value = fields["messages"]
    if not isinstance(value, list):
        raise DataError(f"its 'messages' is {type(value).__name__}; expected a list")
    turns = [_turn(turn, number) for number, turn in enumerate(value)]
    columns = media_of_columns(fields, folder)
    if not any(isinstance(content, list) for _, content in turns):
        return place_media([(role, str(content)) for role, content in turns], columns)
    queues: dict[MediaKind, list[ImagePart | VideoPart]] = {
        "image": [part for part in columns if isinstance(part, ImagePart)],
        "video": [part for part in columns if isinstance(part, VideoPart)],
    }
    messages = tuple(
        Message(role, tuple(_parts(content, folder, queues))) for role, content in turns
    )
    if queues["image"] or queues["video"]:
        raise DataError(
            f"{len(queues['image'])} of its pictures and {len(queues['video'])} of its clips have no part of "
            "type image or video; expected one for each",
            kind="markers",
        )
    return messages


def _turn(turn: object, number: int) -> tuple[Role, str | list[Any]]:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        found = ", ".join(map(str, turn)) if isinstance(turn, Mapping) else type(turn).__name__
        raise DataError(f"turn {number} is {found:.80}; expected the keys role and content")
    role = ROLES.get(turn["role"]) if isinstance(turn["role"], str) else None
    if role is None:
        raise DataError(
            f"turn {number} has the role {turn['role']!r:.40}; expected user, assistant or system",
            kind="roles",
        )
    content = turn["content"]
    if not isinstance(content, str | list):
        raise DataError(
            f"turn {number} has content of type {type(content).__name__}; expected text or a list of parts",
            kind="empty answer" if content is None and role == "assistant" else "schema",
        )
    return role, content


def _parts(
    content: str | list[Any],
    folder: MediaFolder,
    queues: dict[MediaKind, list[ImagePart | VideoPart]],
) -> Iterator[Part]:
    if isinstance(content, str):
        yield TextPart(content)
        return
    for part in content:
        part_type = part.get("type") if isinstance(part, Mapping) else None
        if part_type == "text" and isinstance(part.get("text"), str):
            yield TextPart(part["text"])
        elif part_type in ("image", "image_url"):
            yield _medium(part, "image", folder, queues)
        elif part_type == "video":
            yield _medium(part, "video", folder, queues)
        else:
            raise DataError(
                f"a part of its content is {part!r:.80}; expected the type text, image or video with its value"
            )


def _medium(
    part: Mapping[str, Any],
    kind: MediaKind,
    folder: MediaFolder,
    queues: dict[MediaKind, list[ImagePart | VideoPart]],
) -> ImagePart | VideoPart:
    for key in (kind, "image_url", "path", "url", "bytes"):
        # Columns of a parquet file give every key to every part, with None where it has none.
        if (value := part.get(key)) is not None:
            return folder.part(
                value["url"] if key == "image_url" and "url" in value else value, kind
            )
    if not queues[kind]:
        raise DataError(
            f"a part of type {kind} has no value, and none is left under '{kind}s'; expected one for each",
            kind="markers",
        )
    return queues[kind].pop(0)
