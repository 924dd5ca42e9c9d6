"""One process of a training run: `python -m fastvlm.train.scratch.worker`, started by `train.launch`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
from torch import nn

from fastvlm.config import preset
from fastvlm.model.fastvlm import FastVLM
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.scratch.answer_objective import AnswerObjective
from fastvlm.train.scratch.encoder_objective import EncoderHeads, EncoderObjective
from fastvlm.train.scratch.loop import Progress, Trainee, train
from fastvlm.train.scratch.parallel import Team
from fastvlm.train.scratch.recipe import Recipe, recipe
from fastvlm.train.scratch.state import read_settings


def build_trainee(recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> Trainee:
    """The network with fresh weights that follow from the recipe's seed, and what it is trained on."""
    torch.manual_seed(recipe.seed)
    config = preset(recipe.name, form="branched")
    model = FastVLM(config)
    # PyTorch's rows of length one would drown the rest of a small tied output layer.
    nn.init.normal_(model.language_model.embed_tokens.weight, std=0.04)
    heads = EncoderHeads(config.vision.hidden_size)
    modules = nn.ModuleDict({"model": model, "heads": heads}).to(device)
    model.vision_tower.to(memory_format=torch.channels_last)
    encoder = EncoderObjective(model.vision_tower, heads, config.image_size, device)
    answers = AnswerObjective(model, heads, tokenizer, device)
    return Trainee(modules, {"tiles": encoder, "cells": encoder, "answers": answers})


def run(folder: Path, rank: int) -> int:
    """Train as process `rank` of the run in `folder`; 0 when finished, 3 when stopped before the end."""
    settings = read_settings(folder)
    device = torch.device(settings.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    chosen = recipe(settings.recipe).scaled(settings.steps_scale)
    stop_signals: list[int] = []
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda number, _: stop_signals.append(number))
    team = Team.join(rank, settings.num_workers, folder / ".meeting")
    try:
        is_finished = train(
            build_trainee(chosen, Tokenizer.from_folder(folder), device),
            chosen,
            folder,
            team=team,
            report=_print_line,
            should_stop=lambda: bool(stop_signals),
        )
    finally:
        team.leave()
    return 0 if is_finished else 3


def _print_line(progress: Progress) -> None:
    """One line on standard output that `train.launch` turns into a progress bar."""
    accuracies = " ".join(f"{name} {value:.2f}" for name, value in progress.accuracies.items())
    line = (
        f"{progress.stage.name}\t{progress.step}\t{progress.num_steps}\t{progress.loss:.3f}\t"
        f"{progress.samples_per_second:.0f}\t{accuracies}\n"
    )
    sys.stdout.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(run(Path(sys.argv[1]), int(sys.argv[2])))
