"""`fastvlm` itself as a measured system: the public engine, with clocks between it and its backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastvlm.backends.base import Backend, DecodeState, Prompt
from fastvlm.bench.protocol import Moment, Sample, now
from fastvlm.engine import Engine, GenerationOptions
from fastvlm.engine.decode_loop import Row, decode
from fastvlm.engine.detokenizer import StreamDecoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FastVLMCandidate:
    """A loaded engine that remembers no pictures."""

    def __init__(self, folder: Path, *, device: str, dtype: str) -> None:
        loaded = Engine.load(folder, device=device, dtype=dtype)
        self._clocked = _ClockedBackend(loaded.backend)
        self._engine = Engine(self._clocked, loaded.processor, feature_cache_bytes=0)
        self.dtype = loaded.backend.description.split()[-1]

    def answer(self, image: bytes, prompt: str, num_new_tokens: int) -> Sample:
        self._clocked.forget()
        received = now()
        answer = self._engine.ask(
            prompt, images=[image], max_new_tokens=num_new_tokens, ignore_eos=True
        )
        # A step of the decoder begins when the token before it is known; the last token ends the answer.
        tokens = [*self._clocked.steps, now()]
        assert len(answer.token_ids) == num_new_tokens == len(tokens)
        return Sample.from_moments(
            received=received,
            prepared=self._clocked.encode_began,
            encoded=self._clocked.encode_ended,
            tokens=tokens,
            num_prompt_tokens=answer.usage.prompt_tokens,
        )

    def greedy_tokens(
        self,
        input_ids: NDArray[np.int64],
        pixel_values: NDArray[np.float32],
        num_new_tokens: int,
    ) -> list[int]:
        features = self._clocked.encode_images(pixel_values).flatten(0, 1)  # [n, D]
        row = Row(
            Prompt(input_ids, features),
            GenerationOptions(max_new_tokens=num_new_tokens),
            StreamDecoder(self._engine.processor.tokenizer),
            eos_token_ids=frozenset(),
        )
        for _ in decode(self._clocked, [row]):
            pass
        return row.token_ids


class _ClockedBackend:
    """Passes everything on and notes when it was asked."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.config = backend.config
        self.device = backend.device
        self.description = backend.description
        self.forget()

    def forget(self) -> None:
        """Begin the notes of another answer."""
        self.encode_began = self.encode_ended = Moment(0.0, 0.0)
        self.steps: list[Moment] = []

    def encode_images(self, pixel_values: NDArray[np.float32]) -> Tensor:
        self.encode_began = now()
        features = self._backend.encode_images(pixel_values)
        self.synchronize()
        self.encode_ended = now()
        return features

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, DecodeState]:
        return self._backend.prefill(prompts)

    def decode_step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        self.steps.append(now())
        return self._backend.decode_step(token_ids, state)

    def select(self, state: DecodeState, rows: Tensor) -> DecodeState:
        return self._backend.select(state, rows)

    def synchronize(self) -> None:
        self._backend.synchronize()
