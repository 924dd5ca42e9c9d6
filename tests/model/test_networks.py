"""Sizes, shapes and borders of the networks; equality with the references is in tests/oracles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastvlm.config import (
    PRESETS,
    FastVLMConfig,
    TextConfig,
    VisionConfig,
    num_image_tokens,
    preset,
    projector_depth,
)
from fastvlm.errors import ConfigError, ContextLengthError, ShapeError
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.model import FastViTHD, FastVLM, GrowingCache, Projector, Qwen2, StaticCache
from fastvlm.model.fastvlm import num_parameters

CLIP_HEAD = 3072 * 768
"""The published tower ends in a CLIP projection that FastVLM never uses and we leave out."""


@pytest.mark.parametrize(
    ("form", "with_head", "num_keys"),
    [("fused", 125_073_504, 629), ("branched", 125_234_880, 1530)],
)
def test_tower_has_the_published_size(form: str, with_head: int, num_keys: int) -> None:
    with torch.device("meta"):
        tower = FastViTHD(preset("0.5b", form=form).vision)
    assert num_parameters(tower) + CLIP_HEAD == with_head
    assert len(tower.state_dict()) + 1 == num_keys


@pytest.mark.parametrize(
    ("name", "stored"),
    [("0.5b", 758_798_048), ("1.5b", 1_909_242_464), ("7b", 7_764_552_288)],
)
def test_presets_have_the_published_size(name: str, stored: int) -> None:
    config = preset(name)
    with torch.device("meta"):
        size = num_parameters(FastVLM(config)) + CLIP_HEAD
    tied_copy = config.text.vocab_size * config.text.hidden_size * config.text.tie_word_embeddings
    assert size + tied_copy == stored


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (130, 257), (256, 192)])
@torch.no_grad()
def test_any_size_gives_one_token_a_started_64_pixels(size: tuple[int, int]) -> None:
    model = FastVLM(preset("nano")).eval()
    features = model.encode_images(torch.rand(2, 3, *size))
    assert features.shape == (2, num_image_tokens(*size), model.config.text.hidden_size)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 64, 64, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \[N, 3, H, W\]"):
        FastVLM(preset("nano")).encode_images(torch.rand(shape))


@torch.no_grad()
def test_features_land_on_their_placeholders() -> None:
    model = FastVLM(preset("nano")).eval()
    features = torch.randn(3, model.config.text.hidden_size)
    input_ids = torch.tensor([[5, IMAGE_TOKEN_ID, 6, IMAGE_TOKEN_ID], [7, 8, IMAGE_TOKEN_ID, 9]])
    embedded = model.embed(input_ids, features)
    assert torch.equal(embedded[input_ids == IMAGE_TOKEN_ID], features)
    assert torch.equal(embedded[1, 0], model.language_model.embed_tokens.weight[7])


@pytest.mark.parametrize("num_features", [0, 1, 3])
def test_wrong_number_of_features_is_an_error(num_features: int) -> None:
    model = FastVLM(preset("nano"))
    features = torch.randn(num_features, model.config.text.hidden_size)
    with pytest.raises(ShapeError, match=f"2 image placeholders but there are {num_features}"):
        model.embed(torch.tensor([[IMAGE_TOKEN_ID, IMAGE_TOKEN_ID]]), features)


@pytest.mark.parametrize(
    ("kind", "num_linears"),
    [("linear", 1), ("mlp1x_gelu", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)],
)
def test_projector_types(kind: str, num_linears: int) -> None:
    projector = Projector(kind, 12, 8)
    assert sum(isinstance(module, nn.Linear) for module in projector.modules()) == num_linears
    assert projector(torch.rand(2, 5, 12)).shape == (2, 5, 8)


@pytest.mark.parametrize("kind", ["identity", "mlp0x_gelu", "mlpx_gelu", "mlp2x_relu", ""])
def test_unknown_projector_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match="projector type"):
        projector_depth(kind)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="five entries"):
        VisionConfig(depths=(1, 2))
    with pytest.raises(ConfigError, match="no multiple of 192"):
        VisionConfig(widths=(96, 192, 300, 768, 1536))
    with pytest.raises(ConfigError, match="head_dim"):
        VisionConfig(widths=(96, 192, 384, 768, 1536), head_dim=50)
    with pytest.raises(ConfigError, match="no preset named '3b'"):
        preset("3b")


def test_tied_output_layer_is_the_embedding() -> None:
    model = FastVLM(preset("nano"))
    assert model.lm_head.weight is model.language_model.embed_tokens.weight


SMALL_TEXT = TextConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=50,
    tie_word_embeddings=False,
)


@torch.no_grad()
def test_static_cache_equals_growing_and_says_when_it_is_full() -> None:
    torch.manual_seed(0)
    decoder = Qwen2(SMALL_TEXT).eval()
    x = torch.randn(2, 8, 32)
    static = StaticCache(SMALL_TEXT, 2, 8, dtype=torch.float32, device=torch.device("cpu"))
    growing = GrowingCache(SMALL_TEXT.num_hidden_layers)
    for part in x.split([5, 1, 2], 1):
        assert torch.allclose(
            decoder(part, past_key_values=static), decoder(part, past_key_values=growing), atol=1e-6
        )
    assert static.length == growing.length == 8
    with pytest.raises(ContextLengthError, match="9 positions do not fit a cache of 8"):
        decoder(x[:, :1], past_key_values=static)


@pytest.mark.parametrize("kind", ["growing", "static"])
@torch.no_grad()
def test_fork_continues_independently(kind: str) -> None:
    torch.manual_seed(0)
    decoder = Qwen2(SMALL_TEXT).eval()
    x = torch.randn(1, 9, 32)
    cache: GrowingCache | StaticCache = (
        GrowingCache(SMALL_TEXT.num_hidden_layers)
        if kind == "growing"
        else StaticCache(SMALL_TEXT, 1, 9, dtype=torch.float32, device=torch.device("cpu"))
    )
    decoder(x[:, :6], past_key_values=cache)
    fork = cache.fork()
    decoder(torch.randn(1, 3, 32), past_key_values=fork)
    continued = decoder(x[:, 6:], past_key_values=cache)
    assert torch.allclose(continued, decoder(x)[:, 6:], atol=1e-6)


@torch.no_grad()
def test_left_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    decoder = Qwen2(SMALL_TEXT).eval()
    x = torch.randn(1, 6, 32)
    padded = torch.cat((torch.randn(1, 3, 32), x), 1)
    mask = torch.tensor([[False] * 3 + [True] * 6])
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    assert torch.allclose(decoder(padded, mask, position_ids)[:, 3:], decoder(x), atol=1e-6)


def test_every_preset_is_a_whole_configuration() -> None:
    assert list(PRESETS) == ["nano", "0.5b", "1.5b", "7b"]
    for config in PRESETS.values():
        assert isinstance(config, FastVLMConfig)
        assert config.num_image_tokens == (config.image_size // 64) ** 2
