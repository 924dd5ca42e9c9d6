"""Saving: whole or not at all, with everything a loader needs beside the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastvlm.checkpoint.keymap import CLIP_HEAD
from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import clip_head, find_clip_head, new_folder, save_model
from fastvlm.config import preset
from fastvlm.errors import CheckpointError, ConfigError
from fastvlm.model import deep_fuse
from tiny_models import assert_same_state, random_model, tiny_config


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_dtype_is_that_of_the_model_or_the_one_asked_for(tmp_path: Path) -> None:
    model = random_model(tiny_config(), dtype=torch.float32)
    save_model(model, tmp_path / "own", layout="apple")
    save_model(model, tmp_path / "half", layout="apple", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "own/config.json").read_text("utf-8"))["torch_dtype"] == "float32"
    assert (
        json.loads((tmp_path / "half/config.json").read_text("utf-8"))["torch_dtype"] == "bfloat16"
    )
    stored = load_file(tmp_path / "half/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16, torch.int64}
    assert_same_state(load_model(tmp_path / "half", dtype=torch.bfloat16)[0], model.bfloat16())


def test_a_tied_output_layer_is_not_stored_twice(tmp_path: Path) -> None:
    save_model(random_model(tiny_config(tied=True)), tmp_path / "model", layout="apple")
    assert "lm_head.weight" not in load_file(tmp_path / "model/model.safetensors")


def test_an_output_layer_that_came_loose_is_stored_as_its_own(tmp_path: Path) -> None:
    model = random_model(tiny_config(tied=True))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    save_model(model, tmp_path / "model", layout="apple")
    loaded, _ = load_model(tmp_path / "model", dtype=torch.float32)
    assert not loaded.config.text.tie_word_embeddings
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_tokenizer_licence_and_generation_settings_come_along(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    for name in ("vocab.json", "merges.txt", "LICENSE", "generation_config.json", "other.txt"):
        (origin / name).write_text(f'{{"from": "{name}"}}', "utf-8")
    (origin / "vocab.json").write_text('{"a": 0}', "utf-8")
    save_model(random_model(tiny_config()), tmp_path / "new", layout="apple", tokenizer_from=origin)
    assert names_in(tmp_path / "new") == [
        "LICENSE",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
        "vocab.json",
    ]
    settings = json.loads((tmp_path / "new/generation_config.json").read_text("utf-8"))
    assert settings == {"from": "generation_config.json"}


def test_generation_settings_are_greedy_and_end_at_eos_by_default(tmp_path: Path) -> None:
    save_model(random_model(tiny_config()), tmp_path / "new", layout="hf")
    settings = json.loads((tmp_path / "new/generation_config.json").read_text("utf-8"))
    assert settings == {
        "bos_token_id": 640,
        "do_sample": False,
        "eos_token_id": 642,
        "pad_token_id": 640,
    }


def test_a_full_folder_is_only_replaced_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    save_model(random_model(tiny_config()), target, layout="apple")
    with pytest.raises(
        CheckpointError, match=r"model exists and is not an empty folder; name another"
    ):
        save_model(random_model(tiny_config()), target, layout="apple")
    other = random_model(tiny_config(), seed=1)
    save_model(other, target, layout="apple", overwrite=True)
    assert_same_state(load_model(target, dtype=torch.float32)[0], other)
    assert names_in(tmp_path) == ["model"]


def test_a_file_in_the_way_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(CheckpointError, match=r"file exists and is not an empty folder"):
        save_model(random_model(tiny_config()), tmp_path / "file", layout="apple", overwrite=True)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "mine.txt").write_text("mine", "utf-8")

    def interrupted() -> None:
        with new_folder(target, overwrite=True) as staging:
            (staging / "half.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names_in(tmp_path) == ["model"]
    assert names_in(target) == ["mine.txt"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    save_model(random_model(tiny_config()), tmp_path / "a/b/model", layout="apple")
    assert (tmp_path / "a/b/model/config.json").is_file()


def test_a_deep_fused_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = random_model(tiny_config())
    with pytest.raises(ConfigError, match=r"save the model before deep_fuse"):
        save_model(deep_fuse(model), tmp_path / "model", layout="apple")
    assert names_in(tmp_path) == []


def test_apples_code_gets_a_clip_head_of_zeros_when_the_original_is_unknown() -> None:
    head, notes = clip_head(preset("0.5b"), "apple", torch.bfloat16, source=None)
    assert head is not None
    assert (head.dtype, tuple(head.shape)) == (torch.bfloat16, (3072, 768))
    assert not head.any()
    assert notes == (
        f"{CLIP_HEAD} is not known: written as zeros, because Apple's code wants it and never uses it",
    )


@pytest.mark.parametrize(
    ("name", "form", "layout"),
    [("nano", "fused", "apple"), ("0.5b", "fused", "hf"), ("0.5b", "branched", "apple")],
)
def test_only_the_published_tower_in_apples_layout_has_a_clip_head(name, form, layout) -> None:
    assert clip_head(preset(name, form=form), layout, torch.bfloat16, source=None) == (None, ())


def test_a_folder_without_a_clip_head_has_none(tmp_path: Path) -> None:
    save_model(random_model(tiny_config()), tmp_path / "model", layout="apple")
    assert find_clip_head(tmp_path / "model") is None


def test_a_tokenizer_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"nowhere is not a folder; expected one with tokenizer"
    ):
        save_model(
            random_model(tiny_config()),
            tmp_path / "model",
            layout="apple",
            tokenizer_from=tmp_path / "nowhere",
        )
    assert names_in(tmp_path) == []
