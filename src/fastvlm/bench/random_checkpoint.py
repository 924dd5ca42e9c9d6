"""A checkpoint folder of full size with random weights: speed and memory do not depend on what was learned.

Weights are drawn tensor by tensor while the files are written, so that a 7B folder needs the memory of one tensor.
They are scaled so that activations stay finite in bfloat16 and no part of the network dies out: convolutions of
variance-keeping size, depthwise mixers near the identity, layer scales of 0.2. In the decoder, attention weighs about
as much as the embedding of the last token and the other layers outweigh both, so that greedy answers depend on the
picture and change from token to token: systems that agree on them agree for a reason.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from fastvlm.bench.protocol import PROMPT
from fastvlm.checkpoint.empty_model import empty_model
from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout, key_map
from fastvlm.checkpoint.load import EMBEDDINGS, OUTPUT_LAYER
from fastvlm.checkpoint.save import MAX_SHARD_BYTES, clip_head, new_folder, write_companions
from fastvlm.checkpoint.shards import PlannedTensor, write_shards
from fastvlm.config import FastVLMConfig
from fastvlm.processing.chat_template import DEFAULT_SYSTEM
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.processing.tokenizer_training import train_tokenizer

LAYER_SCALE = 0.2
EMBEDDING_STD = ATTENTION_GAIN = 0.1
_IDENTITY_NOISE = 0.05


def write_random_checkpoint(
    folder: Path,
    config: FastVLMConfig,
    *,
    layout: Layout,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a complete checkpoint folder: weights, config.json, tokenizer, and processor files for layout hf.

    A seed gives the same network in both layouts. A tied output layer is stored in layout apple, as in the
    released folders, and left out in layout hf.

    Args:
        folder: must not exist or be empty.
        config: the network, e.g. a preset.
        layout: the published layout.
        dtype: of the weights.
        seed: another one gives other weights.
        max_shard_bytes: largest weight file.

    Raises:
        CheckpointError: the folder is taken or cannot be written.
        ConfigError: the vocabulary cannot hold the 256 bytes, or the layout cannot describe the network.
    """
    state = empty_model(config).state_dict()
    if config.text.tie_word_embeddings and layout == "hf":
        del state[OUTPUT_LAYER]
    keys = key_map(layout, config)
    names = {keys.to_layout(name): name for name in state}
    planned = [
        PlannedTensor(key, _stored_dtype(state[name], dtype), tuple(state[name].shape))
        for key, name in names.items()
    ]
    head, _ = clip_head(config, layout, dtype, source=None)
    if head is not None:
        planned.append(PlannedTensor(CLIP_HEAD, dtype, tuple(head.shape)))

    def read(key: str) -> Tensor:
        if key == CLIP_HEAD and head is not None:
            return head
        name = names[key]
        if name == OUTPUT_LAYER and config.text.tie_word_embeddings:
            name = EMBEDDINGS
        stored = _stored_dtype(state[name], dtype)
        return random_tensor(name, tuple(state[name].shape), seed=seed).to(stored)

    with new_folder(folder, overwrite=False) as staging:
        small_tokenizer(config.text.vocab_size).save(staging)
        write_companions(staging, config, layout, dtype=dtype, source=None)
        write_shards(staging, planned, read, max_shard_bytes=max_shard_bytes)


def small_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer that writes the words of the benchmark as single tokens, as Qwen2's does.

    Prompts then have the length that they have with the released tokenizer. The rest of the vocabulary stays
    unused, one row at least: layout hf puts its image token there.

    Raises:
        ConfigError: fewer rows than bytes and control tokens.
    """
    texts = [DEFAULT_SYSTEM, "system\n", "user\n", "assistant\n", f"\n{PROMPT}"]
    return train_tokenizer(texts * 4, min(vocab_size - 1, 640))


def random_tensor(name: str, shape: tuple[int, ...], *, seed: int) -> Tensor:
    """The tensor of that name, float32; it depends on nothing but name, shape and seed."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape)
    if name.endswith(".gamma"):
        return torch.full(shape, LAYER_SCALE)
    if len(shape) == 1:  # norms start as the identity, biases at zero
        is_norm = name.endswith(("running_var", "norm.weight", "layernorm.weight", ".bn.weight"))
        return torch.ones(shape) if is_norm else torch.zeros(shape)
    noise = torch.randn(shape, generator=generator)
    if name in (EMBEDDINGS, OUTPUT_LAYER):
        return noise * EMBEDDING_STD
    if name.startswith("language_model."):
        gain = ATTENTION_GAIN if name.endswith("o_proj.weight") else 1
        return noise * gain / math.sqrt(shape[1])
    if ".token_mixer.reparam_conv." in name or ".pos_emb." in name:
        return torch.nn.init.dirac_(torch.empty(shape), shape[0]) + noise * _IDENTITY_NOISE
    return noise * math.sqrt(
        2 / math.prod(shape[1:])
    )  # He: half of the variance passes an activation


def _stored_dtype(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype
