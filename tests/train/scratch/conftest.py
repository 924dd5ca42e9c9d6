"""The tokenizer of nano, trained once."""

import pytest

from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.scratch.nano_tokenizer import train_nano_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_nano_tokenizer()
