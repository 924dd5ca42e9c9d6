"""Samples to one batch: padded rows, or packed ones in which no sample sees another.

padded   [a a a .]        packed   [a a a b b .]     each position looks back at its own sample only,
         [b b . .]                                   and positions count from 0 in each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fastvlm.data.samples import BrokenSample, Sample
from fastvlm.inputs import IGNORE_INDEX, ModelInputs

_PADDING_ID: Final = 0
"""Any id does: nothing looks at padding, and nothing is learned there."""
_EMPTY: Final = ModelInputs(
    np.zeros(2, np.int64), (), (), labels=np.full(2, IGNORE_INDEX, dtype=np.int64)
)
"""Takes part where every sample of a batch is broken: no target, so no loss and no gradient."""


@dataclass(frozen=True, slots=True)
class Collator:
    """Lays samples out as rows.

    Attributes:
        max_length: longest row of a packed batch, in tokens.
        packing: whether samples share rows.
    """

    max_length: int
    packing: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Make a batch.

        Returns:
            input_ids, labels, position_ids [R, T] int64; segment_ids [R, T] int64, 0 at padding and 1, 2, ...
            for the samples of a row; pixel_values: one float32 array [n, 3, H, W] for each size of picture;
            picture_places: for each size the place of its arrays in reading order; tiles_per_picture; broken:
            what could not be used.
        """
        broken = [sample for sample in samples if isinstance(sample, BrokenSample)]
        whole = [sample for sample in samples if isinstance(sample, ModelInputs)] or [_EMPTY]
        lengths = [len(sample.input_ids) for sample in whole]
        rows = (
            first_fit(lengths, self.max_length)
            if self.packing
            else [[i] for i in range(len(whole))]
        )
        batch: dict[str, Any] = _lay_out(whole, rows)
        ordered = [whole[index] for row in rows for index in row]
        batch |= _stack_pictures([picture for sample in ordered for picture in sample.pixel_values])
        batch["broken"] = broken
        return batch


def first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the first row with room for it."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((i for i, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(index)
        room[row] -= lengths[index]
    return rows


def segment_mask(segment_ids: Tensor) -> Tensor:
    """True where a position may look: back, within its own sample. Padding sees itself, so that no row is empty.

    Shape:
        [R, T] -> [R, 1, T, T]
    """
    length = segment_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segment_ids.device).tril()
    is_same = segment_ids[:, :, None] == segment_ids[:, None, :]
    return (causal & is_same)[:, None]


def _lay_out(samples: Sequence[ModelInputs], rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    length = max(sum(len(samples[index].input_ids) for index in row) for row in rows)
    shape = (len(rows), length)
    input_ids = np.full(shape, _PADDING_ID, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    segment_ids = np.zeros(shape, dtype=np.int64)
    for row, indices in enumerate(rows):
        start = 0
        for number, index in enumerate(indices, start=1):
            sample = samples[index]
            assert sample.labels is not None
            place = np.s_[row, start : start + len(sample.input_ids)]
            input_ids[place], labels[place] = sample.input_ids, sample.labels
            labels[row, start] = IGNORE_INDEX  # nothing of its own sample stands before it
            position_ids[place] = np.arange(len(sample.input_ids))
            segment_ids[place] = number
            start += len(sample.input_ids)
    arrays = {
        "input_ids": input_ids,
        "labels": labels,
        "position_ids": position_ids,
        "segment_ids": segment_ids,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _stack_pictures(pictures: Sequence[Any]) -> dict[str, Any]:
    """Pictures of one size in one tensor, so that the tower runs once for each size."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for place, picture in enumerate(pictures):
        by_size.setdefault(picture.shape[2:], []).append(place)
    groups = list(by_size.values())
    return {
        "pixel_values": [
            torch.from_numpy(np.concatenate([pictures[place] for place in group]))
            for group in groups
        ],
        "picture_places": groups,
        "tiles_per_picture": [len(picture) for picture in pictures],
    }
