"""One question about a clip: as a whole, window by window, or frame by frame; a reply each time one is ready."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeAlias

from fastvlm.cli.session import first_interrupt, note
from fastvlm.engine.video_windows import Window, keyframe_instants, plan_windows
from fastvlm.errors import MediaError
from fastvlm.inputs import PreparedVideo
from fastvlm.messages import ImagePart, Message, TextPart, VideoOptions, VideoPart
from fastvlm.processing.video import (
    Frame,
    VideoLimits,
    keyframe_times,
    probe_video,
    read_frames,
)

if TYPE_CHECKING:
    from fastvlm.engine import Answer, Engine
    from fastvlm.engine.options import OptionKeywords
    from fastvlm.messages import Part

Mode: TypeAlias = Literal["joint", "per-frame"]

_ALL_SCENES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipQuestion:
    """What is asked about a clip, and how."""

    prompt: str
    system: str | None
    mode: Mode
    video: VideoOptions
    has_keyframes: bool
    window_s: float | None
    stride_s: float | None
    batch_size: int
    keywords: OptionKeywords

    @property
    def is_one_answer(self) -> bool:
        """Whether there is one answer about the whole clip."""
        return self.mode == "joint" and self.window_s is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer about a part of a clip.

    Attributes:
        start_s: where the part begins; of a frame, when it is shown.
        end_s: how long the answer stands.
        times_s: when the frames that the model saw are shown.
        frame_tokens: tokens of one frame.
        answer: what the model said.
    """

    start_s: float
    end_s: float
    times_s: tuple[float, ...]
    frame_tokens: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class _TimedFrame:
    """A frame, when its answer ends, and how long reading it took."""

    frame: Frame
    end_s: float
    read_s: float


class ClipReader:
    """Asks one question about one clip.

    Args:
        engine: the model; `engine.processor` says how clips are read.
        question: what is asked.
        source: path or bytes of the clip.
        needs_end: the end of the clip matters even for one answer about all of it.
        is_quiet: no notes on stderr.

    Raises:
        MediaError: the clip cannot be read, or does not reach the part that is asked about.
        ConfigError: windows that cannot be.
    """

    def __init__(
        self,
        engine: Engine,
        question: ClipQuestion,
        source: str | bytes,
        *,
        needs_end: bool,
        is_quiet: bool,
    ) -> None:
        self._engine, self._question, self._source = engine, question, source
        self._is_quiet = is_quiet
        self._limits = engine.processor.video_limits or VideoLimits()
        self._is_trusted = engine.processor.trusts_videos
        is_simple = question.is_one_answer and not needs_end and not question.has_keyframes
        self.windows = [_to_the_end(question.video)] if is_simple else self._plan()
        self._scenes_s: list[float] = []
        self._num_planned = self._num_shown = 0
        self._has_told = is_quiet
        if question.has_keyframes:
            self._scenes_s = keyframe_times(
                source, limits=self._limits, max_frames=_ALL_SCENES, is_trusted=self._is_trusted
            )

    @property
    def span_s(self) -> tuple[float, float]:
        """Start and end of the part that is asked about."""
        return self.windows[0].start_s, self.windows[-1].end_s

    def replies(self, on_piece: Callable[[str], None] | None = None) -> Iterator[Reply]:
        """Answers in order of time; the last one is cancelled if Ctrl-C came.

        Args:
            on_piece: takes the text of one answer about the whole clip as it is written.

        Raises:
            MediaError: the clip is damaged.
            ContextLengthError: the frames of a window do not fit the context.
        """
        is_joint = self._question.mode == "joint"
        yield from self._by_window(on_piece) if is_joint else self._by_frame()
        if self._question.has_keyframes and not self._is_quiet:
            num_inside = sum(self.span_s[0] <= scene < self.span_s[1] for scene in self._scenes_s)
            note(
                f"keyframes: {num_inside} {'scene' if num_inside == 1 else 'scenes'}, {self._num_planned} frames looked at, "
                f"{self._num_planned - self._num_shown} left out because they look like the one before"
            )

    def _plan(self) -> list[Window]:
        options = self._question.video
        duration_s = probe_video(
            self._source, limits=self._limits, is_trusted=self._is_trusted
        ).duration_s
        end_s = duration_s if options.end_s is None else min(options.end_s, duration_s)
        if options.start_s >= end_s:
            raise MediaError(
                f"start_s is {options.start_s:g}, but the clip is {duration_s:.3f} s long"
            )
        if self._question.window_s is None:
            return [Window(options.start_s, end_s, end_s)]
        return plan_windows(
            options.start_s,
            end_s,
            window_s=self._question.window_s,
            stride_s=self._question.stride_s,
        )

    def _options(self, window: Window) -> VideoOptions:
        """What to read for a window."""
        options = self._question.video
        if self._question.has_keyframes:
            instants = keyframe_instants(self._scenes_s, window, options.num_frames)
            self._num_planned += len(instants)
            options = replace(options, sampling="timestamps", timestamps_s=instants)
        if self._question.window_s is None:
            return options
        return replace(options, start_s=window.start_s, end_s=window.end_s)

    def _by_window(self, on_piece: Callable[[str], None] | None) -> Iterator[Reply]:
        for window in self.windows:
            received_at = time.perf_counter()
            options = self._options(window)
            messages = self._engine.processor.prepare(
                self._messages(VideoPart(self._source, options))
            )
            read_s = time.perf_counter() - received_at
            (clip,) = _clips(messages)
            self._tell_if_cut(options, clip.times_s)
            self._num_shown += len(clip.frames)
            stream = self._engine.stream(messages, **self._question.keywords)
            with first_interrupt(stream.cancel):
                for piece in stream:
                    if on_piece is not None:
                        on_piece(piece)
                answer = _with_reading(stream.answer, read_s)
            yield Reply(
                start_s=window.start_s,
                end_s=window.until_s,
                times_s=clip.times_s,
                frame_tokens=clip.frames[0].num_tokens,
                answer=answer,
            )
            if answer.finish_reason == "cancelled":
                return

    def _by_frame(self) -> Iterator[Reply]:
        frames = self._frames()
        while batch := list(islice(frames, self._question.batch_size)):
            self._num_shown += len(batch)
            cancelled = threading.Event()
            conversations = [self._messages(ImagePart(one.frame.image)) for one in batch]
            with first_interrupt(cancelled.set):
                answers = self._engine.generate(
                    conversations, cancelled=cancelled, **self._question.keywords
                )
            for one, answer in zip(batch, answers, strict=True):
                yield Reply(
                    start_s=one.frame.time_s,
                    end_s=one.end_s,
                    times_s=(one.frame.time_s,),
                    frame_tokens=answer.usage.image_tokens,
                    answer=_with_reading(answer, one.read_s),
                )
                if answer.finish_reason == "cancelled":
                    return

    def _frames(self) -> Iterator[_TimedFrame]:
        """Frames of all windows, each once, one ahead of the model, so that their ends are known.

        Sampling takes the frame at the end of a part too; it belongs to the next part, if to any.
        """
        held: Frame | None = None
        held_until, held_read_s = 0.0, 0.0
        for window in self.windows:
            options, times_s = self._options(window), list[float]()
            started = time.perf_counter()
            with read_frames(
                self._source, options, limits=self._limits, is_trusted=self._is_trusted
            ) as reader:
                for frame in reader:
                    read_s = time.perf_counter() - started
                    times_s.append(frame.time_s)
                    if held is None or held.time_s < frame.time_s < window.end_s:
                        if held is not None:
                            end_s = min(frame.time_s, max(held_until, held.time_s + 0.001))
                            yield _TimedFrame(held, end_s, held_read_s)
                        held, held_until, held_read_s = frame, window.until_s, read_s
                    started = time.perf_counter()
            self._tell_if_cut(options, times_s)
        if held is not None:
            yield _TimedFrame(held, held_until, held_read_s)

    def _messages(self, part: Part) -> list[Message]:
        question = Message("user", (part, TextPart(self._question.prompt)))
        system = self._question.system
        return [question] if system is None else [Message.from_text("system", system), question]

    def _tell_if_cut(self, options: VideoOptions, times_s: Sequence[float]) -> None:
        """Say so once when a rate gave more frames than are taken, and evenly spaced ones took their place."""
        if options.fps is None or len(times_s) < max(options.num_frames, 2) or self._has_told:
            return
        step_s = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
        if step_s * options.fps > 1.01:
            self._has_told = True
            note(
                f"--fps {options.fps:g} gives more than {options.num_frames} frames here; took as many, one every "
                f"{step_s:.2f} s (more --frames, or --window, shows more)"
            )


def _to_the_end(options: VideoOptions) -> Window:
    end_s = math.inf if options.end_s is None else options.end_s
    return Window(options.start_s, end_s, end_s)


def _clips(messages: Sequence[Message]) -> list[PreparedVideo]:
    parts = (part for message in messages for part in message.content)
    return [
        part.video
        for part in parts
        if isinstance(part, VideoPart) and isinstance(part.video, PreparedVideo)
    ]


def _with_reading(answer: Answer, read_s: float) -> Answer:
    """Timings from receipt of the request on, the reading of the clip included."""
    timings = replace(
        answer.timings,
        preprocess_ms=answer.timings.preprocess_ms + read_s * 1000,
        ttft_ms=answer.timings.ttft_ms + read_s * 1000,
    )
    return replace(answer, timings=timings)
