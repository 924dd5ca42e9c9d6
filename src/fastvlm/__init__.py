"""FastVLM: ask a vision-language model about pictures.

Example:
    >>> from fastvlm import load
    >>> model = load("nano")  # doctest: +SKIP
    >>> answer = model.ask("What color is the circle?", images=["scene.png"])  # doctest: +SKIP
    >>> print(answer.text)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvlm.engine import Answer, AnswerStream, Conversation, Engine, GenerationOptions
    from fastvlm.errors import FastVLMError
    from fastvlm.messages import ImagePart, Message, TextPart, user_message

    load = Engine.load

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "AnswerStream",
    "Conversation",
    "Engine",
    "FastVLMError",
    "GenerationOptions",
    "ImagePart",
    "Message",
    "TextPart",
    "load",
    "user_message",
]

_HOMES = {
    "FastVLMError": "fastvlm.errors",
    "ImagePart": "fastvlm.messages",
    "Message": "fastvlm.messages",
    "TextPart": "fastvlm.messages",
    "user_message": "fastvlm.messages",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import on first use: `import fastvlm` alone must not cost the seconds that torch takes."""
    if name not in __all__:
        raise AttributeError(f"module 'fastvlm' has no attribute {name!r}")
    if name == "load":
        return import_module("fastvlm.engine").Engine.load
    return getattr(import_module(_HOMES.get(name, "fastvlm.engine")), name)
