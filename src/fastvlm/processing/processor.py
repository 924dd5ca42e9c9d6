"""Messages to `ModelInputs`: pictures opened and scaled, text rendered, every length final and checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from fastvlm.config import PATCH_STRIDE, FastVLMConfig, num_image_tokens
from fastvlm.errors import ConfigError, ContextLengthError
from fastvlm.inputs import IGNORE_INDEX, IMAGE_TOKEN_ID, ModelInputs, PreparedImage
from fastvlm.messages import ImageSource, Message
from fastvlm.processing.chat_template import ConvMode, ImageSegment, Segment, TextSegment, render
from fastvlm.processing.image import MIN_IMAGE_SIZE, ImageProcessor
from fastvlm.processing.image_file import DEFAULT_LIMITS, ImageLimits, open_image
from fastvlm.processing.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Processor:
    """Prepares conversations for one model.

    `processor(messages)` does all of it; a caller that keeps pictures (a chat, a cache) calls
    `prepare_image` once for each and `assemble` for every turn.

    Args:
        config: sizes of the model and how its pictures are scaled.
        tokenizer: of the same model.
        image_processor: takes the place of the one that `config` describes.
        limits: how large a picture may be.
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
        images = [self.prepare_image(image) for message in messages for image in message.images]
        return self.assemble(
            messages, images, with_labels=with_labels, add_generation_prompt=add_generation_prompt
        )

    def prepare_image(self, source: ImageSource) -> PreparedImage:
        """Open, turn and scale one picture; one that is prepared already is given back.

        Raises:
            MediaError: it cannot be read or exceeds a limit.
            ShapeError: an array that is no picture.
        """
        if isinstance(source, PreparedImage):
            return source
        pixel_values = self.image_processor(open_image(source, limits=self.limits))
        num_tiles, _, height, width = pixel_values.shape
        digest = hashlib.sha256(repr(pixel_values.shape).encode())
        digest.update(np.ascontiguousarray(pixel_values).data)
        return PreparedImage(
            pixel_values, num_tiles * num_image_tokens(height, width), digest.hexdigest()
        )

    def assemble(
        self,
        messages: Sequence[Message],
        images: Sequence[PreparedImage],
        *,
        with_labels: bool = False,
        add_generation_prompt: bool = True,
    ) -> ModelInputs:
        """Prepare a conversation whose pictures are ready; the sources in the messages are not opened.

        Args:
            messages: the conversation.
            images: one for each picture of the messages, in reading order.
            with_labels: for training: the conversation ends with an answer, and `labels` say what is learned.
            add_generation_prompt: end where the answer begins; training never does.

        Raises:
            ConfigError: another number of pictures, or turns in an order that the template does not have.
            ContextLengthError: the conversation is longer than the model's `max_length`.
        """
        num_places = sum(len(message.images) for message in messages)
        if num_places != len(images):
            raise ConfigError(
                f"the messages hold {num_places} pictures but {len(images)} were prepared; "
                "expected one each, in reading order"
            )
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
