"""Folders with random weights: complete, the same in both layouts, and alive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastvlm.bench.photo import draw_photo
from fastvlm.bench.protocol import PROMPT
from fastvlm.bench.random_checkpoint import small_tokenizer, write_random_checkpoint
from fastvlm.checkpoint.load import OUTPUT_LAYER, load_model
from fastvlm.checkpoint.shards import list_tensors
from fastvlm.config import FastVLMConfig, preset
from fastvlm.engine import Engine
from fastvlm.errors import CheckpointError, ConfigError
from fastvlm.messages import user_message
from fastvlm.processing.processor import Processor
from fastvlm.processing.tokenizer import Tokenizer
from tiny_models import assert_same_state, tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_both_layouts_hold_the_same_network(tmp_path: Path, tied: bool) -> None:
    config = tiny_config(tied=tied)
    models = []
    for layout in ("apple", "hf"):
        write_random_checkpoint(tmp_path / layout, config, layout=layout, seed=5)
        model, report = load_model(tmp_path / layout, dtype=torch.bfloat16)
        assert report.problem is None
        assert (model.lm_head.weight is model.language_model.embed_tokens.weight) == tied
        models.append(model)
    assert_same_state(*models)


def test_a_tied_output_layer_is_stored_as_the_released_folders_do(tmp_path: Path) -> None:
    config = tiny_config(tied=True)
    write_random_checkpoint(tmp_path / "apple", config, layout="apple")
    write_random_checkpoint(tmp_path / "hf", config, layout="hf")
    assert OUTPUT_LAYER in list_tensors(tmp_path / "apple")
    assert OUTPUT_LAYER not in list_tensors(tmp_path / "hf")


def test_seeds_give_different_weights(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_random_checkpoint(tmp_path / str(seed), tiny_config(), layout="apple", seed=seed)
    first, second = (load_model(tmp_path / str(s), dtype=torch.float32)[0] for s in (0, 1))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)


@pytest.mark.parametrize("form", ["fused", "branched"])
@torch.no_grad()
def test_activations_are_finite_and_depend_on_the_picture(tmp_path: Path, form: str) -> None:
    config = preset("nano")
    config = replace(config, vision=replace(config.vision, form=form))
    write_random_checkpoint(tmp_path / "nano", config, layout="apple")
    model, _ = load_model(tmp_path / "nano", dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 192, 192, generator=generator).bfloat16()
    features = model.encode_images(pixels).float()
    assert torch.isfinite(features).all()
    assert 1e-3 < features.std() < 1e3
    assert (features[0] - features[1]).abs().max() > 0.01 * features.std()


def test_answers_change_from_token_to_token_and_with_the_picture(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "nano", preset("nano"), layout="apple")
    engine = Engine.load(tmp_path / "nano", device="cpu", dtype="float32")
    photos = [draw_photo(width=192, height=192, seed=seed) for seed in (1, 2)]
    first, second = (
        engine.ask(PROMPT, images=[photo], max_new_tokens=24, ignore_eos=True).token_ids
        for photo in photos
    )
    assert len(set(first)) > 8
    assert first != second


@pytest.mark.parametrize("name", ["0.5b", "7b"])
def test_prompts_are_as_long_as_with_the_released_tokenizer(name: str) -> None:
    config = preset(name)
    processor = Processor(config, small_tokenizer(config.text.vocab_size))
    black = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    length = len(processor([user_message(PROMPT, black)]).input_ids)
    assert config.num_image_tokens + 24 <= length <= config.num_image_tokens + 30


def test_folder_has_a_tokenizer_and_is_never_half_written(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "model", tiny_config(), layout="apple")
    assert Tokenizer.from_folder(tmp_path / "model").decode([]) == ""
    with pytest.raises(CheckpointError, match="not an empty folder"):
        write_random_checkpoint(tmp_path / "model", tiny_config(), layout="apple")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_vocabulary_smaller_than_the_alphabet_is_refused(tmp_path: Path) -> None:
    small: FastVLMConfig = tiny_config()
    small = replace(small, text=replace(small.text, vocab_size=100))
    with pytest.raises(ConfigError, match="too small; expected at least 259"):
        write_random_checkpoint(tmp_path / "model", small, layout="apple")
    assert list(tmp_path.iterdir()) == []
