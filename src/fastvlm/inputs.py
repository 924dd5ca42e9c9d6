"""What travels between processing, engine and backends: the prepared request, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_TOKEN_ID: Final = -200
"""Stands in `input_ids` once per image token. Negative, so that no vocabulary row can collide with it
(151646, which the transformers port uses, is taken in the 7B tokenizer). # REF: llava/constants.py"""

IGNORE_INDEX: Final = -100
"""Stands in `labels` where nothing is learned (the default of torch's cross-entropy)."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """One request as the network takes it, with every length final.

    Attributes:
        input_ids: [T] int64; each picture stands as `num_image_tokens` times `IMAGE_TOKEN_ID`.
        pixel_values: one array a picture, [tiles, 3, H, W] float32, RGB in 0..1; sizes may differ.
        num_image_tokens: tokens of each picture, tiles together.
        labels: [T] int64 with `IGNORE_INDEX` where nothing is learned; None for inference.
    """

    input_ids: NDArray[np.int64]
    pixel_values: tuple[NDArray[np.float32], ...]
    num_image_tokens: tuple[int, ...]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """A picture as the encoder takes it.

    Attributes:
        pixel_values: [tiles, 3, H, W] float32, RGB in 0..1.
        num_tokens: tokens of all tiles together.
        content_hash: SHA-256 of shape and pixels. Pictures with the same hash have the same features,
            wherever they came from and however they were scaled.
    """

    pixel_values: NDArray[np.float32]
    num_tokens: int
    content_hash: str


@dataclass(frozen=True, slots=True, eq=False)
class PreparedVideo:
    """A clip as the encoder takes it: its frames, each a picture.

    Attributes:
        frames: in order of time; at least one.
        times_s: presentation time of each frame in seconds from the start of the clip.
        has_time_marks: whether "Frame 3, 2.0 s:" stands before each frame.
    """

    frames: tuple[PreparedImage, ...]
    times_s: tuple[float, ...]
    has_time_marks: bool = False

    @property
    def num_tokens(self) -> int:
        """Image tokens of all frames together."""
        return sum(frame.num_tokens for frame in self.frames)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time of one answer went, in milliseconds of wall time.

    `ttft_ms` runs from receipt of the request, image decoding included, to the first token. `decode_ms` is
    the work after it, without the time that the caller takes between two pieces of text.
    """

    preprocess_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    ttft_ms: float = 0.0
    completion_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """TPS = (n - 1) / (t_last - t_first), 0 when there was only one token."""
        if self.completion_tokens < 2 or self.decode_ms <= 0:
            return 0.0
        return (self.completion_tokens - 1) / self.decode_ms * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one answer."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens
