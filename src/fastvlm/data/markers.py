r"""`<image>` and `<video>` in the text of a record: places of its media, taken out of the text.

A turn with one marker gets its picture first and its text stripped, wherever the marker stood: so the released
models were trained (# REF: llava/train/train_qwen.py preprocess_multimodal, which takes the marker out, strips
the text and puts `<image>\n` before it). The line end after a picture is the chat template's.

The reference knows one picture a sample. With several markers in a turn, each keeps its place, and the line
end right after it, which the template writes again, is taken out.

Where the reference goes on silently, this does not: it drops the picture of a sample without a marker (here it
comes first in the first question), and lets a marker without a picture take that of another sample (here an
error).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from fastvlm.errors import DataError
from fastvlm.messages import ImagePart, Message, Part, Role, TextPart, VideoPart

Turn: TypeAlias = tuple[Role, str]
_Medium: TypeAlias = ImagePart | VideoPart
_Queues: TypeAlias = dict[str, Iterator[_Medium]]

_MARKER: Final = re.compile(r"<(image|video)>")


def place_media(turns: Sequence[Turn], media: Sequence[_Medium]) -> tuple[Message, ...]:
    """Put media where the markers are.

    `<image>` takes the next picture or clip; in a record that also has `<video>` markers it takes the next
    picture and `<video>` the next clip.

    Raises:
        DataError: other numbers of markers and media, or a marker outside of the user's turns.
    """
    markers = [kind for role, text in turns if role == "user" for kind in _MARKER.findall(text)]
    for number, (role, text) in enumerate(turns):
        if role != "user" and (marker := _MARKER.search(text)):
            raise DataError(
                f"turn {number} ({role}) holds {marker[0]}; media belong to the user's turns (as literal text "
                "it can stand in a messages record whose content is a list of parts)",
                kind="markers",
            )
    if media and not markers:
        return _media_first(turns, media)
    has_video_markers = "video" in markers
    clips: list[_Medium] = [
        part for part in media if has_video_markers and isinstance(part, VideoPart)
    ]
    others = [part for part in media if not (has_video_markers and isinstance(part, VideoPart))]
    if (markers.count("image"), markers.count("video")) != (len(others), len(clips)):
        raise DataError(_mismatch(markers, media), kind="markers")
    queues: _Queues = {"image": iter(others), "video": iter(clips)}
    return tuple(Message(role, tuple(_parts(text, queues))) for role, text in turns)


def _media_first(turns: Sequence[Turn], media: Sequence[_Medium]) -> tuple[Message, ...]:
    first = next((number for number, (role, _) in enumerate(turns) if role == "user"), None)
    if first is None:
        raise DataError("it has media but no user turn that could hold them", kind="roles")
    return tuple(
        Message(role, (*media, *_text(text.strip())))
        if number == first
        else Message(role, _text(text))
        for number, (role, text) in enumerate(turns)
    )


def _parts(text: str, queues: _Queues) -> Iterator[Part]:
    kinds = _MARKER.findall(text)
    if not kinds:
        yield from _text(text)
    elif len(kinds) == 1:
        yield next(queues[kinds[0]])
        yield from _text(_MARKER.sub("", text).strip())
    else:
        # The pattern has one group, so split gives text, kind, text, kind, ..., text.
        before, *rest = _MARKER.split(text.strip())
        yield from _text(before)
        for kind, after in zip(rest[::2], rest[1::2], strict=True):
            yield next(queues[kind])
            yield from _text(after.removeprefix("\n"))


def _text(text: str) -> tuple[TextPart, ...]:
    return (TextPart(text),) if text else ()


def _mismatch(markers: Sequence[str], media: Sequence[_Medium]) -> str:
    num_clips = sum(isinstance(part, VideoPart) for part in media)
    return (
        f"its text has {markers.count('image')} <image> and {markers.count('video')} <video> markers, but it "
        f"names {len(media) - num_clips} pictures and {num_clips} clips; expected one marker for each, or none "
        "at all to have them first"
    )
