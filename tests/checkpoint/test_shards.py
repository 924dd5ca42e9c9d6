"""Weight files: found by their index, read without a second copy, written so that the library reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastvlm.checkpoint.shards import (
    DTYPES,
    PlannedTensor,
    TensorReader,
    find_shards,
    list_file,
    list_tensors,
    write_file,
    write_shards,
)
from fastvlm.errors import CheckpointError


def plan(tensors: dict[str, Tensor]) -> list[PlannedTensor]:
    return [PlannedTensor(key, value.dtype, tuple(value.shape)) for key, value in tensors.items()]


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return (torch.randn(shape) * 50).to(dtype)


@settings(deadline=None)
@given(
    described=st.dictionaries(
        st.text('abc.ä\n"\\', min_size=1, max_size=6),
        st.tuples(
            st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3).map(tuple)
        ),
        min_size=1,
    )
)
def test_the_library_reads_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, described: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    tensors = {key: random_tensor(DTYPES[code], shape) for key, (code, shape) in described.items()}
    write_file(path, plan(tensors), tensors.__getitem__)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[key], value) for key, value in tensors.items())
    for is_mapped in (False, True):
        with TensorReader(list_file(path), is_mapped=is_mapped) as reader:
            assert all(torch.equal(reader.read(key), value) for key, value in tensors.items())


@pytest.mark.parametrize("num_values", [1, 300_000])  # more than is compared at a time
def test_equal_means_the_same_bits_of_the_same_kind(tmp_path: Path, num_values: int) -> None:
    value = random_tensor(torch.float32, (num_values,))
    last_differs = value.clone()
    last_differs[-1] += 1
    tensors = {
        "value": value,
        "same": value,
        "not a number": value * float("nan"),
        "last differs": last_differs,
        "other shape": value[:, None],
        "other dtype": value.view(torch.int32),
    }
    write_file(tmp_path / "a.safetensors", plan(tensors), tensors.__getitem__)
    write_file(tmp_path / "b.safetensors", plan({"elsewhere": value}), lambda _: value)
    stored = list_file(tmp_path / "a.safetensors") | list_file(tmp_path / "b.safetensors")
    with TensorReader(stored) as reader:
        equal = [key for key in stored if reader.is_equal("value", key)]
        assert sorted(equal) == ["elsewhere", "same", "value"]
        assert reader.is_equal("not a number", "not a number")


def test_views_and_transposed_tensors_are_written_as_they_look(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {"transposed": whole.T, "row": whole[1], "scalar": whole[2, 3]}
    write_file(tmp_path / "a.safetensors", plan(tensors), tensors.__getitem__)
    read = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(read[key], value) for key, value in tensors.items())


def write_three_shards(folder: Path) -> dict[str, Tensor]:
    tensors = {name: torch.randn(10) for name in "abcde"}
    write_shards(folder, plan(tensors), tensors.__getitem__, max_shard_bytes=80)
    return tensors


def test_shards_and_index_are_those_of_transformers(tmp_path: Path) -> None:
    tensors = write_three_shards(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"] == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00001-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00002-of-00003.safetensors",
        "e": "model-00003-of-00003.safetensors",
    }
    stored = list_tensors(tmp_path)
    with TensorReader(stored) as reader:
        assert all(torch.equal(reader.read(key), value) for key, value in tensors.items())


def test_a_tensor_larger_than_a_shard_gets_a_file_of_its_own(tmp_path: Path) -> None:
    tensors = {"small": torch.zeros(1), "large": torch.zeros(100), "last": torch.zeros(1)}
    write_shards(tmp_path, plan(tensors), tensors.__getitem__, max_shard_bytes=8)
    assert len(find_shards(tmp_path)) == 3


def test_progress_counts_bytes(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(10) for name in "abc"}
    seen: list[tuple[int, int]] = []
    write_shards(
        tmp_path,
        plan(tensors),
        tensors.__getitem__,
        max_shard_bytes=50,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(40, 120), (80, 120), (120, 120)]


def edit_index(folder: Path, **weight_map: object) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text("utf-8"))
    index["weight_map"] |= weight_map
    path.write_text(json.dumps(index), "utf-8")


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "a/b.safetensors", "a\\b", "C:x", "/etc/passwd", "..", "", 5, None],
)
def test_an_index_that_names_other_places_is_refused(tmp_path: Path, name: object) -> None:
    write_three_shards(tmp_path)
    edit_index(tmp_path, a=name)
    with pytest.raises(CheckpointError, match=r"expected the name of a file beside the index"):
        find_shards(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_three_shards(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 3 weight files: model-00002-of-00003"):
        list_tensors(tmp_path)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write_three_shards(tmp_path)
    shard = tmp_path / "model-00003-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model-00003-of-00003.safetensors is cut short"):
        list_tensors(tmp_path)


def test_an_index_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    write_three_shards(tmp_path)
    edit_index(tmp_path, ghost="model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"promises tensor 'ghost' in model-00001-of-00003"):
        list_tensors(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_three_shards(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00003-of-00003.safetensors")
    with pytest.raises(
        CheckpointError, match=r"'a' is stored twice: in model-00001.* and in model-0"
    ):
        list_tensors(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{"])
def test_a_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json "):
        find_shards(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [],
            r"holds no weights; expected model.safetensors, or shards with model.safetensors.index",
        ),
        (["pytorch_model.bin"], r"pickle only \(pytorch_model.bin\).*fastvlm models convert"),
        (
            ["model-00001-of-00002.safetensors"],
            r"model-00001.* but no model.safetensors.index.json",
        ),
    ],
)
def test_a_folder_without_usable_weights_says_what_to_do(
    tmp_path: Path, files: list[str], message: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=message):
        find_shards(tmp_path)


def test_a_path_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere is not a folder"):
        find_shards(tmp_path / "nowhere")


def test_a_file_that_vanishes_is_a_clear_error(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    stored = list_tensors(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with (
        TensorReader(stored) as reader,
        pytest.raises(CheckpointError, match=r"model.safetensors: tensor 'a' cannot be read"),
    ):
        reader.read("a")
