"""Read the header of a safetensors file and compare it with the length of the file; no tensor is touched.

Format: github.com/huggingface/safetensors, section "Format" of its README: eight bytes with the length of the
header (little-endian), the header as JSON, then the tensors without gaps.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastvlm.errors import CheckpointError

_MAX_HEADER_BYTES: Final = 100_000_000
"""The limit of the safetensors library itself."""
_BITS: Final = {
    **dict.fromkeys(
        ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8
    ),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """What the header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    offset: int
    """Its first byte, counted from the beginning of the file."""


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Names, dtypes and shapes in a safetensors file whose length is exactly what its header needs.

    Raises:
        CheckpointError: not a safetensors file, cut short, or with bytes too many.
    """
    try:
        file_size = path.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if file_size < 8 or not 2 <= header_size <= min(_MAX_HEADER_BYTES, file_size - 8):
                raise CheckpointError(
                    f"{path.name}: no safetensors header in {file_size} bytes (it would be {header_size} long); "
                    "the file is cut short or of another format"
                )
            header = json.loads(file.read(header_size))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name}: the safetensors header is not JSON: {error}"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(
            f"{path.name}: the safetensors header is {type(header).__name__}, expected object"
        )
    header.pop("__metadata__", None)
    spans: list[tuple[int, int]] = []
    data_start = 8 + header_size
    entries = {
        name: _read_entry(path.name, name, entry, spans, data_start)
        for name, entry in header.items()
    }
    _check_spans(path.name, spans, data_size=file_size - data_start)
    return entries


def _read_entry(
    file_name: str, name: str, entry: Any, spans: list[tuple[int, int]], data_start: int
) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = (*shape, begin, end)
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"{numbers} are not all counts")
        bits = math.prod(shape) * _BITS[dtype]
        if (end - begin) * 8 != bits:
            raise ValueError(
                f"{dtype} {shape} needs {bits / 8:g} bytes, the entry has {end - begin}"
            )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file_name}: bad entry of tensor {name!r}: {error!r}") from error
    spans.append((begin, end))
    return TensorEntry(
        dtype=dtype, shape=tuple(shape), num_bytes=end - begin, offset=data_start + begin
    )


def _check_spans(file_name: str, spans: list[tuple[int, int]], *, data_size: int) -> None:
    position = 0
    for begin, end in sorted(spans):
        if begin != position:
            raise CheckpointError(
                f"{file_name}: a tensor starts at byte {begin}, expected {position}; tensors overlap or have gaps"
            )
        position = end
    if position != data_size:
        what = "cut short" if data_size < position else "longer than it should be"
        raise CheckpointError(
            f"{file_name} is {what}: its header needs {position} bytes of tensors, there are {data_size}; "
            "fetch the file again"
        )
