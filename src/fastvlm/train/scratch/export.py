"""From the state of a run to a model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from fastvlm.checkpoint.save import save_model
from fastvlm.model.fastvlm import FastVLM
from fastvlm.model.reparam import fuse
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.scratch.recipe import recipe
from fastvlm.train.scratch.state import load_modules, read_settings
from fastvlm.train.scratch.worker import build_trainee


def export_run(folder: Path, target: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write the model as it stands, fused, in the published layout with its tokenizer.

    Args:
        folder: a run with a saved state; it is not changed.
        target: the model folder; replaced if it exists.
        dtype: of the weights.

    Raises:
        ConfigError: `folder` holds no run.
        CheckpointError: the state is missing or damaged, or `target` cannot be written.
    """
    settings = read_settings(folder)
    tokenizer = Tokenizer.from_folder(folder)
    trainee = build_trainee(recipe(settings.recipe), tokenizer, torch.device("cpu"))
    load_modules(folder, trainee.modules)
    model = trainee.modules["model"]
    assert isinstance(model, FastVLM)
    model.eval().to(memory_format=torch.contiguous_format)
    save_model(
        fuse(model),
        target,
        layout="apple",
        dtype=dtype,
        tokenizer_from=folder,
        overwrite=True,
    )
