"""Where and in which number format the network runs, when the user does not say.

Measured reasons: docs/performance.md. bf16 is used where the hardware multiplies it natively; float16 is never
chosen by itself, because real activations of the encoder come within 7 % of its largest value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

import torch

from fastvlm.errors import BackendError

Dtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]

_DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

SMALL_MODEL: Final = 50_000_000
"""Below this many parameters, float32 costs nothing that one could feel, and rounds nothing."""


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        BackendError: unknown name, or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BackendError(
            f"device {name!r} is not known; expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    is_there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not is_there.get(device.type, False):
        raise BackendError(f"device {name!r} is not available here; try --device auto or cpu")
    return device


def resolve_dtype(name: str, device: torch.device, num_parameters: int) -> torch.dtype:
    """The dtype of that name; `auto` takes bfloat16 where the device multiplies it natively.

    Raises:
        BackendError: unknown name.
    """
    if name != "auto":
        if name not in _DTYPES:
            raise BackendError(f"dtype {name!r} is not known; expected auto, {', '.join(_DTYPES)}")
        return _DTYPES[name]
    if num_parameters < SMALL_MODEL:
        return torch.float32
    return torch.bfloat16 if has_native_bfloat16(device) else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "mps":
        return True
    get_capabilities: Callable[[], Mapping[str, object]] = getattr(
        torch.cpu, "get_capabilities", dict
    )  # absent in older torch, where float32 is the safe choice
    capabilities = get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
