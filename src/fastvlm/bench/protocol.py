"""What is measured, in which words; shared by all measured systems.

Times are seconds. Each moment is read on two clocks: wall time, which is what a user feels, and CPU time of the
whole process, which other jobs on the machine disturb less.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

from fastvlm.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvlm.checkpoint.keymap import Layout

Peer: TypeAlias = Literal["fastvlm", "transformers"]

DEFAULT_SYSTEMS: Final = (
    "fastvlm",
    "fastvlm:float32",
    "transformers:bfloat16",
    "transformers:float32",
)
PROMPT: Final = "Describe the image in one short sentence."
_LAYOUTS: Final[dict[str, Layout | None]] = {"": None, "apple": "apple", "hf": "hf"}
_DTYPES: Final = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One competitor: a library, the dtype it runs in, and the layout of the files it loads.

    Attributes:
        name: as the user wrote it.
        peer: the library.
        dtype: `auto` leaves the choice to the library.
        layout: None takes the files as they are.
    """

    name: str
    peer: Peer
    dtype: str
    layout: Layout | None


def parse_system(name: str, *, dtype: str = "auto") -> System:
    """Read `LIBRARY`, `LIBRARY:DTYPE`, `LIBRARY@LAYOUT` or both, e.g. `transformers:float32` or `fastvlm@hf`.

    Args:
        name: the text.
        dtype: where the text names none.

    Raises:
        ConfigError: an unknown library, dtype or layout.
    """
    library, _, layout = name.partition("@")
    library, _, own_dtype = library.partition(":")
    dtype = own_dtype or dtype
    if dtype not in _DTYPES:
        raise ConfigError(
            f"dtype {dtype!r} of {name!r} is not known; expected {', '.join(_DTYPES)}"
        )
    if library == "transformers" and not layout:
        return System(name=name, peer="transformers", dtype=dtype, layout="hf")
    if library == "fastvlm" and layout in _LAYOUTS:
        return System(name=name, peer="fastvlm", dtype=dtype, layout=_LAYOUTS[layout])
    raise ConfigError(
        f"system {name!r} is not known; expected fastvlm, fastvlm@apple, fastvlm@hf or transformers, "
        "each with or without :DTYPE, e.g. transformers:float32"
    )


class Moment(NamedTuple):
    """A point in time on both clocks, in seconds from different beginnings."""

    wall: float
    cpu: float


def now() -> Moment:
    """Both clocks."""
    return Moment(time.perf_counter(), time.process_time())


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One answer, taken apart.

    Attributes:
        num_prompt_tokens: image tokens included.
        preprocess_s: from receipt of the encoded picture to pixel_values and input_ids.
        vision_s: encoder and projector.
        prefill_s: from image features to the first token.
        ttft_s: from receipt of the encoded picture to the first token.
        ttft_cpu_s: the same in CPU time of the process.
        decode_s: from the first token to the last.
        decode_cpu_s: the same in CPU time of the process.
        num_decoded: tokens after the first.
    """

    num_prompt_tokens: int
    preprocess_s: float
    vision_s: float
    prefill_s: float
    ttft_s: float
    ttft_cpu_s: float
    decode_s: float
    decode_cpu_s: float
    num_decoded: int

    @classmethod
    def from_moments(
        cls,
        *,
        received: Moment,
        prepared: Moment,
        encoded: Moment,
        tokens: Sequence[Moment],
        num_prompt_tokens: int,
    ) -> Sample:
        """The differences between the moments of one answer; `tokens` are when each token was known."""
        first, last = tokens[0], tokens[-1]
        return cls(
            num_prompt_tokens=num_prompt_tokens,
            preprocess_s=prepared.wall - received.wall,
            vision_s=encoded.wall - prepared.wall,
            prefill_s=first.wall - encoded.wall,
            ttft_s=first.wall - received.wall,
            ttft_cpu_s=first.cpu - received.cpu,
            decode_s=last.wall - first.wall,
            decode_cpu_s=last.cpu - first.cpu,
            num_decoded=len(tokens) - 1,
        )


class Candidate(Protocol):
    """A loaded system. It must not remember pictures between answers."""

    dtype: str
    """Of the weights, as found after loading."""

    def answer(self, image: bytes, prompt: str, num_new_tokens: int) -> Sample:
        """Answer greedily with exactly so many tokens, end tokens or not.

        Args:
            image: an encoded picture, as it would come over the network.
            prompt: the question.
            num_new_tokens: at least 2.
        """

    def greedy_tokens(
        self,
        input_ids: NDArray[np.int64],
        pixel_values: NDArray[np.float32],
        num_new_tokens: int,
    ) -> list[int]:
        """The tokens that follow a prompt prepared by `fastvlm`, [T] with `IMAGE_TOKEN_ID`, [1, 3, H, W]."""
