"""A conversation that remembers: every turn is really sent again, with its pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from fastvlm.engine.answer import Answer, AnswerStream
from fastvlm.engine.options import GenerationOptions
from fastvlm.inputs import PreparedImage
from fastvlm.messages import ImageSource, Message, as_image_sources, user_message


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
        prepare_image: Callable[[ImageSource], PreparedImage],
        *,
        options: GenerationOptions,
        system: str | None = None,
    ) -> None:
        self._start, self._prepare_image = start, prepare_image
        self.options = options
        self.system = system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system text."""
        self.messages = [] if self.system is None else [Message.from_text("system", self.system)]

    def ask(self, prompt: str, images: ImageSource | Iterable[ImageSource] = ()) -> Answer:
        """Answer the next turn."""
        return self.stream(prompt, images).answer

    def stream(self, prompt: str, images: ImageSource | Iterable[ImageSource] = ()) -> AnswerStream:
        """Answer the next turn piece by piece. The turn counts once the answer is finished or cancelled.

        Pictures are read and scaled here, once; later changes to them do not change the conversation.
        """
        received_at = time.perf_counter()
        question = user_message(prompt, *map(self._prepare_image, as_image_sources(images)))
        stream = self._start([*self.messages, question], self.options, received_at)
        stream.when_finished(
            lambda answer: self.messages.extend(
                [question, Message.from_text("assistant", answer.text)]
            )
        )
        return stream
