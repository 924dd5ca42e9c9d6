import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fastvlm.checkpoint.safetensors_header import read_safetensors_header
from fastvlm.errors import CheckpointError

TENSORS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.zeros(5, dtype=np.float16),
    "counter": np.array(7, dtype=np.int64),
    "empty": np.zeros((0, 4), dtype=np.uint8),
}


def with_header(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_names_dtypes_and_shapes_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(TENSORS, metadata={"format": "pt"}))

    entries = read_safetensors_header(path)

    assert {name: entry.shape for name, entry in entries.items()} == {
        name: tensor.shape for name, tensor in TENSORS.items()
    }
    assert {name: entry.num_bytes for name, entry in entries.items()} == {
        name: tensor.nbytes for name, tensor in TENSORS.items()
    }
    assert entries["b.bias"].dtype == "F16"


@settings(deadline=None)
@given(length=st.integers(0, len(save(TENSORS)) - 1))
def test_every_cut_is_noticed(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(save(TENSORS)[:length])

    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        read_safetensors_header(path)


def test_bytes_too_many_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(TENSORS) + b"!")

    with pytest.raises(CheckpointError, match="longer than it should be"):
        read_safetensors_header(path)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not a model</html>", "no safetensors header"),
        ((2**63).to_bytes(8, "little") + b"{}", "no safetensors header"),
        ((4).to_bytes(8, "little") + b"abcd", "not JSON"),
        (with_header([], b""), "is list, expected object"),
        (with_header({"a": {**F32, "dtype": "F33"}}, bytes(8)), "bad entry of tensor 'a'"),
        (with_header({"a": {**F32, "shape": [3]}}, bytes(8)), "needs 12 bytes, the entry has 8"),
        (with_header({"a": {**F32, "shape": [-2]}}, bytes(8)), "not all counts"),
        (with_header({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "not all counts"),
        (with_header({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)), "bad entry"),
        (with_header({"a": 3}, bytes(8)), "bad entry"),
        (with_header({"a": F32, "b": F32}, bytes(8)), "overlap or have gaps"),
        (with_header({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16)), "overlap or have gaps"),
    ],
)
def test_damaged_headers_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        read_safetensors_header(path)
    with pytest.raises(SafetensorError):
        load(content)  # the library agrees


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_safetensors_header(tmp_path / "model.safetensors")
