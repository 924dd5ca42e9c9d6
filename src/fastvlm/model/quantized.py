"""Linear layers with weights in 8 or 4 bits: less memory, and less to read for every token.

Only weights are rounded, activations stay as they are. On a CPU torch's own kernels multiply the small weights
directly; elsewhere they are expanded one layer at a time.

int8: one scale an output row, symmetric. int4: one scale and offset for each group of 64 inputs.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Quantization: TypeAlias = Literal["int8", "int4"]

GROUP_SIZE: Final = 64


class Int8Linear(nn.Module):
    """y = x (scale * weight)^T + bias with weight [out, in] int8 and scale [out]."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.float().abs().amax(1).clamp(min=1e-12) / 127  # [out]
        rounded = (weight.float() / scale[:, None]).round()
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("bias", _bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            y = torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scale)
            y = y.reshape(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return y if self.bias is None else y + self.bias


class Int4Linear(nn.Module):
    """y = x weight^T + bias, where a weight is (code - 8) * scale + middle with codes 0..15."""

    codes: Tensor
    scale_and_middle: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        groups = weight.float().reshape(len(weight), -1, GROUP_SIZE)  # [out, in/64, 64]
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp(min=1e-12)
        codes = ((groups - low[..., None]) / scale[..., None]).round().to(torch.int32).flatten(1)
        self._is_cpu = weight.device.type == "cpu"
        if self._is_cpu:
            packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        else:
            packed = (codes[:, ::2] + 16 * codes[:, 1::2]).to(torch.uint8)  # [out, in/2]
        self.register_buffer("codes", packed)
        table = torch.stack((scale, low + 8 * scale), -1).transpose(0, 1)  # [in/64, out, 2]
        self.register_buffer("scale_and_middle", table.contiguous().to(weight.dtype))
        self.register_buffer("bias", _bias_of(linear))

    def forward(self, x: Tensor) -> Tensor:
        if self._is_cpu:
            y = torch._weight_int4pack_mm_for_cpu(
                x.flatten(0, -2), self.codes, GROUP_SIZE, self.scale_and_middle
            )
            y = y.reshape(*x.shape[:-1], -1)
        else:
            y = F.linear(x, self._expanded())
        return y if self.bias is None else y + self.bias

    def _expanded(self) -> Tensor:
        codes = torch.stack((self.codes & 15, self.codes >> 4), -1).flatten(1)  # [out, in]
        scale, middle = self.scale_and_middle.transpose(0, 1).unbind(-1)  # [out, in/64]
        groups = codes.reshape(len(codes), -1, GROUP_SIZE).to(scale.dtype) - 8
        return (groups * scale[..., None] + middle[..., None]).flatten(1)


def quantize_linears(module: nn.Module, bits: Quantization) -> list[str]:
    """Replace the linear layers inside a module, one after the other, in place.

    Returns:
        Names of those left as they are, because their inputs are no multiple of the group.
    """
    left: list[str] = []
    for name, child in list(module.named_modules()):
        if not isinstance(child, nn.Linear):
            continue
        if bits == "int4" and child.in_features % GROUP_SIZE:
            left.append(name)
            continue
        parent, _, leaf = name.rpartition(".")
        quantized = Int8Linear(child) if bits == "int8" else Int4Linear(child)
        setattr(module.get_submodule(parent), leaf, quantized)
    return left


def _bias_of(linear: nn.Linear) -> Tensor | None:
    bias: nn.Parameter | None = linear.bias  # torch declares it as never None
    return None if bias is None else bias.detach()
