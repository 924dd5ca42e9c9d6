"""The network as the Trainer takes it: a batch in, the loss out.

Source of the loss: next-token cross-entropy on answer tokens, summed and divided by the number of targets of
the whole optimizer step, so that gradient accumulation and several processes give the mean over tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastvlm.config import PATCH_STRIDE
from fastvlm.inputs import IGNORE_INDEX
from fastvlm.model.fastvlm import FastVLM
from fastvlm.train.collate import segment_mask

OUTPUT_LAYER: Final = "model.lm_head.weight"


class TuningNetwork(nn.Module):
    """A FastVLM with its loss.

    Args:
        model: fused or branched, not deep-fused: that form has no norms left to train.
        update_batch_norm: let BatchNorms of the tower use and learn batch statistics. Otherwise they stay in
            eval while training; # REF: Apple's trainer has them in train mode, which shifts frozen towers.
    """

    accepts_loss_kwargs: Final = True
    """Tells the Trainer to hand over `num_items_in_batch`, the targets of the whole optimizer step."""

    def __init__(self, model: FastVLM, *, update_batch_norm: bool = False) -> None:
        super().__init__()
        # Convolutions are 1.8 times as fast on a CPU with channels last, and no slower on a GPU.
        model.vision_tower.to(memory_format=torch.channels_last)
        self.model = model
        self.updates_batch_norm = update_batch_norm

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.updates_batch_norm:
            for module in self.model.vision_tower.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        segment_ids: Tensor,
        pixel_values: Sequence[Tensor],
        picture_places: Sequence[Sequence[int]],
        tiles_per_picture: Sequence[int],
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch from `Collator`.

        Returns:
            loss: the sum over targets divided by `num_items_in_batch` (None: by the targets of this batch);
            num_targets, num_correct: targets here, and how many were the likeliest token.
        """
        features = self._image_features(pixel_values, picture_places, tiles_per_picture)
        hidden = self.model(
            input_ids,
            features,
            attention_mask=segment_mask(segment_ids),
            position_ids=position_ids,
        )  # [R, T, D]
        targets = labels[:, 1:]
        is_learned = targets != IGNORE_INDEX
        # Only positions that are learned go through the output layer, whose width is the vocabulary.
        logits = self.model.lm_head(hidden[:, :-1][is_learned]).float()  # [N, V]
        targets = targets[is_learned]
        total = F.cross_entropy(logits, targets, reduction="sum")
        if not len(pixel_values):
            total = total + 0.0 * self._touch_vision().sum()
        num_targets = is_learned.sum()
        divisor = num_targets if num_items_in_batch is None else num_items_in_batch
        return {
            "loss": total / torch.as_tensor(divisor, device=total.device).clamp(min=1),
            "num_targets": num_targets,
            "num_correct": (logits.argmax(-1) == targets).sum(),
        }

    def _image_features(
        self,
        pixel_values: Sequence[Tensor],
        picture_places: Sequence[Sequence[int]],
        tiles_per_picture: Sequence[int],
    ) -> Tensor | None:
        """Features of all pictures in reading order, [n, D]."""
        if not len(pixel_values):
            return None
        of_picture: dict[int, Tensor] = {}
        for pixels, places in zip(pixel_values, picture_places, strict=True):
            encoded = self._encode(pixels)  # [tiles, t, D]
            sizes = [tiles_per_picture[place] for place in places]
            for place, tiles in zip(places, torch.split(encoded, sizes), strict=True):
                of_picture[place] = tiles.flatten(0, 1)
        return torch.cat([of_picture[place] for place in sorted(of_picture)])

    def _encode(self, pixels: Tensor) -> Tensor:
        is_trained = any(p.requires_grad for p in self.model.vision_tower.parameters())
        with torch.set_grad_enabled(is_trained and torch.is_grad_enabled()):
            feature_map = self.model.vision_tower(
                pixels.contiguous(memory_format=torch.channels_last)
            )
        return self.model.projector(feature_map.flatten(2).mT)

    def _touch_vision(self) -> Tensor:
        """A blank picture without weight: with several processes, every one must reach the same parameters."""
        weight = self.model.lm_head.weight
        self.model.vision_tower.eval()  # BatchNorms learn nothing from it
        features = self._encode(weight.new_zeros(1, 3, PATCH_STRIDE, PATCH_STRIDE))
        self.train(self.training)
        return features


def checkpoint_activations(model: FastVLM) -> None:
    """Keep only the inputs of tower blocks and decoder layers, and compute the rest again on the way back."""
    for block in _blocks(model):
        plain = block.forward

        def recomputed(*args: Any, _plain: Any = plain, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return _plain(*args, **kwargs)
            return checkpoint(partial(_plain, **kwargs), *args, use_reentrant=False)

        block.forward = recomputed


def _blocks(model: FastVLM) -> Iterator[nn.Module]:
    yield from model.language_model.layers
    for stage in model.vision_tower.stages:
        yield from stage.blocks  # type: ignore[misc]  # stages are modules with `blocks`
