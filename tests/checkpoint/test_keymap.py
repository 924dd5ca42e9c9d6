"""Names go from a published layout to ours and back, all of them, and nothing else does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.checkpoint.keymap import CLIP_HEAD, Layout, key_map
from fastvlm.config import PRESETS, FastVLMConfig, TokenMixer, TowerForm, VisionConfig, preset
from fastvlm.errors import ConfigError
from fastvlm.model import FastVLM
from tiny_models import tiny_config

# Every key of Apple's tower with its shape, listed by running apple/ml-fastvlm with random weights.
PUBLISHED: dict[str, dict[str, list[int]]] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data/apple_fastvithd_keys.json.gz").read_bytes())
)
PREFIX = "model.vision_tower.vision_tower.model."
FORMS: tuple[TowerForm, ...] = ("fused", "branched")
LAYOUTS: tuple[Layout, ...] = ("apple", "hf")


def state_of(config: FastVLMConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return FastVLM(config).state_dict()


@pytest.mark.parametrize(("form", "count"), [("fused", 629), ("branched", 1530)])
def test_every_published_key_of_the_tower_has_its_place(form: TowerForm, count: int) -> None:
    config = preset("0.5b", form=form)
    keys = key_map("apple", config)
    published = {PREFIX + key: shape for key, shape in PUBLISHED[form].items()}
    assert len(published) == count

    places = {key: keys.to_ours(key) for key in published}
    assert [key for key, name in places.items() if name is None] == [CLIP_HEAD]
    assert "CLIP" in str(keys.ignored_reason(CLIP_HEAD))

    ours = {
        name: list(tensor.shape)
        for name, tensor in state_of(config).items()
        if name.startswith("vision_tower.")
    }
    assert {name: published[key] for key, name in places.items() if name} == ours


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_the_table_is_one_to_one_over_the_whole_network(
    name: str, form: TowerForm, layout: Layout
) -> None:
    config = preset(name, form=form)
    keys = key_map(layout, config)
    there = {ours: keys.to_layout(ours) for ours in state_of(config)}
    assert len(set(there.values())) == len(there)
    assert {key: keys.to_ours(key) for key in there.values()} == {
        key: ours for ours, key in there.items()
    }


@settings(max_examples=25, deadline=None)
@given(
    mixers=st.tuples(*[st.sampled_from(["repmixer", "attention"])] * 5),
    depths=st.tuples(*[st.integers(1, 3)] * 5),
    form=st.sampled_from(FORMS),
    projector=st.sampled_from(["linear", "mlp1x_gelu", "mlp2x_gelu", "mlp4x_gelu"]),
)
def test_the_table_is_one_to_one_for_other_towers(
    mixers: tuple[TokenMixer, ...], depths: tuple[int, ...], form: TowerForm, projector: str
) -> None:
    vision = VisionConfig(
        depths=depths, widths=(32,) * 5, mlp_ratios=(1,) * 5, token_mixers=mixers, form=form
    )
    config = FastVLMConfig(vision=vision, text=tiny_config().text, projector_type=projector)
    keys = key_map("apple", config)
    there = {ours: keys.to_layout(ours) for ours in state_of(config)}
    assert len(set(there.values())) == len(there)
    assert all(keys.to_ours(key) == ours for ours, key in there.items())


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None)
@given(data=st.data())
def test_what_the_table_takes_it_gives_back(layout: Layout, data: st.DataObject) -> None:
    """Also for keys nobody ever wrote: recombined pieces of real ones."""
    keys = key_map(layout, tiny_config())
    pieces = sorted({piece for key in published_keys() for piece in key.split(".")})
    key = ".".join(data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=8)))
    start = data.draw(st.sampled_from(["", PREFIX, "model.", "model.vision_tower.timm_model."]))
    name = keys.to_ours(start + key)
    if name is not None:
        assert keys.to_layout(name) == keys.canonical(start + key)


def published_keys() -> list[str]:
    return [*PUBLISHED["fused"], *PUBLISHED["branched"]]


@pytest.mark.parametrize(
    "prefix",
    [
        "model.vision_tower.vision_tower.model.",
        "model.vision_tower.vision_tower.",
        "model.vision_tower.",
        "vision_tower.vision_tower.model.",
    ],
)
def test_apples_tower_is_found_under_each_prefix_in_use(prefix: str) -> None:
    keys = key_map("apple", preset("0.5b"))
    name = keys.to_ours(f"{prefix}network.10.1.layer_scale_2")
    assert name == "vision_tower.stages.4.blocks.1.layer_scale_2.gamma"
    assert keys.ignored_reason(f"{prefix}head.proj") is not None


@pytest.mark.parametrize(
    "key",
    [
        "network.0.0.mlp.fc1.weight",  # our spelling in Apple's place
        "network.11.0.convffn.fc1.weight",  # no such stage
        "network.1.proj.0.reparam_conv.weight",  # Apple says lkb_reparam
        "stages.0.blocks.0.mlp.fc1.weight",
        "head.bias",
    ],
)
def test_foreign_keys_are_not_taken(key: str) -> None:
    keys = key_map("apple", preset("0.5b"))
    assert keys.to_ours(PREFIX + key) is None
    assert keys.ignored_reason(PREFIX + key) is None


def test_rotary_buffers_of_old_writers_are_superfluous() -> None:
    for layout, start in (("apple", "model"), ("hf", "model.language_model")):
        keys = key_map(layout, preset("0.5b"))
        assert keys.ignored_reason(f"{start}.layers.3.self_attn.rotary_emb.inv_freq")
        assert not keys.ignored_reason("other.layers.3.self_attn.rotary_emb.inv_freq")


def test_an_unknown_name_of_ours_is_an_error() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        key_map("apple", preset("nano")).to_layout("nonsense.weight")


def test_transformers_has_two_layers_in_its_projector() -> None:
    config: Any = tiny_config(projector_type="mlp3x_gelu")
    with pytest.raises(ConfigError, match=r"two linear layers.*'mlp3x_gelu' has 3.*'apple'"):
        key_map("hf", config)
