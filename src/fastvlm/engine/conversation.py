"""A conversation that remembers: every turn is really sent again, with its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastvlm.engine.answer import Answer, AnswerStream
from fastvlm.engine.options import OptionKeywords
from fastvlm.messages import ImageSource, Message, user_message


class Conversation:
    """Turns so far, and `ask` and `stream` for the next one. Made by `Engine.chat`.

    Example:
        >>> chat = model.chat()  # doctest: +SKIP
        >>> chat.ask("What is in the picture?", images=["scene.png"]).text  # doctest: +SKIP
        >>> chat.ask("And what color is it?").text  # doctest: +SKIP
    """

    def __init__(
        self,
        start: Callable[..., AnswerStream],
        open_image: Callable[[ImageSource], ImageSource],
        *,
        system: str | None = None,
        options: OptionKeywords | None = None,
    ) -> None:
        self._start, self._open_image = start, open_image
        self._options: OptionKeywords = options or {}
        self.system = system
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system text."""
        self.messages = [] if self.system is None else [Message.from_text("system", self.system)]

    def ask(self, prompt: str, images: Sequence[ImageSource] = ()) -> Answer:
        """Answer the next turn."""
        return self.stream(prompt, images).answer

    def stream(self, prompt: str, images: Sequence[ImageSource] = ()) -> AnswerStream:
        """Answer the next turn piece by piece. The turn counts once the answer is finished or cancelled.

        Pictures are read from disk here, once; later changes to the files do not change the conversation.
        """
        question = user_message(prompt, *map(self._open_image, images))
        stream = self._start([*self.messages, question], **self._options)
        stream.when_finished(
            lambda answer: self.messages.extend(
                [question, Message.from_text("assistant", answer.text)]
            )
        )
        return stream
