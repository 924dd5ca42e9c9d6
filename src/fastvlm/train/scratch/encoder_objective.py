"""Pre-training of the encoder on classes: one tile, or every cell of a picture and the picture as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.config import PATCH_STRIDE
from fastvlm.data.synthetic.cells import CELL_CLASSES, PICTURE_CLASSES, UNKNOWN, cell_targets
from fastvlm.data.synthetic.draw import draw_scene
from fastvlm.data.synthetic.fonts import held_out_fonts, training_fonts
from fastvlm.data.synthetic.sample import sample_scene, sample_tile
from fastvlm.data.synthetic.world import GRID, SHAPES, Scene
from fastvlm.train.scratch.recipe import Stage

_HELD_OUT_SEED: Final = 2**40
"""Far from the seeds that recipes use."""
_PLACE_HEADS: Final = ("row", "column")


class EncoderHeads(nn.Module):
    """Linear classifiers on the encoder's output; they are training state and not part of the model.

    Besides what is drawn in its cell, every feature must tell its own row and column: from that the language
    model learns to say where things are.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        places = dict.fromkeys(_PLACE_HEADS, GRID)
        self.cells = nn.ModuleDict(
            {name: nn.Linear(hidden_size, size) for name, size in (CELL_CLASSES | places).items()}
        )
        self.picture = nn.ModuleDict(
            {name: nn.Linear(hidden_size, size) for name, size in PICTURE_CLASSES.items()}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Logits by name, [N, n, classes] for cells and [N, classes] for pictures; features are [N, n, C]."""
        pooled = features.mean(1)
        logits = {name: head(features) for name, head in self.cells.items()}
        return logits | {name: head(pooled) for name, head in self.picture.items()}


@dataclass(frozen=True, slots=True, eq=False)
class CellBatch:
    """Pictures and their classes.

    Attributes:
        pixel_values: [N, 3, H, W], RGB in 0..1.
        targets: [N, n] for questions about cells, [N] for questions about pictures.
    """

    pixel_values: Tensor
    targets: dict[str, Tensor]

    def to(self, device: torch.device) -> CellBatch:
        """The same batch on another device."""
        targets = {name: value.to(device) for name, value in self.targets.items()}
        return CellBatch(self.pixel_values.to(device), targets)


def draw_cell_batch(
    rng: np.random.Generator,
    stage: Stage,
    batch_size: int,
    image_size: int,
    *,
    fonts: tuple[str, ...],
) -> CellBatch:
    """Draw a batch for the objectives `tiles` and `cells`."""
    if stage.objective == "tiles":
        image_size = PATCH_STRIDE
        scenes = [
            sample_tile(rng, num_fonts=len(fonts), is_coloured=stage.is_coloured)
            for _ in range(batch_size)
        ]
    else:
        scenes = [sample_scene(rng, stage.mix, num_fonts=len(fonts)) for _ in range(batch_size)]
    pixels = np.stack([draw_scene(scene, image_size, fonts) for scene in scenes])
    return CellBatch(to_pixel_values(pixels), batch_targets(scenes, image_size // PATCH_STRIDE))


def to_pixel_values(pixels: np.ndarray) -> Tensor:
    """[N, H, W, 3] uint8 -> [N, 3, H, W] float in 0..1, channels last in memory as convolutions like it."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)


def batch_targets(scenes: list[Scene], grid: int) -> dict[str, Tensor]:
    """Classes of all scenes, by the names of the heads."""
    every = [cell_targets(scene, grid) for scene in scenes]
    targets = {
        name: torch.from_numpy(np.stack([one.cells[name] for one in every]))
        for name in CELL_CLASSES
    }
    targets |= {
        name: torch.tensor([one.picture[name] for one in every]) for name in PICTURE_CLASSES
    }
    if grid == GRID:
        cell = torch.arange(grid * grid).expand(len(scenes), -1)
        targets |= {"row": cell // grid, "column": cell % grid}
    return targets


def cell_loss(heads: EncoderHeads, features: Tensor, targets: dict[str, Tensor]) -> Tensor:
    """Sum of the mean cross-entropies of all heads that have a target in this batch.

    Shape:
        features [N, n, C] -> []
    """
    total = features.new_zeros(())
    for name, logits in heads(features).items():
        if name not in targets:
            continue
        target = targets[name].flatten()
        if bool((target != UNKNOWN).any()):  # the mean over no target at all is NaN
            loss = F.cross_entropy(logits.flatten(0, -2), target, ignore_index=UNKNOWN)
            total = total + loss * _WEIGHTS.get(name, 0.3)
    return total


# What stands in a cell is the bulk of the work; the rest follows from it more or less.
_WEIGHTS: Final = {"object": 2.0, "colour": 1.0, "first": 0.5, "second": 0.5}


@torch.no_grad()
def cell_accuracies(
    heads: EncoderHeads, features: Tensor, targets: dict[str, Tensor]
) -> dict[str, float]:
    """Share of right classes by head; cells that hold an object are counted apart from empty ones."""
    accuracies: dict[str, float] = {}
    for name, logits in heads(features).items():
        if name not in targets:
            continue
        target, guess = targets[name], logits.argmax(-1)
        groups = {name: target != UNKNOWN}
        if name == "object":
            first_character = 1 + len(SHAPES)
            groups = {
                "empty": target == 0,
                "shape": (target > 0) & (target < first_character),
                "glyph": (target >= first_character) & (target < CELL_CLASSES["object"] - 1),
            }
        for label, mask in groups.items():
            if bool(mask.any()):
                accuracies[label] = float((guess == target)[mask].float().mean())
    return accuracies


class EncoderObjective:
    """The objectives `tiles` and `cells`: encoder and heads, without the language model."""

    def __init__(
        self,
        vision_tower: nn.Module,
        heads: EncoderHeads,
        image_size: int,
        device: torch.device,
    ) -> None:
        self._vision_tower, self._heads = vision_tower, heads
        self._image_size, self._device = image_size, device

    def loss(self, rng: np.random.Generator, stage: Stage, batch_size: int) -> Tensor:
        batch = draw_cell_batch(
            rng, stage, batch_size, self._image_size, fonts=training_fonts()
        ).to(self._device)
        return cell_loss(self._heads, self._features(batch), batch.targets)

    def measure(self, stage: Stage) -> dict[str, float]:
        rng = np.random.default_rng([_HELD_OUT_SEED, 0])
        batch = draw_cell_batch(rng, stage, 256, self._image_size, fonts=held_out_fonts())
        batch = batch.to(self._device)
        return cell_accuracies(self._heads, self._features(batch), batch.targets)

    def _features(self, batch: CellBatch) -> Tensor:
        return self._vision_tower(batch.pixel_values).flatten(2).mT  # [N, n, C]
