"""Loading is strict: every tensor is used or explained, and what is wrong is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout
from fastvlm.checkpoint.load import check_folder, load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.config import TowerForm
from fastvlm.errors import CheckpointError
from tiny_models import assert_same_state, random_model, tiny_config

BF16 = torch.bfloat16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint in Apple's layout with an untied output layer."""
    save_model(random_model(tiny_config()), tmp_path / "model", layout="apple")
    return tmp_path / "model"


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    data = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**data, **values}), "utf-8")


@pytest.mark.parametrize("layout", ["apple", "hf"])
@pytest.mark.parametrize("form", ["fused", "branched"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_is_loaded(
    tmp_path: Path, layout: Layout, form: TowerForm, tied: bool
) -> None:
    model = random_model(tiny_config(form=form, tied=tied))
    save_model(model, tmp_path / "model", layout=layout)
    loaded, report = load_model(tmp_path / "model", dtype=torch.float32)
    assert_same_state(loaded, model)
    assert loaded.config == model.config
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.language_model.embed_tokens.weight) == tied
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    expected = set(model.state_dict()) - ({"lm_head.weight"} if tied else set())
    assert set(report.loaded) == expected
    assert report.problem is None
    assert not report.missing
    assert not report.unexpected
    assert not report.mismatched
    assert not report.ignored_with_reason


@pytest.mark.parametrize("projector_type", ["linear", "mlp1x_gelu", "mlp3x_gelu"])
def test_other_projectors_are_loaded_from_apples_names(tmp_path: Path, projector_type: str) -> None:
    model = random_model(tiny_config(projector_type=projector_type))
    save_model(model, tmp_path / "model", layout="apple")
    assert_same_state(load_model(tmp_path / "model", dtype=torch.float32)[0], model)
    names = {key for key in load_file(tmp_path / "model/model.safetensors") if "projector" in key}
    first = (
        "model.mm_projector.weight" if projector_type == "linear" else "model.mm_projector.0.weight"
    )
    assert first in names


def test_weights_take_the_dtype_and_counters_stay_numbers(folder: Path) -> None:
    model, _ = load_model(folder, dtype=BF16)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    counters = {name for name in dtypes if name.endswith("num_batches_tracked")}
    assert counters
    assert {dtypes[name] for name in counters} == {torch.int64}
    assert {dtypes[name] for name in dtypes.keys() - counters} == {BF16}


def test_a_value_too_large_for_float16_is_refused(folder: Path) -> None:
    key = "model.vision_tower.vision_tower.model.network.7.0.convffn.conv.bn.running_var"
    change_tensors(folder, lambda tensors: tensors[key].fill_(70000.0))
    with pytest.raises(CheckpointError, match=rf"{key}' holds values up to 7e\+04.*use bfloat16"):
        load_model(folder, dtype=torch.float16)
    load_model(folder, dtype=BF16)


def test_the_clip_head_is_ignored_with_a_reason(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({CLIP_HEAD: torch.zeros(128, 768)}))
    report = load_model(folder, dtype=BF16)[1]
    assert dict(report.ignored_with_reason) == {
        CLIP_HEAD: "head of the CLIP pretraining, which FastVLM never uses"
    }


def test_missing_tensors_are_named_up_to_ten(folder: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if ".layers.1." in key]:
            del tensors[key]

    change_tensors(folder, drop)
    message = (
        r"model does not fit its config.json: 12 missing: model.layers.1.input_layernorm.weight, .* "
        r"and 2 more; the weights and config.json do not belong together"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, dtype=BF16)
    assert len(check_folder(folder).missing) == 12


def test_unexpected_and_mismatched_tensors_are_named(folder: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors["model.image_newline"] = torch.zeros(32)
        tensors["model.norm.weight"] = torch.zeros(31)

    change_tensors(folder, spoil)
    message = (
        r"1 unexpected: model.image_newline; 1 mismatched: model.norm.weight \(\[31\] in the file, "
        r"\[32\] by config.json\)"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, dtype=BF16)


def test_config_of_another_size_is_a_mismatch(folder: Path) -> None:
    change_config(folder, vocab_size=800)
    with pytest.raises(
        CheckpointError, match=r"embed_tokens.weight \(\[700, 32\] in the file, \[800, 32\]"
    ):
        load_model(folder, dtype=BF16)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.uint32])
def test_quantised_weights_are_refused(folder: Path, dtype: torch.dtype) -> None:
    key = "model.layers.0.mlp.up_proj.weight"
    change_tensors(folder, lambda tensors: tensors.update({key: torch.zeros(48, 32).to(dtype)}))
    with pytest.raises(
        CheckpointError, match=rf"{key} \(.* in the file, expected float; quantised"
    ):
        load_model(folder, dtype=BF16)


def test_a_float_counter_is_refused(folder: Path) -> None:
    key = "model.vision_tower.vision_tower.model.network.0.0.convffn.conv.bn.num_batches_tracked"
    change_tensors(folder, lambda tensors: tensors.update({key: torch.zeros(())}))
    with pytest.raises(CheckpointError, match=r"F32 in the file, expected int64"):
        load_model(folder, dtype=BF16)


def test_two_spellings_of_one_tensor_are_refused(folder: Path) -> None:
    head = "model.vision_tower.vision_tower.model."
    key = "conv_exp.reparam_conv.bias"

    def double(tensors: dict[str, Tensor]) -> None:
        tensors["model.vision_tower." + key] = tensors[head + key].clone()

    change_tensors(folder, double)
    with pytest.raises(CheckpointError, match=r"a second tensor for vision_tower.final_conv"):
        load_model(folder, dtype=BF16)


def test_a_tower_without_the_doubled_prefix_is_loaded(folder: Path) -> None:
    model, _ = load_model(folder, dtype=torch.float32)

    def rename(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace("vision_tower.vision_tower.model.", "vision_tower.")] = tensors.pop(
                key
            )

    change_tensors(folder, rename)
    assert_same_state(load_model(folder, dtype=torch.float32)[0], model)


def test_an_mlx_export_is_recognised(folder: Path) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for key in list(tensors):
            tensors["language_model." + key] = tensors.pop(key)

    change_tensors(folder, rename)
    with pytest.raises(
        CheckpointError, match=r"this is an MLX export; load the folder it was made"
    ):
        load_model(folder, dtype=BF16)


def test_a_stored_output_layer_equal_to_the_embedding_is_tied(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)
    change_tensors(
        folder,
        lambda tensors: tensors["lm_head.weight"].copy_(tensors["model.embed_tokens.weight"]),
    )
    model, report = load_model(folder, dtype=BF16)
    assert model.lm_head.weight is model.language_model.embed_tokens.weight
    assert model.config.text.tie_word_embeddings
    assert dict(report.ignored_with_reason) == {
        "lm_head.weight": "equal to model.embed_tokens.weight, to which it is tied"
    }
    assert "lm_head.weight" not in report.loaded
    assert not report.notes


def test_a_stored_output_layer_that_differs_is_kept(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=True)

    def differ_at_the_end(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][-1, -1] += 1

    change_tensors(folder, differ_at_the_end)
    model, report = load_model(folder, dtype=torch.float32)
    assert not model.config.text.tie_word_embeddings
    assert not torch.equal(model.lm_head.weight, model.language_model.embed_tokens.weight)
    assert report.notes == (
        "tie_word_embeddings is true but lm_head.weight differs from model.embed_tokens.weight: kept as a "
        "layer of its own",
    )


def test_a_missing_output_layer_needs_the_tie(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"1 missing: lm_head.weight;"):
        load_model(folder, dtype=BF16)
    change_config(folder, tie_word_embeddings=True)
    model, _ = load_model(folder, dtype=BF16)
    assert model.lm_head.weight is model.language_model.embed_tokens.weight


def test_shards_load_like_one_file(tmp_path: Path) -> None:
    model = random_model(tiny_config())
    save_model(model, tmp_path / "model", layout="hf", max_shard_bytes=100_000)
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) > 3
    assert_same_state(load_model(tmp_path / "model", dtype=torch.float32)[0], model)


def test_loading_writes_nothing_into_the_folder(folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    load_model(folder, dtype=BF16)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def projector_of(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {key: value + 1 for key, value in tensors.items() if "mm_projector" in key}


@pytest.fixture
def projector_folder(folder: Path, tmp_path: Path) -> Path:
    """What LLaVA's first training stage leaves behind, as safetensors."""
    path = tmp_path / "projector"
    path.mkdir()
    save_file(projector_of(folder), path / "mm_projector.safetensors")
    shutil.copy(folder / "config.json", path)
    return path


def test_a_projector_goes_on_top_of_its_base(folder: Path, projector_folder: Path) -> None:
    model, report = load_model(projector_folder, dtype=torch.float32, base=folder)
    expected, _ = load_model(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in expected.projector.parameters():
            parameter.add_(1)
    assert_same_state(model, expected)
    assert report.notes == (f"projector from {projector_folder / 'mm_projector.safetensors'}",)


def test_a_projector_needs_its_base(folder: Path, projector_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds only a projector .* as base \(--model-base\)"
    ):
        load_model(projector_folder, dtype=BF16)
    with pytest.raises(CheckpointError, match=r"is a full checkpoint; it takes no base"):
        load_model(folder, dtype=BF16, base=folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CheckpointError, match=r"holds no projector; expected mm_projector.safetensors"
    ):
        load_model(tmp_path / "empty", dtype=BF16, base=folder)


def test_a_projector_of_another_size_is_refused(folder: Path, projector_folder: Path) -> None:
    save_file(
        {"mm_projector.0.weight": torch.zeros(32, 5), "mm_projector.7.weight": torch.zeros(1)},
        projector_folder / "mm_projector.safetensors",
    )
    message = (
        r"does not fit the projector mlp2x_gelu of its base: 3 missing: .*; 1 unexpected: mm_projector.7.weight; "
        r"1 mismatched: mm_projector.0.weight"
    )
    with pytest.raises(CheckpointError, match=message):
        load_model(projector_folder, dtype=BF16, base=folder)


def test_pickled_weights_are_not_opened(folder: Path, projector_folder: Path) -> None:
    (projector_folder / "mm_projector.safetensors").unlink()
    (projector_folder / "mm_projector.bin").write_bytes(b"never read")
    with pytest.raises(
        CheckpointError, match=r"as pickle \(mm_projector.bin\).*fastvlm models convert"
    ):
        load_model(projector_folder, dtype=BF16, base=folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pickle only \(pytorch_model.bin\).*models convert"):
        load_model(folder, dtype=BF16)
