"""Qwen2 gives the numbers of transformers' Qwen2Model, with and without caches and padding."""

from __future__ import annotations

import pytest
import torch

from fastvlm.config import TextConfig
from fastvlm.model import GrowingCache, Qwen2, StaticCache

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

CONFIG = TextConfig(
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=97,
    tie_word_embeddings=True,
    rope_theta=1e6,
)
# The reference computes norms and rotary angles in float32 whatever the dtype, and so do we: 1e-6 is its noise.
TOLERANCE = 1e-6


@pytest.fixture
def pair() -> tuple[Qwen2, torch.nn.Module]:
    torch.manual_seed(1)
    ours = Qwen2(CONFIG).double().eval()
    for name, parameter in ours.named_parameters():
        torch.nn.init.normal_(parameter, float(name.endswith("norm.weight")), 0.2)
    reference = transformers.Qwen2Model(
        transformers.Qwen2Config(
            hidden_size=CONFIG.hidden_size,
            intermediate_size=CONFIG.intermediate_size,
            num_hidden_layers=CONFIG.num_hidden_layers,
            num_attention_heads=CONFIG.num_attention_heads,
            num_key_value_heads=CONFIG.num_key_value_heads,
            vocab_size=CONFIG.vocab_size,
            rope_parameters={"rope_type": "default", "rope_theta": CONFIG.rope_theta},
            rms_norm_eps=CONFIG.rms_norm_eps,
            attn_implementation="sdpa",
        )
    )
    reference.double().eval().load_state_dict(ours.state_dict(), strict=True)
    return ours, reference


@torch.no_grad()
def test_hidden_states_equal_transformers(pair: tuple[Qwen2, torch.nn.Module]) -> None:
    ours, reference = pair
    inputs_embeds = torch.randn(2, 50, CONFIG.hidden_size, dtype=torch.float64)
    expected = reference(inputs_embeds=inputs_embeds).last_hidden_state
    torch.testing.assert_close(ours(inputs_embeds), expected, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_left_padded_batch_equals_transformers(pair: tuple[Qwen2, torch.nn.Module]) -> None:
    ours, reference = pair
    inputs_embeds = torch.randn(2, 12, CONFIG.hidden_size, dtype=torch.float64)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[0, :5] = False
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    expected = reference(
        inputs_embeds=inputs_embeds, attention_mask=mask, position_ids=position_ids
    ).last_hidden_state
    actual = ours(inputs_embeds, mask, position_ids)
    torch.testing.assert_close(actual[mask], expected[mask], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["growing", "static"])
@torch.no_grad()
def test_cached_steps_equal_one_pass(pair: tuple[Qwen2, torch.nn.Module], kind: str) -> None:
    ours, reference = pair
    inputs_embeds = torch.randn(2, 20, CONFIG.hidden_size, dtype=torch.float64)
    cache: GrowingCache | StaticCache = (
        GrowingCache(CONFIG.num_hidden_layers)
        if kind == "growing"
        else StaticCache(CONFIG, 2, 20, dtype=torch.float64, device=torch.device("cpu"))
    )
    chunks = [ours(part, past_key_values=cache) for part in inputs_embeds.split([9, 4, 1, 1, 5], 1)]
    expected = reference(inputs_embeds=inputs_embeds).last_hidden_state
    torch.testing.assert_close(torch.cat(chunks, 1), expected, rtol=TOLERANCE, atol=TOLERANCE)
