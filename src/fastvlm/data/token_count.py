"""How many tokens a record takes, without scaling a picture or decoding a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fastvlm.config import num_image_tokens
from fastvlm.data.media_probe import MediaFacts
from fastvlm.data.record import Record
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import Message, Part, TextPart, VideoOptions, VideoPart
from fastvlm.processing.chat_template import TextSegment, render
from fastvlm.processing.image import ImageProcessor
from fastvlm.processing.processor import Processor


def count_tokens(record: Record, facts: Sequence[MediaFacts], processor: Processor) -> int:
    """Tokens of a record as training sees it, pictures and frames included.

    Exact where all media were opened, but for clips whose options leave frames out by what is in them. Of media that
    were not opened, pictures count as squares and clips with all frames that are asked for.

    Args:
        record: the record.
        facts: one for each of `record.media`.
        processor: of the model.
    """
    waiting = iter(facts)
    num_media_tokens = 0
    messages = []
    for message in record.messages:
        parts: list[Part] = []
        for part in message.content:
            if isinstance(part, TextPart):
                parts.append(part)
                continue
            fact = next(waiting)
            scale = processor.image_processor
            num_pictures = 1
            if isinstance(part, VideoPart):
                times_s = _frame_times(part.options, fact)
                num_pictures = len(times_s)
                if part.options.frame_size is not None:
                    scale = replace(scale, image_size=part.options.frame_size)
                part = VideoPart(PreparedVideo((), times_s, part.options.has_time_marks))
            num_media_tokens += num_pictures * _picture_tokens(scale, fact)
            parts.append(part)
        messages.append(Message(message.role, tuple(parts)))
    segments = render(
        messages, processor.tokenizer, template=processor.conv_mode, add_generation_prompt=False
    )
    return num_media_tokens + sum(
        len(segment.ids) for segment in segments if isinstance(segment, TextSegment)
    )


def _picture_tokens(scale: ImageProcessor, fact: MediaFacts) -> int:
    if fact.width is None or fact.height is None or scale.mode in ("pad", "crop"):
        side = scale.image_size
        if scale.mode != "anyres":
            return num_image_tokens(side, side)
        return scale.num_tokens(side, side)
    return scale.num_tokens(fact.width, fact.height)


def _frame_times(options: VideoOptions, fact: MediaFacts) -> tuple[float, ...]:
    """About when frames are taken: a number for each, as wide as the true one when it is written."""
    wanted = len(options.timestamps_s) or options.num_frames
    duration_s = fact.duration_s or 0.0
    end_s = min(options.end_s or duration_s, duration_s)
    if options.fps is not None and fact.duration_s is not None:
        wanted = min(wanted, max(math.ceil((end_s - options.start_s) * options.fps), 1))
    count = min(wanted, fact.num_frames or wanted)
    step = max(end_s - options.start_s, 0.0) / max(count, 1)
    return tuple(options.start_s + step * number for number in range(count))
