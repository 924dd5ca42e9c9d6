from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastvlm.config import preset
from fastvlm.model import Qwen2
from fastvlm.model.quantized import Int4Linear, Int8Linear, quantize_linears


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "steps"), [(Int8Linear, 254), (Int4Linear, 15)])
@torch.no_grad()
def test_weights_are_off_by_half_a_step_at_most(
    kind: type[nn.Module], steps: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 48).to(dtype)
    identity = torch.eye(128, dtype=dtype)
    weight = (kind(linear)(identity) - linear.bias).T.float()
    reach = linear.weight.float().amax() - linear.weight.float().amin()
    rounding = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert (weight - linear.weight.float()).abs().max() <= reach / steps / 2 + rounding


@torch.no_grad()
def test_int4_expands_to_what_the_cpu_kernel_multiplies_with() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(192, 64)
    fast, slow = Int4Linear(linear), Int4Linear(linear)
    codes = torch.randint(0, 16, (64, 192), dtype=torch.int32)
    fast.codes = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    slow.codes = (codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8)
    slow._is_cpu = False
    x = torch.randn(2, 5, 192)
    torch.testing.assert_close(fast(x), slow(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "share"), [("int8", 0.30), ("int4", 0.20)])
@torch.no_grad()
def test_quantized_decoder_is_smaller_and_close(bits: str, share: float) -> None:
    torch.manual_seed(0)
    decoder = Qwen2(preset("nano").text).eval()
    quantized = copy.deepcopy(decoder)
    assert quantize_linears(quantized.layers, bits) == []
    x = torch.randn(1, 9, decoder.config.hidden_size)
    similarity = torch.cosine_similarity(decoder(x), quantized(x), dim=-1)
    assert similarity.min() > (0.999 if bits == "int8" else 0.97)
    assert num_bytes(quantized.layers) < share * num_bytes(decoder.layers)


def num_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
