"""The tokenizer of `nano`: Qwen2's kind, its merges learned from what the drawn world says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from fastvlm.data.synthetic.fonts import NUM_TRAINING_FONTS
from fastvlm.data.synthetic.questions import sample_dialogues
from fastvlm.data.synthetic.sample import SceneMix, sample_scene
from fastvlm.processing.chat_template import DEFAULT_SYSTEM
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.processing.tokenizer_training import train_tokenizer

VOCAB_SIZE: Final = 620
"""Enough that every word of the world is one token; below the 640 rows of the embedding."""
_NUM_SCENES: Final = 4000
_SEED: Final = 20_000


def train_nano_tokenizer() -> Tokenizer:
    """The same tokenizer on every machine."""
    return train_tokenizer(_texts(), VOCAB_SIZE)


def _texts() -> Iterator[str]:
    rng = np.random.default_rng(_SEED)
    yield from [f"system\n{DEFAULT_SYSTEM}", "user\n", "assistant\n"] * 1000
    for _ in range(_NUM_SCENES):
        scene = sample_scene(rng, SceneMix(), num_fonts=NUM_TRAINING_FONTS)
        for dialogue in sample_dialogues(rng, scene, 7):
            for turn in dialogue:
                yield f"\n{turn.question}"
                yield f"{turn.answer}"
