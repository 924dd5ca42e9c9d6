"""A conversation that remembers: every turn is really sent again, with its pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from fastvlm.engine.answer import Answer, AnswerStream
from fastvlm.engine.options import GenerationOptions
from fastvlm.messages import (
    ImageSource,
    Message,
    VideoOptions,
    VideoPart,
    VideoSource,
    as_image_sources,
    as_video_sources,
    user_message,
)


class Conversation:
    """Turns so far, and `ask` and `stream` for the next one. Made by `Engine.chat`.

    Example:
        >>> chat = model.chat()  # doctest: +SKIP
        >>> chat.ask("What is in the picture?", images=["scene.png"]).text  # doctest: +SKIP
        >>> chat.ask("And what color is it?").text  # doctest: +SKIP
    """

    def __init__(
        self,
        start: Callable[[Sequence[Message], GenerationOptions, float], AnswerStream],
        prepare: Callable[[Sequence[Message]], tuple[Message, ...]],
        *,
        options: GenerationOptions,
        system: str | None = None,
    ) -> None:
        self._start, self._prepare = start, prepare
        self.options = options
        self.system = system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system text."""
        self.messages = [] if self.system is None else [Message.from_text("system", self.system)]

    def ask(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        videos: VideoSource | Iterable[VideoSource] = (),
        video_options: VideoOptions | None = None,
    ) -> Answer:
        """Answer the next turn."""
        return self.stream(prompt, images, videos=videos, video_options=video_options).answer

    def stream(
        self,
        prompt: str,
        images: ImageSource | Iterable[ImageSource] = (),
        *,
        videos: VideoSource | Iterable[VideoSource] = (),
        video_options: VideoOptions | None = None,
    ) -> AnswerStream:
        """Answer the next turn piece by piece. The turn counts once the answer is finished or cancelled.

        Pictures and clips are read and scaled here, once; later changes to them do not change the conversation.
        """
        received_at = time.perf_counter()
        options = video_options or VideoOptions()
        clips = (VideoPart(video, options) for video in as_video_sources(videos))
        asked = user_message(prompt, *as_image_sources(images), *clips)
        *_, question = messages = self._prepare([*self.messages, asked])
        stream = self._start(messages, self.options, received_at)
        stream.when_finished(
            lambda answer: self.messages.extend(
                [question, Message.from_text("assistant", answer.text)]
            )
        )
        return stream
