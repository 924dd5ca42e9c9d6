"""What the engine asks of a backend.

A backend knows tokens, pixels and numbers; it knows no text, no files being opened, no sampling.

Shapes: B sequences, T longest prompt, V vocabulary rows, N images of one size, n tokens of each, D hidden_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from fastvlm.config import FastVLMConfig
    from fastvlm.model.kv_cache import GrowingCache


@dataclass(slots=True, eq=False)
class DecodeState:
    """What a batch of sequences has seen. `attention_mask` is [B, S] bool, False where padding stands."""

    past_key_values: GrowingCache
    attention_mask: Tensor | None
    position_ids: Tensor
    """[B] position of the next token of each sequence."""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One sequence to prefill: ids with image placeholders, and the features that go there."""

    input_ids: NDArray[np.int64]
    image_features: Tensor | None


class Backend(Protocol):
    """The network, somewhere, in some number format."""

    config: FastVLMConfig
    device: torch.device
    """Where logits and features lie."""
    description: str
    """Backend, device and dtype in a few words, for people."""

    def encode_images(self, pixel_values: NDArray[np.float32]) -> Tensor:
        """[N, 3, H, W] RGB in 0..1 -> [N, n, D]; raises NumericalError for NaN or infinity."""

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, DecodeState]:
        """Read prompts of any lengths; float32 logits [B, V] of each last position, and the state."""

    def decode_step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        """Read one more token [B] of each sequence into `state`; float32 logits [B, V]."""

    def select(self, state: DecodeState, rows: Tensor) -> DecodeState:
        """An independent state of these sequences, in this order, repeats allowed."""

    def synchronize(self) -> None:
        """Wait until everything that was asked for is computed; clocks are read after it."""
