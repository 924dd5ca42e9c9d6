"""Messages to `ModelInputs`: pictures and clips opened and scaled, text rendered, every length final and checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from fastvlm.config import MIN_IMAGE_SIZE, PATCH_STRIDE, FastVLMConfig, num_image_tokens
from fastvlm.errors import ConfigError, ContextLengthError
from fastvlm.inputs import (
    IGNORE_INDEX,
    IMAGE_TOKEN_ID,
    ModelInputs,
    PreparedImage,
    PreparedVideo,
)
from fastvlm.messages import (
    ImagePart,
    ImageSource,
    Message,
    Part,
    TextPart,
    VideoOptions,
    VideoPart,
    VideoSource,
)
from fastvlm.processing.chat_template import (
    ConvMode,
    ImageSegment,
    Segment,
    TextSegment,
    render,
    time_mark,
)
from fastvlm.processing.image import ImageProcessor
from fastvlm.processing.image_file import DEFAULT_LIMITS, ImageLimits, open_image
from fastvlm.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from fastvlm.processing.video import VideoLimits


class Processor:
    """Prepares conversations for one model.

    `processor(messages)` does all of it; a caller that keeps pictures (a chat, a cache) calls `prepare` once
    for each turn and `assemble` for every request.

    Args:
        config: sizes of the model and how its pictures are scaled.
        tokenizer: of the same model.
        image_processor: takes the place of the one that `config` describes.
        limits: how large a picture may be.
        video_limits: how large and long a clip may be; None takes `processing.video`'s.
        trusts_videos: decode clips in this process instead of one with limited resources: faster, for files
            of one's own.
        conv_mode: layout of the prompt.

    Raises:
        ConfigError: the tokenizer has ids for which the model has no embedding, or an unknown conv mode.
    """

    def __init__(
        self,
        config: FastVLMConfig,
        tokenizer: Tokenizer,
        *,
        image_processor: ImageProcessor | None = None,
        limits: ImageLimits | None = None,
        video_limits: VideoLimits | None = None,
        trusts_videos: bool = False,
        conv_mode: ConvMode = "qwen_2",
    ) -> None:
        if tokenizer.vocab_size > config.text.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} entries, the model only {config.text.vocab_size} "
                "embeddings; expected the tokenizer of this model"
            )
        if conv_mode not in get_args(ConvMode):
            raise ConfigError(
                f"conv mode {conv_mode!r} is not known; expected {' or '.join(get_args(ConvMode))}"
            )
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor or ImageProcessor(
            mode=config.image_mode,
            image_size=config.image_size,
            image_grid_pinpoints=config.image_grid_pinpoints,
        )
        self.limits = limits or DEFAULT_LIMITS
        self.video_limits = video_limits
        self.trusts_videos = trusts_videos
        self.conv_mode = conv_mode

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        config: FastVLMConfig,
        *,
        limits: ImageLimits | None = None,
        conv_mode: ConvMode = "qwen_2",
    ) -> Processor:
        """The processor of a checkpoint folder, with the tokenizer that lies in it.

        Raises:
            CheckpointError: no readable tokenizer in the folder.
        """
        return cls(config, Tokenizer.from_folder(folder), limits=limits, conv_mode=conv_mode)

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        with_labels: bool = False,
        add_generation_prompt: bool = True,
    ) -> ModelInputs:
        """Open the pictures of a conversation and prepare all of it; see `assemble` for the options.

        Raises:
            MediaError: a picture cannot be read or exceeds a limit.
            ShapeError: an array that is no picture.
            ConfigError: turns in an order that the template does not have.
            ContextLengthError: the conversation is longer than the model's `max_length`.
        """
        prepared = self.prepare(messages, with_labels=with_labels)
        return self.assemble(
            prepared, with_labels=with_labels, add_generation_prompt=add_generation_prompt
        )

    def prepare(
        self, messages: Sequence[Message], *, with_labels: bool = False
    ) -> tuple[Message, ...]:
        """Open all pictures and clips of a conversation; what is open already stays as it is.

        Args:
            messages: the conversation; what a clip may take of the context depends on all of it.
            with_labels: for training, where the answer is part of the conversation.

        Raises:
            MediaError: a picture or clip cannot be read or exceeds a limit.
            ShapeError: an array that is no picture.
            ContextLengthError: a clip has more frames than fit; said before any is decoded.
        """
        with_pictures = [self._with_pictures(message) for message in messages]
        if not any(_has_closed_clip(message) for message in with_pictures):
            return tuple(with_pictures)
        room = self._room_for_frames(with_pictures, num_new_tokens=0 if with_labels else 1)
        prepared: list[Message] = []
        for message in with_pictures:
            parts: list[Part] = []
            for part in message.content:
                if isinstance(part, VideoPart) and not isinstance(part.video, PreparedVideo):
                    clip = self.prepare_video(part.video, part.options, max_tokens=room)
                    room -= self._clip_tokens(clip)
                    parts.append(VideoPart(clip, part.options))
                else:
                    parts.append(part)
            prepared.append(Message(message.role, tuple(parts)))
        return tuple(prepared)

    def prepare_image(self, source: ImageSource) -> PreparedImage:
        """Open, turn and scale one picture; one that is prepared already is given back.

        Raises:
            MediaError: it cannot be read or exceeds a limit.
            ShapeError: an array that is no picture.
        """
        if isinstance(source, PreparedImage):
            return source
        return self._scale(open_image(source, limits=self.limits), self.image_processor)

    def prepare_video(
        self,
        source: VideoSource,
        options: VideoOptions | None = None,
        *,
        max_tokens: int | None = None,
    ) -> PreparedVideo:
        """Take frames of a clip and scale them; one that is prepared already is given back.

        Args:
            source: the clip.
            options: which frames, and how large.
            max_tokens: room in the context; None decodes whatever the options ask for.

        Raises:
            MediaError: it cannot be read or exceeds a limit.
            ContextLengthError: its frames take more than `max_tokens`; said before any is decoded.
        """
        if isinstance(source, PreparedVideo):
            return source
        from fastvlm.processing.video import DEFAULT_VIDEO_LIMITS, TooManyFramesError, read_frames

        options = options or VideoOptions()
        scale = self._frame_processor(options)
        max_frames = None
        if max_tokens is not None and (each := self._frame_tokens(options)) is not None:
            max_frames = max(max_tokens, 0) // each
        try:
            frames = [
                (self._scale(frame.image, scale), frame.time_s)
                for frame in read_frames(
                    source,
                    options,
                    limits=self.video_limits or DEFAULT_VIDEO_LIMITS,
                    max_frames=max_frames,
                    is_trusted=self.trusts_videos,
                )
            ]
        except TooManyFramesError as err:
            assert max_tokens is not None
            raise self._too_many_frames(err.num_planned, options, max_tokens) from err
        images, times_s = zip(*frames, strict=True)
        return PreparedVideo(images, times_s, options.has_time_marks)

    def _scale(self, image: Image.Image, image_processor: ImageProcessor) -> PreparedImage:
        pixel_values = image_processor(image)
        num_tiles, _, height, width = pixel_values.shape
        digest = hashlib.sha256(repr(pixel_values.shape).encode())
        digest.update(np.ascontiguousarray(pixel_values).data)
        return PreparedImage(
            pixel_values, num_tiles * num_image_tokens(height, width), digest.hexdigest()
        )

    def assemble(
        self,
        messages: Sequence[Message],
        *,
        with_labels: bool = False,
        add_generation_prompt: bool = True,
    ) -> ModelInputs:
        """Prepare a conversation whose pictures and clips are open.

        Args:
            messages: the conversation, as `prepare` gives it.
            with_labels: for training: the conversation ends with an answer, and `labels` say what is learned.
            add_generation_prompt: end where the answer begins; training never does.

        Raises:
            ConfigError: a picture that is not open, or turns in an order that the template does not have.
            ContextLengthError: the conversation is longer than the model's `max_length`.
        """
        for message in messages:
            for part in message.content:
                if isinstance(part, ImagePart) and not isinstance(part.image, PreparedImage):
                    raise ConfigError(
                        f"picture {part.image!r:.80} is not open; expected messages from Processor.prepare"
                    )
        images = [image for message in messages for image in message.pictures]
        add_generation_prompt = add_generation_prompt and not with_labels
        segments = render(
            messages,
            self.tokenizer,
            template=self.conv_mode,
            add_generation_prompt=add_generation_prompt,
        )
        image_tokens = tuple(image.num_tokens for image in images)
        num_text = sum(len(part.ids) for part in segments if isinstance(part, TextSegment))
        self._check_length(num_text, image_tokens, num_new_tokens=int(add_generation_prompt))
        input_ids, labels = _join(segments, image_tokens)
        return ModelInputs(
            input_ids=input_ids,
            pixel_values=tuple(image.pixel_values for image in images),
            num_image_tokens=image_tokens,
            labels=labels if with_labels else None,
        )

    def _with_pictures(self, message: Message) -> Message:
        parts = (
            ImagePart(self.prepare_image(part.image)) if isinstance(part, ImagePart) else part
            for part in message.content
        )
        return Message(message.role, tuple(parts))

    def _frame_processor(self, options: VideoOptions) -> ImageProcessor:
        if options.frame_size is None:
            return self.image_processor
        return replace(self.image_processor, image_size=options.frame_size)

    def _frame_tokens(self, options: VideoOptions) -> int | None:
        """Tokens of a frame with its mark, where they do not depend on the shape of the clip."""
        scale = self._frame_processor(options)
        if scale.mode not in ("pad", "crop"):
            return None
        mark = self.tokenizer.encode(time_mark(options.num_frames, 1000.0) + "\n")
        return num_image_tokens(scale.image_size, scale.image_size) + (
            len(mark) if options.has_time_marks else 0
        )

    def _clip_tokens(self, clip: PreparedVideo) -> int:
        """Tokens of a clip with its marks, but for the line end after it."""
        marks = 0
        if clip.has_time_marks:
            marks = sum(
                len(self.tokenizer.encode(time_mark(index, time_s) + "\n"))
                for index, time_s in enumerate(clip.times_s)
            )
        return clip.num_tokens + marks

    def _room_for_frames(self, messages: Sequence[Message], *, num_new_tokens: int) -> int:
        """Tokens of the context that text, pictures and open clips leave."""
        without_clips = [
            Message(
                message.role,
                tuple(
                    TextPart("\n") if _is_closed_clip(part) else part for part in message.content
                ),
            )
            for message in messages
        ]
        segments = render(
            without_clips, self.tokenizer, template=self.conv_mode, add_generation_prompt=False
        )
        num_text = sum(len(part.ids) for part in segments if isinstance(part, TextSegment))
        if num_new_tokens:
            num_text += 1 + len(self.tokenizer.encode("assistant\n"))
        num_image = sum(image.num_tokens for message in messages for image in message.pictures)
        return self.config.max_length - num_text - num_image - num_new_tokens

    def _too_many_frames(
        self, num_planned: int, options: VideoOptions, max_tokens: int
    ) -> ContextLengthError:
        each = self._frame_tokens(options)
        assert each is not None
        ways_out = []
        if max_tokens >= each:
            ways_out.append(f"lower num_frames to {max_tokens // each}")
        size = self._frame_processor(options).image_size
        marks = each - num_image_tokens(size, size)
        side = PATCH_STRIDE * math.isqrt(max(max_tokens // num_planned - marks, 0))
        if MIN_IMAGE_SIZE <= side < size:
            ways_out.append(f"lower frame_size to {side}")
        missing = num_planned * each - max_tokens
        if self.config.max_length + missing <= self.config.text.max_position_embeddings:
            ways_out.append(f"raise max_length to at least {self.config.max_length + missing}")
        return ContextLengthError(
            f"{num_planned} frames x {each} tokens = {num_planned * each} exceeds the {max(max_tokens, 0)} that "
            f"text and pictures leave of max_length {self.config.max_length}; "
            f"{' or '.join(ways_out) or 'shorten the text'}"
        )

    def _check_length(
        self, num_text: int, image_tokens: tuple[int, ...], *, num_new_tokens: int
    ) -> None:
        """Raise unless prompt and at least `num_new_tokens` of the answer fit; say what would."""
        max_length = self.config.max_length
        total = num_text + sum(image_tokens) + num_new_tokens
        if total <= max_length:
            return
        ways_out = []
        room = max_length - num_new_tokens - num_text
        num_images = len(image_tokens)
        num_fitting = sum(length <= room for length in accumulate(image_tokens))
        if 0 < num_fitting < num_images:
            ways_out.append(f"send only {num_fitting} of the {num_images} pictures")
        side = PATCH_STRIDE * math.isqrt(max(room, 0) // num_images) if num_images else 0
        if (
            self.config.image_mode in ("pad", "crop")
            and MIN_IMAGE_SIZE <= side < self.config.image_size
        ):
            ways_out.append(f"lower image_size to {side}")
        if total - max_length < num_text:
            ways_out.append(f"shorten the text by {total - max_length} tokens")
        if total <= self.config.text.max_position_embeddings:
            ways_out.append(f"raise max_length to at least {total}")
        answer = f" + {num_new_tokens} for the answer" if num_new_tokens else ""
        raise ContextLengthError(
            f"{sum(image_tokens)} tokens of {num_images} pictures + {num_text} of text{answer} = {total} "
            f"exceeds max_length {max_length}; {' or '.join(ways_out) or 'start a new conversation'}"
        )


def _is_closed_clip(part: Part) -> bool:
    return isinstance(part, VideoPart) and not isinstance(part.video, PreparedVideo)


def _has_closed_clip(message: Message) -> bool:
    return any(_is_closed_clip(part) for part in message.content)


def _join(
    segments: Sequence[Segment], image_tokens: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids [T] with each picture at its full length, and labels [T]."""
    input_ids: list[int] = []
    labels: list[int] = []
    for segment in segments:
        if isinstance(segment, ImageSegment):
            ids: Sequence[int] = [IMAGE_TOKEN_ID] * image_tokens[segment.index]
            is_trainable = False
        else:
            ids, is_trainable = segment.ids, segment.is_trainable
        input_ids += ids
        labels += ids if is_trainable else [IGNORE_INDEX] * len(ids)
    return np.array(input_ids, np.int64), np.array(labels, np.int64)
