"""A tiny random FastVLM with a real tokenizer: it talks nonsense, but the same nonsense every time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fastvlm.backends.torch_backend import TorchBackend
from fastvlm.config import FastVLMConfig, TextConfig, VisionConfig
from fastvlm.engine import Engine
from fastvlm.model import FastVLM
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer

TINY = FastVLMConfig(
    vision=VisionConfig(
        depths=(1, 1, 1, 1, 1),
        widths=(16, 16, 32, 32, 64),
        mlp_ratios=(1, 1, 1, 1, 1),
        layer_scale_init=0.3,
    ),
    text=TextConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=704,
        tie_word_embeddings=False,
    ),
    image_size=128,
    max_length=256,
)


@pytest.fixture
def tiny_engine(small_tokenizer: Tokenizer) -> Engine:
    torch.manual_seed(3)
    config = replace(
        TINY, text=replace(TINY.text, vocab_size=64 * (small_tokenizer.vocab_size // 64 + 1))
    )
    model = FastVLM(config)
    for parameter in model.language_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return Engine(TorchBackend(model), Processor(config, small_tokenizer), name="tiny")
