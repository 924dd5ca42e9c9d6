"""Keys and values of tokens already seen, in two forms with one face.

`GrowingCache` appends and never knows its end: the plain one, and the oracle for the other.
`StaticCache` writes into buffers allocated once: no allocation per step, and a fixed address.

Shapes: B sequences, K key-value heads, S positions seen so far, T new ones, d channels a head.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from fastvlm.config import TextConfig
from fastvlm.errors import ContextLengthError


class KVCache(Protocol):
    """What a decoder layer asks of a cache."""

    @property
    def length(self) -> int:
        """Positions seen by all layers so far."""

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add [B, K, T, d] of one layer and return all of that layer, [B, K, S + T, d]."""

    def advance(self, num_tokens: int) -> None:
        """Count tokens as seen, after the last layer has added them."""

    def fork(self) -> Self:
        """An independent continuation: what one adds, the other does not see."""


class GrowingCache:
    """Appends by concatenation. Forks share what both have seen, since nothing is ever written twice."""

    def __init__(self, num_layers: int) -> None:
        self._entries: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.length = 0

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        seen = self._entries[layer]
        if seen is not None:
            key, value = torch.cat((seen[0], key), 2), torch.cat((seen[1], value), 2)
        self._entries[layer] = key, value
        return key, value

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def fork(self) -> GrowingCache:
        copy = GrowingCache(len(self._entries))
        copy._entries, copy.length = list(self._entries), self.length
        return copy

    def select(self, rows: Tensor) -> GrowingCache:
        """The sequences at these indices, in this order, repeats allowed (beam search, finished rows)."""
        copy = self.fork()
        copy._entries = [entry and (entry[0][rows], entry[1][rows]) for entry in self._entries]
        return copy


class StaticCache:
    """Buffers for `max_length` positions, allocated once.

    Raises:
        ContextLengthError: on an update beyond `max_length`.
    """

    def __init__(
        self,
        config: TextConfig,
        batch_size: int,
        max_length: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (
            config.num_hidden_layers,
            2,
            batch_size,
            config.num_key_value_heads,
            max_length,
            config.head_dim,
        )
        self._buffer = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    @property
    def max_length(self) -> int:
        return self._buffer.shape[4]

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + key.shape[2]
        if end > self.max_length:
            raise ContextLengthError(
                f"{end} positions do not fit a cache of {self.max_length}; raise max_length or shorten the prompt"
            )
        keys, values = self._buffer[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, num_tokens: int) -> None:
        self.length += num_tokens

    def fork(self) -> StaticCache:
        copy = object.__new__(StaticCache)
        copy._buffer, copy.length = self._buffer.clone(), self.length
        return copy
