"""Beam search finds the answer that transformers' `generate(num_beams=...)` finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastvlm.backends.base import DecodeState, Prompt
from fastvlm.engine.beam_search import beam_search
from fastvlm.engine.options import GenerationOptions
from fastvlm.model import GrowingCache

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

EOS = 7


class ReferenceBackend:
    """The reference language model without a cache: each step reads everything again."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    @torch.no_grad()
    def prefill(self, prompts: list[Prompt]) -> tuple[torch.Tensor, DecodeState]:
        ids = torch.from_numpy(prompts[0].input_ids)[None]
        return self.model(ids).logits[:, -1].float(), DecodeState(GrowingCache(0), None, ids)

    @torch.no_grad()
    def decode_step(self, token_ids: torch.Tensor, state: DecodeState) -> torch.Tensor:
        state.position_ids = torch.cat((state.position_ids, token_ids[:, None]), 1)
        return self.model(state.position_ids).logits[:, -1].float()

    def select(self, state: DecodeState, rows: torch.Tensor) -> DecodeState:
        return DecodeState(GrowingCache(0), None, state.position_ids[rows])


@pytest.mark.parametrize("num_beams", [2, 4])
@pytest.mark.parametrize("seed", range(8))
def test_beams_equal_transformers(num_beams: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=24,
            tie_word_embeddings=False,
        )
    ).eval()
    torch.nn.init.normal_(model.lm_head.weight, 0.0, 0.4)
    prompt = np.arange(1, 6)
    expected = model.generate(
        torch.from_numpy(prompt)[None],
        attention_mask=torch.ones(1, 5, dtype=torch.long),
        num_beams=num_beams,
        do_sample=False,
        max_new_tokens=10,
        eos_token_id=EOS,
        pad_token_id=0,
    )[0, 5:].tolist()
    backend = ReferenceBackend(model)
    logits, state = backend.prefill([Prompt(prompt, None)])
    found = beam_search(
        backend,
        logits,
        state,
        GenerationOptions(num_beams=num_beams, max_new_tokens=10),
        eos_token_ids=frozenset({EOS}),
    )
    assert list(found.token_ids) == expected
