r"""Messages to segments: runs of token ids and places of pictures, each marked as trainable or not.

No template string with user text in it is ever built or searched. Control ids come from the tokenizer's
table, pictures from their position in the message, and labels are born here, with the text they belong to.

`qwen_2` is the layout of the released models (apple/ml-fastvlm `llava/conversation.py`, conv_qwen_2):

    <|im_start|>system\n{system}<|im_end|>\n
    <|im_start|>user\n{image}\n{question}<|im_end|>\n
    <|im_start|>assistant\n{answer}<|im_end|>\n

`plain` is the layout of projector pretraining: {image}{caption}\n.

A clip stands where a picture would: its frames follow one another, and the line end comes after the last. With
time marks each frame has its own line, `Frame 3, 2.0 s:` and the picture.

Text between two control tokens or pictures is encoded in one piece, as the reference does, so that the ids
are the same. One exception: an answer is encoded apart from its header `assistant\n`, as it is when the
model writes it. The two differ only for answers that begin with a line end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from fastvlm.errors import ConfigError
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import ImagePart, Message, TextPart, VideoPart
from fastvlm.processing.tokenizer import Tokenizer

ConvMode: TypeAlias = Literal["qwen_2", "plain"]

DEFAULT_SYSTEM: Final = "You are a helpful assistant."
"""Taken when a conversation brings no system message. # REF: llava/conversation.py conv_qwen_2"""


@dataclass(frozen=True, slots=True)
class TextSegment:
    """Token ids; `is_trainable` where the model learns to write them."""

    ids: tuple[int, ...]
    is_trainable: bool


@dataclass(frozen=True, slots=True)
class ImageSegment:
    """The place of a picture or frame; `index` counts them over the conversation in reading order."""

    index: int


Segment: TypeAlias = TextSegment | ImageSegment


def render(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    template: ConvMode = "qwen_2",
    add_generation_prompt: bool = True,
) -> tuple[Segment, ...]:
    """Lay a conversation out as the model was trained to read it.

    Args:
        messages: an optional system turn (clips must be prepared: their frames are counted), then user and assistant in turns. An empty system text leaves the
            system block out; no system turn means `DEFAULT_SYSTEM`.
        tokenizer: gives the ids.
        template: `qwen_2`, or `plain` (one user turn, at most one answer, no system turn).
        add_generation_prompt: end where the answer begins; the last turn must then be the user's.

    Returns:
        Segments in reading order. With `qwen_2` each answer, its `<|im_end|>` and the line end after it are
        trainable (# REF: llava/train/train_qwen.py, preprocess_qwen_2); with `plain` all text is.

    Raises:
        ConfigError: an unknown template, or turns in an order that the template does not have.
    """
    if template not in get_args(ConvMode):
        raise ConfigError(
            f"conv mode {template!r} is not known; expected one of {', '.join(get_args(ConvMode))}"
        )
    _check_turns(messages, add_generation_prompt=add_generation_prompt)
    writer = _SegmentWriter(tokenizer)
    if template == "plain":
        _write_plain(messages, writer)
    else:
        _write_qwen_2(messages, tokenizer, writer, add_generation_prompt=add_generation_prompt)
    return writer.finish()


class _SegmentWriter:
    """Collects text until a control token, a picture or a change of trainability ends the piece."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._segments: list[Segment] = []
        self._ids: list[int] = []
        self._text = ""
        self._is_trainable = False
        self._num_images = 0

    def text(self, text: str, *, is_trainable: bool = False) -> None:
        self._set_trainable(is_trainable)
        self._text += text

    def control(self, token_id: int, *, is_trainable: bool = False) -> None:
        self._set_trainable(is_trainable)
        self._encode_text()
        self._ids.append(token_id)

    def image(self) -> None:
        self._end_segment()
        self._segments.append(ImageSegment(self._num_images))
        self._num_images += 1

    def finish(self) -> tuple[Segment, ...]:
        self._end_segment()
        return tuple(self._segments)

    def _set_trainable(self, is_trainable: bool) -> None:
        if is_trainable != self._is_trainable:
            self._end_segment()
            self._is_trainable = is_trainable

    def _encode_text(self) -> None:
        if self._text:
            self._ids += self._tokenizer.encode(self._text)
            self._text = ""

    def _end_segment(self) -> None:
        self._encode_text()
        if self._ids:
            self._segments.append(TextSegment(tuple(self._ids), self._is_trainable))
            self._ids = []


def _write_qwen_2(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    writer: _SegmentWriter,
    *,
    add_generation_prompt: bool,
) -> None:
    im_start, im_end = tokenizer.im_start_id, tokenizer.im_end_id
    if messages[0].role != "system":
        messages = (Message.from_text("system", DEFAULT_SYSTEM), *messages)
    for message in messages:
        if message.role == "system" and not message.text:
            continue
        is_answer = message.role == "assistant"
        writer.control(im_start)
        writer.text(f"{message.role}\n")
        for part in message.content:
            if isinstance(part, TextPart):
                writer.text(part.text, is_trainable=is_answer)
            else:
                _write_pictures(part, writer)
        writer.control(im_end, is_trainable=is_answer)
        writer.text("\n", is_trainable=is_answer)
    if add_generation_prompt:
        writer.control(im_start)
        writer.text("assistant\n")


def time_mark(index: int, time_s: float) -> str:
    """What stands before a frame with time marks; `index` counts from 0."""
    return f"Frame {index + 1}, {time_s:.1f} s:"


def _write_pictures(part: ImagePart | VideoPart, writer: _SegmentWriter) -> None:
    """A picture with its line end, or the frames of a clip."""
    if isinstance(part, ImagePart):
        writer.image()
        writer.text("\n")
        return
    clip = part.video
    if not isinstance(clip, PreparedVideo):
        raise ConfigError(
            "a clip must be opened before its prompt is laid out; see Processor.prepare"
        )
    for index, time_s in enumerate(clip.times_s):
        if clip.has_time_marks:
            writer.text(time_mark(index, time_s))
        writer.image()
        if clip.has_time_marks or index == len(clip.times_s) - 1:
            writer.text("\n")


def _write_plain(messages: Sequence[Message], writer: _SegmentWriter) -> None:
    """# REF: llava/train/train_qwen.py preprocess_plain drops the question when there is a caption."""
    roles = [message.role for message in messages]
    if roles not in (["user"], ["user", "assistant"]):
        raise ConfigError(
            f"conv mode 'plain' got the turns {', '.join(roles)}; expected one user turn and at most one "
            "answer, without a system turn (use conv mode 'qwen_2')"
        )
    question, *answers = messages
    if any(isinstance(part, VideoPart) for part in question.content):
        raise ConfigError("conv mode 'plain' has no place for clips; use conv mode 'qwen_2'")
    for part in question.content:
        if isinstance(part, ImagePart):
            writer.image()
    if answers:
        writer.text(f"{answers[0].text}\n", is_trainable=True)
    elif question.text:
        line_end = "\n" if question.has_media else ""
        writer.text(f"{line_end}{question.text}\n", is_trainable=True)


def _check_turns(messages: Sequence[Message], *, add_generation_prompt: bool) -> None:
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    if not turns:
        raise ConfigError(
            f"a conversation of {len(messages)} messages has no user turn; expected at least one"
        )
    for position, message in enumerate(turns):
        number = position + 1 + len(messages) - len(turns)
        expected = "assistant" if position % 2 else "user"
        if message.role != expected:
            raise ConfigError(
                f"message {number} is from {message.role!r}; expected {expected!r}: after an optional first "
                "system message, user and assistant take turns"
            )
        if message.role == "user" and not message.text and not message.has_media:
            raise ConfigError(f"message {number} (user) is empty; expected a text or a picture")
    for number, message in enumerate(messages, start=1):
        if message.has_media and message.role != "user":
            num_media = sum(not isinstance(part, TextPart) for part in message.content)
            raise ConfigError(
                f"message {number} ({message.role}) holds {num_media} picture(s) or clip(s); "
                "only user messages can"
            )
    if add_generation_prompt and turns[-1].role != "user":
        raise ConfigError(
            "the last message is the assistant's, so there is nothing to answer; expected a user message "
            "(or add_generation_prompt=False)"
        )
