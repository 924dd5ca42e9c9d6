"""Conversion moves every tensor and loses none."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.convert import convert_checkpoint
from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout
from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import SIDE_FILE, save_model
from fastvlm.config import TowerForm
from fastvlm.errors import CheckpointError, ConfigError
from tiny_models import VOCAB_SIZE, assert_same_state, random_model, tiny_config

BF16 = torch.bfloat16


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, read by the safetensors library, those of the side file not counted."""
    files = [path for path in folder.glob("*.safetensors") if path.name != SIDE_FILE]
    return {key: value for file in files for key, value in load_file(file).items()}


def assert_equal_tensors(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert value.dtype == right[key].dtype, key
        assert torch.equal(value, right[key]), key


def make_apple_folder(
    folder: Path,
    *,
    form: TowerForm = "fused",
    tied: bool = False,
    stores_output: bool = True,
    dtype: torch.dtype = BF16,
) -> dict[str, Tensor]:
    """Like a published folder: with the CLIP head, and the output layer stored even where it is tied."""
    model = random_model(tiny_config(form=form, tied=tied), dtype=dtype)
    save_model(model, folder, layout="apple")
    tensors = read_tensors(folder)
    tensors[CLIP_HEAD] = torch.randn(128, 768).to(dtype)
    if stores_output:
        tensors["lm_head.weight"] = model.lm_head.weight.detach().clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return tensors


@pytest.mark.parametrize("form", ["fused", "branched"])
@pytest.mark.parametrize(("tied", "stores_output"), [(False, True), (True, True), (True, False)])
def test_there_and_back_is_bit_equal(
    tmp_path: Path, form: TowerForm, tied: bool, stores_output: bool
) -> None:
    original = make_apple_folder(tmp_path / "a", form=form, tied=tied, stores_output=stores_output)
    there = convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    assert there.source_layout == "apple"
    assert there.set_aside == (CLIP_HEAD,)
    assert there.num_tensors == len(original) - 1
    assert SIDE_FILE in there.files
    assert CLIP_HEAD not in read_tensors(tmp_path / "c")

    back = convert_checkpoint(tmp_path / "c", tmp_path / "a2", layout="apple")
    assert back.source_layout == "hf"
    assert back.set_aside == ()
    assert_equal_tensors(read_tensors(tmp_path / "a2"), original)
    assert read_config(tmp_path / "a2") == read_config(tmp_path / "a")
    written = json.loads((tmp_path / "a/config.json").read_text("utf-8"))
    assert json.loads((tmp_path / "a2/config.json").read_text("utf-8")) == written


@settings(max_examples=6, deadline=None)
@given(
    route=st.lists(st.sampled_from(["apple", "hf"]), min_size=1, max_size=4),
    shard_bytes=st.sampled_from([100_000, 250_000, 10**9]),
)
def test_any_route_ends_where_it_began(
    tmp_path_factory: pytest.TempPathFactory, route: list[Layout], shard_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("route")
    original = make_apple_folder(folder / "0")
    for step, layout in enumerate([*route, "apple"]):
        convert_checkpoint(
            folder / str(step), folder / str(step + 1), layout=layout, max_shard_bytes=shard_bytes
        )
    assert_equal_tensors(read_tensors(folder / str(len(route) + 1)), original)


@pytest.mark.parametrize("layout", ["apple", "hf"])
def test_the_converted_model_is_the_same(tmp_path: Path, layout: Layout) -> None:
    make_apple_folder(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "b", layout=layout)
    assert_same_state(
        load_model(tmp_path / "a", dtype=BF16)[0], load_model(tmp_path / "b", dtype=BF16)[0]
    )


def test_dtype_applies_to_all_but_counters(tmp_path: Path) -> None:
    original = make_apple_folder(tmp_path / "a", dtype=torch.float32)
    convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="hf", dtype=BF16)
    tensors = read_tensors(tmp_path / "b") | load_file(tmp_path / "b" / SIDE_FILE)
    assert {t.dtype for t in tensors.values()} == {BF16, torch.int64}
    assert torch.equal(tensors[CLIP_HEAD], original[CLIP_HEAD].to(BF16))
    config = json.loads((tmp_path / "b/config.json").read_text("utf-8"))
    assert (config["dtype"], config["text_config"]["dtype"]) == ("bfloat16", "bfloat16")


def test_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    seen: list[tuple[int, int]] = []
    report = convert_checkpoint(
        tmp_path / "a", tmp_path / "b", layout="hf", progress=lambda *counts: seen.append(counts)
    )
    assert seen[-1] == (report.num_bytes, report.num_bytes)
    assert seen == sorted(seen)


def test_an_output_layer_that_differs_is_declared_untied(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    config = json.loads((tmp_path / "a/config.json").read_text("utf-8"))
    (tmp_path / "a/config.json").write_text(
        json.dumps({**config, "tie_word_embeddings": True}), "utf-8"
    )
    report = convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    assert "lm_head.weight differs" in report.notes[0]
    assert not read_config(tmp_path / "c")[0].text.tie_word_embeddings


def test_layout_hf_says_that_its_processor_crops(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    report = convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    assert any("crops the centre" in note for note in report.notes)
    assert {"processor_config.json", "preprocessor_config.json", "chat_template.jinja"} <= set(
        report.files
    )


def test_processor_files_of_transformers_are_kept(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    (tmp_path / "c/chat_template.jinja").write_text("mine", "utf-8")
    convert_checkpoint(tmp_path / "c", tmp_path / "c2", layout="hf")
    assert (tmp_path / "c2/chat_template.jinja").read_text("utf-8") == "mine"


def pickle_folder(folder: Path, tensors: dict[str, Tensor], **options: Any) -> None:
    """Turn a folder into one with two pickle shards and their index."""
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)]
    weight_map = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        part = {key: tensors[key].clone() for key, file in weight_map.items() if file == name}
        torch.save(part, folder / name, **options)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_shards_become_safetensors(tmp_path: Path, is_zip: bool) -> None:
    tensors = make_apple_folder(tmp_path / "a", tied=True)
    pickle_folder(tmp_path / "a", tensors, _use_new_zipfile_serialization=is_zip)
    convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="apple")
    assert_equal_tensors(read_tensors(tmp_path / "b"), tensors)
    assert not list((tmp_path / "b").glob("*.bin*"))


class Trap:
    """Runs a command when it is unpickled by an ordinary unpickler."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, is_zip: bool) -> None:
    make_apple_folder(tmp_path / "a")
    (tmp_path / "a/model.safetensors").unlink()
    sprung = tmp_path / "sprung"
    torch.save(
        {"weight": Trap(sprung)},
        tmp_path / "a/pytorch_model.bin",
        _use_new_zipfile_serialization=is_zip,
    )
    with pytest.raises(
        CheckpointError, match=r"pytorch_model.bin cannot be opened as weights only"
    ):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="apple")
    assert not sprung.exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no zip",
        b"\x80\x02}q\x00.",
        pickle.dumps({"a": [1]}),
        pickle.dumps(["a"]),
        bytes(200),
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_a_damaged_pickle_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    make_apple_folder(tmp_path / "a")
    (tmp_path / "a/model.safetensors").unlink()
    (tmp_path / "a/pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin|does not fit its config.json"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="apple")


@pytest.fixture(scope="module")
def pickled_projector() -> bytes:
    buffer = io.BytesIO()
    tensors = {"mm_projector.0.weight": torch.ones(4, 3), "mm_projector.0.bias": torch.ones(4)}
    torch.save(tensors, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(flips=st.dictionaries(st.integers(0, 800), st.integers(0, 255), min_size=1, max_size=5))
def test_flipped_bytes_never_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, pickled_projector: bytes, flips: dict[int, int]
) -> None:
    content = bytearray(pickled_projector)
    for position, value in flips.items():
        content[position % len(content)] = value
    folder = tmp_path_factory.mktemp("flipped")
    (folder / "src").mkdir()
    (folder / "src/mm_projector.bin").write_bytes(content)
    with contextlib.suppress(CheckpointError):
        convert_checkpoint(folder / "src", folder / "dst", layout="apple")
        assert load_file(folder / "dst/mm_projector.safetensors")


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    (tmp_path / "a/model.safetensors").unlink()
    torch.save({"step": 3, "model": {}}, tmp_path / "a/pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds dict; expected tensors by name"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="apple")


def make_projector_folder(folder: Path, base: Path) -> dict[str, Tensor]:
    folder.mkdir()
    tensors = {k: v + 1 for k, v in read_tensors(base).items() if "mm_projector" in k}
    torch.save(tensors, folder / "mm_projector.bin")
    shutil.copy(base / "config.json", folder)
    return tensors


def test_a_pickled_projector_loads_on_its_base_after_conversion(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "base")
    tensors = make_projector_folder(tmp_path / "stage1", tmp_path / "base")
    report = convert_checkpoint(tmp_path / "stage1", tmp_path / "projector", layout="apple")
    assert report.files == ("config.json", "mm_projector.safetensors")
    assert_equal_tensors(load_file(tmp_path / "projector/mm_projector.safetensors"), tensors)
    model, _ = load_model(tmp_path / "projector", dtype=BF16, base=tmp_path / "base")
    assert torch.equal(model.projector.layers[0].bias, tensors["model.mm_projector.0.bias"])


def test_a_projector_alone_has_no_place_in_transformers(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "base")
    make_projector_folder(tmp_path / "stage1", tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"holds only a projector.*use layout 'apple'"):
        convert_checkpoint(tmp_path / "stage1", tmp_path / "projector", layout="hf")


def test_a_projector_file_with_other_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stage1").mkdir()
    torch.save({"model.embed_tokens.weight": torch.zeros(3)}, tmp_path / "stage1/mm_projector.bin")
    with pytest.raises(
        CheckpointError, match=r"1 tensors that are no projector's: model.embed_tok"
    ):
        convert_checkpoint(tmp_path / "stage1", tmp_path / "projector", layout="apple")


def test_a_failure_leaves_no_half_folder(tmp_path: Path) -> None:
    tensors = make_apple_folder(tmp_path / "a", dtype=torch.float32)
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, tmp_path / "a/model.safetensors")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' holds values up to 1e\+06"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="hf", dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_incomplete_source_is_refused(tmp_path: Path) -> None:
    tensors = make_apple_folder(tmp_path / "a")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "a/model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: model.norm.weight"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", layout="hf")


def test_a_network_without_a_place_is_refused(tmp_path: Path) -> None:
    save_model(
        random_model(tiny_config(projector_type="mlp3x_gelu")), tmp_path / "a", layout="apple"
    )
    with pytest.raises(ConfigError, match=r"two linear layers"):
        convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    assert not (tmp_path / "c").exists()


def test_a_taken_place_is_refused(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a exists and is not an empty folder"):
        convert_checkpoint(tmp_path / "a", tmp_path / "a", layout="hf")


def test_a_folder_can_be_converted_in_place(tmp_path: Path) -> None:
    original = make_apple_folder(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "a", layout="hf", overwrite=True)
    convert_checkpoint(tmp_path / "a", tmp_path / "a", layout="apple", overwrite=True)
    assert_equal_tensors(read_tensors(tmp_path / "a"), original)


def test_without_a_tokenizer_the_last_row_stands_for_pictures(tmp_path: Path) -> None:
    make_apple_folder(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf")
    config = json.loads((tmp_path / "c/config.json").read_text("utf-8"))
    assert config["image_token_index"] == VOCAB_SIZE - 1
