"""Loading for inference: the same numbers, folded, and left in the file where that is possible."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.config import TowerForm
from fastvlm.model import deep_fuse
from tiny_models import assert_same_state, random_model, tiny_config

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")


@pytest.fixture(params=["fused", "branched"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    form: TowerForm = request.param
    save_model(
        random_model(tiny_config(form=form, tied=True), dtype=torch.bfloat16),
        tmp_path / "model",
        layout="apple",
    )
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_is_what_folding_afterwards_gives(folder: Path, dtype: torch.dtype) -> None:
    plain, _ = load_model(folder, dtype=dtype)
    loaded, report = load_model(folder, dtype=dtype, for_inference=True)
    assert report.problem is None
    assert not loaded.training
    assert loaded.vision_tower.config.form == "deep_fused"
    assert_same_state(loaded.vision_tower, deep_fuse(plain.vision_tower))
    assert_same_state(loaded.projector, plain.projector)
    assert_same_state(loaded.language_model, plain.language_model)
    assert loaded.lm_head.weight is loaded.language_model.embed_tokens.weight


@torch.no_grad()
def test_changing_the_model_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    loaded, _ = load_model(folder, dtype=torch.bfloat16, for_inference=True)
    for parameter in loaded.parameters():
        parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_the_file_may_be_replaced_while_the_model_is_used(folder: Path, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("nothing stays in the file there")
    plain, _ = load_model(folder, dtype=torch.bfloat16)
    loaded, _ = load_model(folder, dtype=torch.bfloat16, for_inference=True)
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"something else")
    other.replace(folder / "model.safetensors")
    assert_same_state(loaded.language_model, plain.language_model)


@linux_only
def test_weights_stay_in_the_file_where_they_need_no_conversion(folder: Path) -> None:
    weights = str(folder / "model.safetensors")
    loaded, _ = load_model(folder, dtype=torch.bfloat16, for_inference=True)
    assert weights in maps()
    del loaded
    gc.collect()
    assert weights not in maps()


@linux_only
@pytest.mark.parametrize(
    ("dtype", "for_inference"), [(torch.float32, True), (torch.bfloat16, False)]
)
def test_otherwise_the_file_is_let_go(
    folder: Path, dtype: torch.dtype, for_inference: bool
) -> None:
    loaded, _ = load_model(folder, dtype=dtype, for_inference=for_inference)
    assert str(folder / "model.safetensors") not in maps()
    assert loaded.lm_head.weight.dtype == dtype


def maps() -> str:
    return Path("/proc/self/maps").read_text("utf-8")
