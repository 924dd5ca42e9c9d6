"""Trains a small tokenizer of Qwen2's kind: the same pipeline and control tokens, fewer merges."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from tokenizers import pre_tokenizers, trainers

from fastvlm.errors import ConfigError
from fastvlm.processing.tokenizer import CONTROL_TOKENS, AddedToken, Tokenizer, byte_level_core

SMALLEST_VOCAB: Final = 256 + len(CONTROL_TOKENS)
"""All bytes, so that any text can be encoded, and the control tokens."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn merges from texts; the control tokens come last in the vocabulary.

    The same texts give the same tokenizer.

    Args:
        texts: what the model will read and write.
        vocab_size: most entries, control tokens included; fewer when the texts have no more pairs that
            occur twice.

    Raises:
        ConfigError: `vocab_size` cannot hold the 256 bytes and the control tokens.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise ConfigError(
            f"vocab_size {vocab_size} is too small; expected at least {SMALLEST_VOCAB}: "
            f"256 bytes and {len(CONTROL_TOKENS)} control tokens"
        )
    core = byte_level_core({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    trained = json.loads(core.to_str())["model"]
    merges = [(left, right) for left, right in trained["merges"]]
    first_id = len(trained["vocab"])
    added = {
        token: AddedToken(first_id + index, is_control=True)
        for index, token in enumerate(CONTROL_TOKENS)
    }
    return Tokenizer(byte_level_core(trained["vocab"], merges), added_tokens=added)
