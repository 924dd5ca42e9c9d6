"""Qwen2, the language model: RMSNorm, rotary grouped-query attention, SwiGLU.

Source: Qwen2 technical report (arXiv 2407.10671); same numbers as transformers' `Qwen2Model`.

Shapes: B sequences, T new tokens, S = past + T positions, D hidden_size, h heads, K key-value heads, d head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.config import TextConfig
from fastvlm.model.kv_cache import KVCache


class Qwen2(nn.Module):
    """The decoder without its output layer: embeddings in, hidden states out.

    Args of `forward`:
        inputs_embeds: [B, T, D].
        attention_mask: None (causal), bool [B, S] (False = padding), or bool [B, 1, T, S] (True = may look).
        position_ids: [B, T]; None counts on from the cache.
        past_key_values: positions seen before; they are extended in place.

    Shape:
        [B, T, D] -> [B, T, D]
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            [DecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: KVCache | None = None,
    ) -> Tensor:
        x = inputs_embeds
        num_new = x.shape[1]
        num_past = past_key_values.length if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(num_past, num_past + num_new, device=x.device)[None]
        rotary = rotary_table(position_ids, self.config, x.dtype)
        mask = attention_bias(attention_mask, num_new, num_past, device=x.device)
        for layer in self.layers:
            x = layer(x, rotary, mask, past_key_values)
        if past_key_values is not None:
            past_key_values.advance(num_new)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Attention and SwiGLU, each on the normalised stream and added back."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, index)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past_key_values: KVCache | None,
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask, past_key_values)
        return x + self.mlp(self.post_attention_layernorm(x))


class SelfAttention(nn.Module):
    """Causal attention in which groups of query heads share one key-value head."""

    def __init__(self, config: TextConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index, self.head_dim = layer_index, config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, kv_size)
        self.v_proj = nn.Linear(config.hidden_size, kv_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        past_key_values: KVCache | None,
    ) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, h, T, d]
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, K, T, d]
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, K, T, d]
        q, k = rotate(q, rotary), rotate(k, rotary)
        if past_key_values is not None:
            k, v = past_key_values.update(self.layer_index, k, v)  # [B, K, S, d]
        is_causal = mask is None and q.shape[2] > 1
        x = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=True)
        return self.o_proj(x.transpose(1, 2).flatten(2))  # [B, T, D]


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    """Divide by the root mean square, computed in float32 like the reference, then scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype)


def rotary_table(
    position_ids: Tensor, config: TextConfig, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, each [B, 1, T, d]; float32 inside like the reference."""
    exponent = torch.arange(0, config.head_dim, 2, device=position_ids.device).float()
    frequency = 1.0 / config.rope_theta ** (exponent / config.head_dim)
    angle = position_ids[:, None, :, None].float() * frequency  # [B, 1, T, d/2]
    angle = torch.cat((angle, angle), -1)  # [B, 1, T, d]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (i, i + d/2) of the last dimension by their angle, [B, h, T, d] -> [B, h, T, d]."""
    cos, sin = rotary
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def attention_bias(
    attention_mask: Tensor | None, num_new: int, num_past: int, *, device: torch.device
) -> Tensor | None:
    """The bool mask [B or 1, 1, T, S] for attention, or None where causality alone says it all."""
    if attention_mask is not None and attention_mask.ndim == 4:
        return attention_mask
    if attention_mask is None and (num_past == 0 or num_new == 1):
        return None
    end = num_past + num_new
    query = torch.arange(num_past, end, device=device)[:, None]
    causal = torch.arange(end, device=device) <= query  # [T, S]
    if attention_mask is None:
        return causal[None, None]
    visible = causal & attention_mask[:, None, None, :].bool()  # [B, 1, T, S]
    # A padding row sees nothing, which softmax turns into NaN: let it see itself, nobody reads it.
    return visible | (torch.arange(end, device=device) == query)
