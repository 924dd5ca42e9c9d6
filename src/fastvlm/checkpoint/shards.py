"""The safetensors files of a folder: listed, read tensor by tensor, written tensor by tensor.

Reading goes through the safetensors library: with `pread`, which copies a tensor straight into its place, or by
mapping the file, where tensors are used as they lie there. A mapped tensor that is converted would be in memory
twice. Writing streams: the header is made from the
planned shapes, then one tensor after the other follows, so a shard is never held as a whole.

Format: github.com/huggingface/safetensors, section "Format" of its README.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastvlm.checkpoint.safetensors_header import read_safetensors_header
from fastvlm.errors import CheckpointError

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Codes of the format; what is missing here (8-bit floats, unsigned words) stands for quantised weights."""
CODES: Final = {dtype: code for code, dtype in DTYPES.items()}

SAFETENSORS_NAME: Final = "model.safetensors"
PICKLE_NAME: Final = "pytorch_model.bin"
_COMPARED_BYTES: Final = 2**18
"""Small enough for the cache of a core: 4 times as fast as comparing mapped tensors."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies and what the header says of it.

    Attributes:
        key: its name in the file.
        file: the shard that holds it.
        dtype: code of the format, e.g. BF16; see `DTYPES`.
        shape: its shape.
        num_bytes: its size in the file.
        offset: its first byte in the file; None in a pickle, which has no such thing.
    """

    key: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that will be written."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def has_weights(folder: Path, name: str = SAFETENSORS_NAME) -> bool:
    """Whether the folder holds a whole model in files of this name, or an index that promises one."""
    return (folder / name).is_file() or (folder / f"{name}.index.json").is_file()


def find_shards(folder: Path, name: str = SAFETENSORS_NAME) -> tuple[Path, ...]:
    """The weight files of a folder, by its index where there is one.

    Args:
        folder: the checkpoint.
        name: what a single file would be called.

    Raises:
        CheckpointError: no weights, a shard is missing, or the index is damaged or names other places.
    """
    index = folder / f"{name}.index.json"
    if not index.is_file():
        if (folder / name).is_file():
            return (folder / name,)
        raise CheckpointError(_describe_lack(folder, name))
    names = sorted(set(_weight_map(index).values()))
    if missing := [shard for shard in names if not (folder / shard).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:10])}; fetch it again"
        )
    return tuple(folder / shard for shard in names)


def list_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What the safetensors files of a folder hold, by key; no tensor is read.

    Raises:
        CheckpointError: see `find_shards`; a shard is cut short, or holds other tensors than the index says.
    """
    stored: dict[str, StoredTensor] = {}
    for file in find_shards(folder):
        for key, tensor in list_file(file).items():
            if key in stored:
                raise CheckpointError(
                    f"tensor {key!r} is stored twice: in {stored[key].file.name} and in {file.name}"
                )
            stored[key] = tensor
    index = folder / f"{SAFETENSORS_NAME}.index.json"
    if index.is_file():
        for key, shard in _weight_map(index).items():
            if key not in stored or stored[key].file.name != shard:
                raise CheckpointError(
                    f"{index.name} promises tensor {key!r} in {shard}, which does not hold it; fetch both again"
                )
    return stored


def list_file(file: Path) -> dict[str, StoredTensor]:
    """What one safetensors file holds, by key."""
    return {
        key: StoredTensor(key, file, entry.dtype, entry.shape, entry.num_bytes, entry.offset)
        for key, entry in read_safetensors_header(file).items()
    }


class TensorSource(Protocol):
    """Gives tensors by key, in their stored dtype, in CPU memory."""

    def read(self, key: str) -> Tensor:
        """The whole tensor."""

    def is_equal(self, one: str, other: str) -> bool:
        """Whether two tensors are the same, bit for bit."""


class TensorReader(AbstractContextManager["TensorReader"]):
    """Reads listed tensors in CPU memory; files are opened once and closed at the end.

    Args:
        stored: what may be asked for.
        is_mapped: give tensors that are views of the file, read when they are touched. The file then must not
            be changed in place as long as they live; changing them does not change the file.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], *, is_mapped: bool = False) -> None:
        self._stored = stored
        self._backend = "mmap" if is_mapped else "pread"
        self._open: dict[Path, Any] = {}

    def read(self, key: str) -> Tensor:
        """The tensor, in its stored dtype.

        Raises:
            CheckpointError: the file cannot be read.
        """
        path = self._stored[key].file
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt", backend=self._backend)
            return self._open[path].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name}: tensor {key!r} cannot be read: {error}") from error

    def is_equal(self, one: str, other: str) -> bool:
        """Whether two tensors are stored with the same bytes; holds a piece of each at a time.

        Raises:
            CheckpointError: a file cannot be read.
        """
        left, right = self._stored[one], self._stored[other]
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        assert left.offset is not None
        assert right.offset is not None
        try:
            with left.file.open("rb", 0) as left_file, right.file.open("rb", 0) as right_file:
                left_file.seek(left.offset)
                right_file.seek(right.offset)
                for start in range(0, left.num_bytes, _COMPARED_BYTES):
                    size = min(_COMPARED_BYTES, left.num_bytes - start)
                    if left_file.read(size) != right_file.read(size):
                        return False
        except OSError as error:
            raise CheckpointError(f"{left.file.name}: {one!r} cannot be read: {error}") from error
        return True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._open:
            self._open.popitem()[1].__exit__(exc_type, exc_value, traceback)


def write_shards(
    folder: Path,
    planned: Sequence[PlannedTensor],
    read: Callable[[str], Tensor],
    *,
    max_shard_bytes: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write tensors as `model.safetensors`, or as shards with an index when one file would be too large.

    Args:
        folder: an existing folder.
        planned: what to write, in this order.
        read: gives the tensor of a key; called once a tensor, as late as possible.
        max_shard_bytes: tensors of one file together; a larger tensor gets a file of its own.
        progress: called with the bytes written and the bytes in all.
    """
    total = sum(tensor.num_bytes for tensor in planned)
    shards: list[list[PlannedTensor]] = [[]]
    used = 0
    for tensor in planned:
        if shards[-1] and used + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += tensor.num_bytes
    names = [SAFETENSORS_NAME]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        if progress is not None:
            progress(done, total)

    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, read, count=count)
    if len(shards) > 1:
        weight_map = {t.key: name for name, shard in zip(names, shards, strict=True) for t in shard}
        write_json(
            folder / f"{SAFETENSORS_NAME}.index.json",
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )


def write_file(
    path: Path,
    planned: Iterable[PlannedTensor],
    read: Callable[[str], Tensor],
    *,
    count: Callable[[int], None] | None = None,
) -> None:
    """Write one safetensors file, tensor by tensor.

    Raises:
        CheckpointError: the disk is full or cannot be written.
    """
    # Wide dtypes first, so that every tensor starts at a multiple of its item size.
    ordered = sorted(planned, key=lambda tensor: -tensor.dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.num_bytes
        header[tensor.key] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for tensor in ordered:
                value = read(tensor.key)
                assert (value.dtype, tuple(value.shape)) == (tensor.dtype, tensor.shape), tensor.key
                flat = value.detach().cpu().contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
                if count is not None:
                    count(tensor.num_bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint.

    Raises:
        CheckpointError: the file is missing, or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object")
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object as the published folders have it: indented, UTF-8, a newline at the end."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, "utf-8", newline="\n")


def _weight_map(index: Path) -> dict[str, str]:
    """The checked table of an index: key -> file name beside the index."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; expected tensor names with their files")
    for name in weight_map.values():
        if not isinstance(name, str) or name in {"", ".", ".."} or set(name) & set("/\\:\0"):
            raise CheckpointError(
                f"{index} names the file {name!r}; expected the name of a file beside the index"
            )
    return weight_map


def _describe_lack(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder; expected a checkpoint with config.json and {name}"
    if name == SAFETENSORS_NAME and (pickles := sorted(folder.glob("*.bin"))):
        return (
            f"{folder} holds weights as pickle only ({pickles[0].name}), which loading refuses to open; "
            f"run `fastvlm models convert {folder} NEW_FOLDER --layout apple` once and load that"
        )
    stem = name.partition(".")[0]
    if shards := sorted(path.name for path in folder.glob(f"{stem}-*-of-*")):
        return f"{folder} holds {shards[0]} but no {name}.index.json; fetch it again"
    return f"{folder} holds no weights; expected {name}, or shards with {name}.index.json"
