"""What this package writes in layout hf, transformers loads and computes alike; and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastvlm.checkpoint.convert import convert_checkpoint
from fastvlm.checkpoint.keymap import CLIP_HEAD
from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.config import TowerForm
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.messages import Message, user_message
from fastvlm.model import FastVLM
from fastvlm.processing.chat_template import ImageSegment, render
from fastvlm.processing.tokenizer import Tokenizer
from tiny_models import VOCAB_SIZE, assert_same_state, random_model, tiny_config

transformers = pytest.importorskip("transformers", reason="needs the 'oracle' dependency group")
pytest.importorskip("timm", reason="needs the 'oracle' dependency group")
pytestmark = pytest.mark.oracle

DOUBLE = torch.float64
# Both compute the tower in float64; Qwen2's norms and rotary angles are float32 in the reference and here.
TOLERANCE = 1e-6


def load_reference(folder: Path, dtype: torch.dtype = DOUBLE) -> torch.nn.Module:
    """transformers' model of a folder, every key accounted for."""
    model, info = transformers.FastVlmForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def assert_same_logits(ours: FastVLM, reference: torch.nn.Module, size: int = 128) -> None:
    generator = torch.Generator().manual_seed(5)
    pixel_values = torch.rand(2, 3, size, size, generator=generator, dtype=DOUBLE)
    image_id = reference.config.image_token_id
    text = torch.randint(0, 600, (2, 12), generator=generator)
    placeholders = torch.full((2, (size // 64) ** 2), image_id)
    input_ids = torch.cat((text[:, :5], placeholders, text[:, 5:]), 1)
    expected = reference(input_ids=input_ids, pixel_values=pixel_values).logits
    features = ours.encode_images(pixel_values)
    hidden = ours(input_ids.masked_fill(input_ids == image_id, IMAGE_TOKEN_ID), features)
    logits = ours.lm_head(hidden)
    assert expected.abs().max() > 0.1
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("form", ["fused", "branched"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_computes_alike_in_transformers(
    tmp_path: Path, form: TowerForm, tied: bool
) -> None:
    model = random_model(tiny_config(form=form, tied=tied), dtype=DOUBLE)
    save_model(model, tmp_path / "c", layout="hf")
    reference = load_reference(tmp_path / "c")
    assert reference.config.tie_word_embeddings == tied
    assert_same_logits(model, reference)


@pytest.mark.parametrize("stores_output", [True, False])
def test_a_converted_folder_computes_alike_in_transformers(
    tmp_path: Path, stores_output: bool
) -> None:
    """Tied, with and without the output layer stored beside the embedding as in the released folders."""
    model = random_model(tiny_config(tied=True), dtype=DOUBLE)
    save_model(model, tmp_path / "a", layout="apple")
    if stores_output:
        store_output_and_head(tmp_path / "a")
    convert_checkpoint(tmp_path / "a", tmp_path / "c", layout="hf", max_shard_bytes=300_000)
    assert_same_logits(model, load_reference(tmp_path / "c"))
    assert_same_logits(load_model(tmp_path / "c", dtype=DOUBLE)[0], load_reference(tmp_path / "c"))


def store_output_and_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[CLIP_HEAD] = torch.zeros(128, 768, dtype=DOUBLE)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("form", ["fused", "branched"])
def test_a_folder_that_transformers_saved_is_loaded_and_converted(
    tmp_path: Path, form: TowerForm
) -> None:
    model = random_model(tiny_config(form=form, tied=True), dtype=DOUBLE)
    save_model(model, tmp_path / "c", layout="hf")
    load_reference(tmp_path / "c").save_pretrained(tmp_path / "theirs")
    loaded, report = load_model(tmp_path / "theirs", dtype=DOUBLE)
    assert_same_state(loaded, model)
    assert loaded.config == model.config
    assert report.problem is None
    convert_checkpoint(tmp_path / "theirs", tmp_path / "a", layout="apple")
    assert_same_state(load_model(tmp_path / "a", dtype=DOUBLE)[0], model)


SLOW = ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json")
TOKENIZER_FILES = {
    "all files": ("tokenizer.json", *SLOW),
    "slow files": SLOW,
    "tokenizer.json alone": ("tokenizer.json",),
}


@pytest.fixture(params=list(TOKENIZER_FILES))
def apple_folder(
    request: pytest.FixtureRequest, tmp_path: Path, small_tokenizer: Tokenizer
) -> Path:
    """A checkpoint in Apple's layout with a tokenizer, in each set of files in use."""
    folder, tokenizer = tmp_path / "a", tmp_path / "tokenizer"
    small_tokenizer.save(tokenizer)
    for path in tokenizer.iterdir():
        if path.name not in TOKENIZER_FILES[request.param]:
            path.unlink()
    model = random_model(tiny_config(), dtype=torch.float32)
    save_model(model, folder, layout="apple", tokenizer_from=tokenizer)
    return folder


def test_auto_processor_prepares_apples_prompt(
    apple_folder: Path, tmp_path: Path, small_tokenizer: Tokenizer
) -> None:
    convert_checkpoint(apple_folder, tmp_path / "c", layout="hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "c")
    image_id = json.loads((tmp_path / "c/config.json").read_text("utf-8"))["image_token_index"]
    assert small_tokenizer.vocab_size == image_id == processor.image_token_id < VOCAB_SIZE

    conversation: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "What are these?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Shapes."}]},
        {"role": "user", "content": "How many?"},
    ]
    prompt = processor.apply_chat_template(conversation, add_generation_prompt=True)
    assert prompt == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<image>\nWhat are these?<|im_end|>\n"
        "<|im_start|>assistant\nShapes.<|im_end|>\n"
        "<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8))
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 128, 128)
    assert 0 <= inputs["pixel_values"].min() <= inputs["pixel_values"].max() <= 1
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(image_id) == 4
    ours = render(
        [
            user_message("What are these?", picture),
            Message.from_text("assistant", "Shapes."),
            user_message("How many?"),
        ],
        small_tokenizer,
    )
    assert ids == [
        token_id
        for segment in ours
        for token_id in ((image_id,) * 4 if isinstance(segment, ImageSegment) else segment.ids)
    ]
    reference = load_reference(tmp_path / "c", torch.float32)
    answer = reference.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert answer.shape[1] == len(ids) + 3


def test_a_system_message_replaces_the_default_one(apple_folder: Path, tmp_path: Path) -> None:
    convert_checkpoint(apple_folder, tmp_path / "c", layout="hf")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "c")
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]
    assert processor.apply_chat_template(conversation) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    )
