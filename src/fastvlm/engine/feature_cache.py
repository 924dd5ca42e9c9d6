"""Image features by content, so that a picture asked about twice is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class FeatureCache:
    """Keeps the features used last, up to a number of bytes.

    The key must name everything that the features depend on: content and preparation of the picture.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Tensor] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: str) -> Tensor | None:
        features = self._entries.get(key)
        if features is not None:
            self._entries.move_to_end(key)
        return features

    def put(self, key: str, features: Tensor) -> None:
        """Remember features; forgets the oldest ones beyond the budget, and these if they alone exceed it."""
        if key in self._entries:
            self.num_bytes -= self._entries.pop(key).nbytes
        self._entries[key] = features
        self.num_bytes += features.nbytes
        while self.num_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= oldest.nbytes
