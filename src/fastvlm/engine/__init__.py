"""Requests to tokens to text: the public `Engine` and what it gives back."""

from fastvlm.engine.answer import Answer, AnswerStream, FinishReason
from fastvlm.engine.conversation import Conversation
from fastvlm.engine.engine import Engine
from fastvlm.engine.options import GenerationOptions, OptionKeywords

__all__ = [
    "Answer",
    "AnswerStream",
    "Conversation",
    "Engine",
    "FinishReason",
    "GenerationOptions",
    "OptionKeywords",
]
