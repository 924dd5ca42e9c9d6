"""Samples of like length into the same batch, so that less of a batch is padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from fastvlm.data.mixture import Order, Place

_WINDOW_BATCHES: Final = 50
"""Batches among which samples are exchanged: the order stays random beyond. # REF: transformers'
LengthGroupedSampler, mega_batch_mult"""


def group_by_length(order: Order, length_of: Callable[[Place], int], batch_size: int) -> Order:
    """Sort each window of an epoch by length, and mix the batches of a window again.

    Args:
        order: of an epoch.
        length_of: how long a sample is about; asked once for each.
        batch_size: samples of a batch.
    """
    window = _WINDOW_BATCHES * batch_size
    picked: list[int] = []
    for start in range(0, len(order), window):
        places = range(start, min(start + window, len(order)))
        by_length = sorted(places, key=lambda position: -length_of(order[position]))
        batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
        # The window with the longest batch first would give a sawtooth of losses; the last batch may be short.
        whole, rest = (
            batches[: len(by_length) // batch_size],
            batches[len(by_length) // batch_size :],
        )
        rng = np.random.default_rng([start, len(order)])
        for index in rng.permutation(len(whole)):
            picked += whole[index]
        for batch in rest:
            picked += batch
    chosen = np.array(picked, dtype=np.int64)
    return Order(order.files[chosen], order.indices[chosen])
