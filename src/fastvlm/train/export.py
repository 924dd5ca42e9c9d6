"""Adapters and their base model to a full model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.hub import resolve_model
from fastvlm.checkpoint.keymap import Layout, key_map
from fastvlm.checkpoint.load import EMBEDDINGS, load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.checkpoint.shards import DTYPES, list_tensors
from fastvlm.config import FastVLMConfig
from fastvlm.errors import CheckpointError
from fastvlm.model.fastvlm import FastVLM
from fastvlm.train.lora import merge_adapter


def merge_folders(model: str, adapter: Path, folder: Path, *, layout: Layout = "apple") -> None:
    """Add the adapters of a PEFT folder to their base model, and write the result.

    Raises:
        CheckpointError: a folder cannot be read, does not fit, or is taken.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; give another folder")
    base = resolve_model(model)
    network, _ = load_model(base, dtype=torch.float32)
    merge_adapter(network, adapter)
    write_model(network, network.config, folder, base=base, layout=layout)


def write_model(
    model: FastVLM, config: FastVLMConfig, folder: Path, *, base: Path, layout: Layout
) -> None:
    """Write a tuned model in the dtype of its base, with the image policy it was trained with.

    Args:
        model: float32 weights.
        config: replaces the model's: picture size and mode as trained, the longest context as it was.
        folder: written beside its place, then renamed into it.
        base: gives tokenizer, licence and dtype.
        layout: the layout to write.
    """
    model.config = config
    _, stored_layout = read_config(base)
    embeddings = list_tensors(base)[key_map(stored_layout, config).to_layout(EMBEDDINGS)]
    save_model(
        model,
        folder,
        layout=layout,
        dtype=DTYPES[embeddings.dtype],
        tokenizer_from=base,
        overwrite=True,
    )
