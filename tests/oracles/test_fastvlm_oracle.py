"""The joined network gives the numbers and the greedy text of transformers' FastVlm port."""

from __future__ import annotations

import pytest
import torch

from fastvlm.config import FastVLMConfig, TextConfig, VisionConfig, num_image_tokens
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.model import FastVLM, GrowingCache

transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.oracle

CONFIG = FastVLMConfig(
    vision=VisionConfig(
        depths=(1, 1, 1, 1, 1),
        widths=(16, 32, 32, 64, 64),
        mlp_ratios=(2, 2, 2, 2, 2),
        layer_scale_init=0.3,
    ),
    text=TextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=120,
        tie_word_embeddings=False,
    ),
    image_size=128,
)
IMAGE_ID_OF_REFERENCE = 119


def build_reference() -> torch.nn.Module:
    vision, text = CONFIG.vision, CONFIG.text
    return transformers.FastVlmForConditionalGeneration(
        transformers.FastVlmConfig(
            vision_config={
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "do_pooling": True,
                "global_pool": "avg",
                "hidden_size": vision.hidden_size,
                "model_args": {
                    "inference_mode": True,
                    "layers": vision.depths,
                    "embed_dims": vision.widths,
                    "mlp_ratios": vision.mlp_ratios,
                },
            },
            text_config={
                "model_type": "qwen2",
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "num_hidden_layers": text.num_hidden_layers,
                "num_attention_heads": text.num_attention_heads,
                "num_key_value_heads": text.num_key_value_heads,
                "vocab_size": text.vocab_size,
                "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
            },
            image_token_id=IMAGE_ID_OF_REFERENCE,
            tie_word_embeddings=False,
        )
    ).eval()


def reference_key(key: str) -> str:
    for ours, theirs in (
        ("vision_tower.", "model.vision_tower.timm_model."),
        ("projector.layers.0.", "model.multi_modal_projector.linear_1."),
        ("projector.layers.2.", "model.multi_modal_projector.linear_2."),
        ("language_model.", "model.language_model."),
    ):
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key


@pytest.fixture
def pair() -> tuple[FastVLM, torch.nn.Module]:
    torch.manual_seed(2)
    ours = FastVLM(CONFIG).double().eval()
    for parameter in ours.language_model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
    torch.nn.init.normal_(ours.lm_head.weight, 0.0, 0.2)
    reference = build_reference().double()
    state = {reference_key(key): value for key, value in ours.state_dict().items()}
    reference.load_state_dict(state, strict=True)
    return ours, reference


def prompt(num_images: int) -> torch.Tensor:
    ids = [5, 6, 7]
    for index in range(num_images):
        ids += [IMAGE_TOKEN_ID] * num_image_tokens(128, 128) + [8 + index]
    return torch.tensor([[*ids, 30, 31, 32]])


@pytest.mark.parametrize("num_images", [1, 3])
@torch.no_grad()
def test_logits_equal_transformers(pair: tuple[FastVLM, torch.nn.Module], num_images: int) -> None:
    ours, reference = pair
    pixel_values = torch.rand(num_images, 3, 128, 128, dtype=torch.float64)
    input_ids = prompt(num_images)
    features = ours.encode_images(pixel_values)
    logits = ours.lm_head(ours(input_ids, features))
    expected = reference(
        input_ids=input_ids.masked_fill(input_ids == IMAGE_TOKEN_ID, IMAGE_ID_OF_REFERENCE),
        pixel_values=pixel_values,
    ).logits
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_greedy_tokens_equal_transformers(pair: tuple[FastVLM, torch.nn.Module]) -> None:
    ours, reference = pair
    pixel_values = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    input_ids = prompt(1)
    expected = reference.generate(
        input_ids=input_ids.masked_fill(input_ids == IMAGE_TOKEN_ID, IMAGE_ID_OF_REFERENCE),
        attention_mask=torch.ones_like(input_ids),
        pixel_values=pixel_values,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, input_ids.shape[1] :]

    cache = GrowingCache(CONFIG.text.num_hidden_layers)
    hidden = ours(input_ids, ours.encode_images(pixel_values), past_key_values=cache)
    tokens = []
    for _ in range(20):
        tokens.append(ours.lm_head(hidden[:, -1]).argmax(-1))
        hidden = ours(tokens[-1][:, None], past_key_values=cache)
    assert torch.cat(tokens).tolist() == expected.tolist()
