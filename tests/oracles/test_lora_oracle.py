"""Adapter folders go both ways between this package and peft on transformers' FastVlm."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from fastvlm.checkpoint.save import save_model
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.model import FastVLM
from fastvlm.train.lora import TARGETS, add_adapters, merge_adapter, merge_state, save_adapter
from fastvlm.train.network import TuningNetwork
from fastvlm.train.parts import choose_trained
from fastvlm.train.settings import TuneSettings
from tiny_models import random_model, tiny_config

transformers = pytest.importorskip("transformers", reason="needs the 'oracle' dependency group")
peft = pytest.importorskip("peft", reason="needs the 'train' extra")
pytest.importorskip("timm", reason="needs the 'oracle' dependency group")
pytestmark = [
    pytest.mark.oracle,
    # peft asks transformers by the name that it is about to drop.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

DOUBLE = torch.float64
# Qwen2's norms and rotary angles are float32 in both; peft's folders hold float32.
TOLERANCE = 1e-6


@pytest.fixture
def base(tmp_path: Path) -> FastVLM:
    """A model, stored in the transformers layout too."""
    model = random_model(tiny_config(), dtype=DOUBLE)
    save_model(model, tmp_path / "base", layout="hf")
    return model


def load_reference(folder: Path) -> torch.nn.Module:
    return transformers.FastVlmForConditionalGeneration.from_pretrained(folder, dtype=DOUBLE).eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 1) -> None:
    """Trained weights as training might leave them: none is zero, whole parts have moved."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


@torch.no_grad()
def assert_same_logits(ours: FastVLM, reference: torch.nn.Module, without: FastVLM) -> None:
    generator = torch.Generator().manual_seed(5)
    pixel_values = torch.rand(2, 3, 128, 128, generator=generator, dtype=DOUBLE)
    image_id = reference.config.image_token_id
    text = torch.randint(0, 600, (2, 12), generator=generator)
    placeholders = torch.full((2, 4), image_id)
    input_ids = torch.cat((text[:, :5], placeholders, text[:, 5:]), 1)
    expected = reference(input_ids=input_ids, pixel_values=pixel_values).logits
    masked = input_ids.masked_fill(input_ids == image_id, IMAGE_TOKEN_ID)
    logits, plain = (
        model.lm_head(model(masked, model.encode_images(pixel_values))) for model in (ours, without)
    )
    largest = expected.abs().max()
    assert (logits - expected).abs().max() <= TOLERANCE * largest
    assert (plain - expected).abs().max() > 0.01 * largest


@pytest.mark.parametrize("trains_tower", [False, True])
@pytest.mark.parametrize("trains_projector", [False, True])
def test_peft_loads_what_is_saved_here(
    base: FastVLM, tmp_path: Path, trains_projector: bool, trains_tower: bool
) -> None:
    settings = TuneSettings(
        lora_rank=4,
        lora_alpha=6.0,
        lora_dropout=0.0,
        train_projector=trains_projector,
        train_vision_tower=trains_tower,
    )
    model = copy.deepcopy(base)
    add_adapters(model, settings)
    choose_trained(TuningNetwork(model), settings)
    randomise(model)
    state = {name: p.detach().float() for name, p in model.named_parameters() if p.requires_grad}
    save_adapter(state, base, settings, tmp_path / "adapter")
    reference = peft.PeftModel.from_pretrained(
        load_reference(tmp_path / "base"), tmp_path / "adapter"
    )
    merged = copy.deepcopy(base)
    merge_state(merged, state, 1.5)
    assert_same_logits(merged, reference.eval(), base)


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_what_peft_saved_is_merged_here(
    base: FastVLM, tmp_path: Path, is_rank_stabilised: bool
) -> None:
    config = peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=list(TARGETS),
        modules_to_save=["multi_modal_projector"],
        use_rslora=is_rank_stabilised,
    )
    reference = peft.get_peft_model(load_reference(tmp_path / "base"), config)
    randomise(reference)
    reference.save_pretrained(tmp_path / "theirs")
    merged = copy.deepcopy(base)
    merge_adapter(merged, tmp_path / "theirs")
    assert_same_logits(merged, reference.eval(), base)


def test_adapters_of_every_linear_layer_are_merged_too(base: FastVLM, tmp_path: Path) -> None:
    """Also the projector's, which peft reaches when it is told to take all linear layers."""
    config = peft.LoraConfig(
        r=2, lora_alpha=2, target_modules=r".*(language_model|projector)\..*(_proj|linear_\d)"
    )
    reference = peft.get_peft_model(load_reference(tmp_path / "base"), config)
    randomise(reference)
    reference.save_pretrained(tmp_path / "theirs")
    merged = copy.deepcopy(base)
    merge_adapter(merged, tmp_path / "theirs")
    assert_same_logits(merged, reference.eval(), base)
