"""Which parameters are trained, at which rate, and which of them decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from fastvlm.train.network import TuningNetwork
from fastvlm.train.settings import TuneSettings

PARTS: Final = ("vision_tower", "projector", "language_model")


@dataclass(frozen=True, slots=True)
class PartRow:
    """One line of the table that is printed and saved before the first step."""

    group: str
    parameters: int
    trained: int
    learning_rate: float


def part_of(name: str) -> str:
    """The part that a parameter of `TuningNetwork` belongs to; the output layer counts as language model."""
    inner = name.removeprefix("model.")
    return next((part for part in PARTS if inner.startswith(f"{part}.")), "language_model")


def choose_trained(network: TuningNetwork, settings: TuneSettings) -> None:
    """Set `requires_grad`; with adapters, the language model's own weights stay frozen."""
    is_trained = {
        "vision_tower": settings.train_vision_tower,
        "projector": settings.train_projector,
        "language_model": settings.train_language_model,
    }
    for name, parameter in network.named_parameters():
        wanted = is_trained[part_of(name)]
        if settings.lora_rank and part_of(name) == "language_model":
            wanted = "lora_" in name
        if parameter.is_floating_point():
            parameter.requires_grad_(wanted)


def list_parts(network: nn.Module, settings: TuneSettings) -> tuple[PartRow, ...]:
    """Parameters of each part, and how many of them are trained."""
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in network.named_parameters():
        of_part = counts[part_of(name)]
        # Two weights of 4 bits share a byte.
        count = parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)
        of_part[0] += count
        of_part[1] += count if parameter.requires_grad else 0
    return tuple(
        PartRow(part, total, trained, settings.rate_of(part) if trained else 0.0)
        for part, (total, trained) in counts.items()
    )


def optimizer_groups(network: nn.Module, settings: TuneSettings) -> list[dict[str, Any]]:
    """Groups for AdamW, one for each part and kind of weight.

    Norms, biases and layer scales never decay: they have one number a channel, whatever their shape.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            has_decay = sum(size > 1 for size in parameter.shape) > 1
            groups.setdefault((part_of(name), has_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.rate_of(part),
            "weight_decay": settings.weight_decay if has_decay else 0.0,
            "part": part,
        }
        for (part, has_decay), parameters in groups.items()
    ]
