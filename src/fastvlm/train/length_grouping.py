"""Samples of like length into the same batch, so that less of a batch is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from fastvlm.data.mixture import Order, Place

_WINDOW_BATCHES: Final = 50
"""Batches among which samples are exchanged: the order stays random beyond. # REF: transformers'
LengthGroupedSampler, mega_batch_mult"""


def group_by_length(
    order: Order, length_of: Callable[[Place], int], batch_size: int
) -> Iterator[Place]:
    """Sort an epoch by length, a window of batches at a time, and mix the batches of each window again.

    Args:
        order: of an epoch.
        length_of: how long a sample is about; asked once for each, when its window comes.
        batch_size: samples of a batch.
    """
    window = _WINDOW_BATCHES * batch_size
    for start in range(0, len(order), window):
        places = [order[position] for position in range(start, min(start + window, len(order)))]
        places.sort(key=length_of, reverse=True)
        batches = [places[i : i + batch_size] for i in range(0, len(places), batch_size)]
        num_whole = (
            len(places) // batch_size
        )  # a short one stays last, or it would shift all that follow
        rng = np.random.default_rng([start, len(order)])
        for index in [*rng.permutation(num_whole), *range(num_whole, len(batches))]:
            yield from batches[index]
