"""What tests of several folders need: a small tokenizer of Qwen2's kind, trained here in milliseconds."""

import pytest

from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.processing.tokenizer_training import train_tokenizer

TEXTS = (
    "You are a helpful assistant.",
    "system\nuser\nassistant\n",
    "What color is the circle? The circle is red. What shape is left of it? A blue square.",
    "How many shapes are there? There are 12 shapes, and I'm not sure what they've drawn.",
    "Naïve café, Straße, Ελλάδα, Привет мир, 你好世界, こんにちは, नमस्ते, שלום, 👩‍👩‍👧 🇩🇪",
    "  two  spaces\tand a tab\r\n\r\nand lines\n\n\nend",
)


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS * 4, 640)
