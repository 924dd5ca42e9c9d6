"""config.json of both layouts: read, written, and refused with the key that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvlm.checkpoint.config_json import parse_config, read_config, write_config
from fastvlm.checkpoint.keymap import Layout
from fastvlm.config import PRESETS, FastVLMConfig, VisionConfig, preset
from fastvlm.errors import CheckpointError, ConfigError
from tiny_models import tiny_config

WHERE = Path("somewhere") / "config.json"

# The fields of apple/FastVLM-0.5B's config.json.
PUBLISHED: dict[str, Any] = {
    "architectures": ["LlavaQwen2ForCausalLM"],
    "auto_map": {
        "AutoConfig": "llava_qwen.LlavaConfig",
        "AutoModelForCausalLM": "llava_qwen.LlavaQwen2ForCausalLM",
    },
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": 896,
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "mm_hidden_size": 3072,
    "mm_patch_merge_type": "flat",
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "mobileclip_l_1024",
    "model_type": "llava_qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "tokenizer_model_max_length": 8192,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.39.3",
    "tune_mm_mlp_adapter": False,
    "unfreeze_mm_vision_tower": True,
    "use_cache": True,
    "use_mm_proj": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def parse(data: dict[str, Any], **changes: Any) -> FastVLMConfig:
    return parse_config({**data, **changes}, where=WHERE)[0]


def test_the_published_file_is_the_preset() -> None:
    assert parse_config(PUBLISHED, where=WHERE) == (preset("0.5b"), "apple")


@pytest.mark.parametrize("layout", ["apple", "hf"])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_both_layouts(name: str, layout: Layout) -> None:
    data = json.loads(json.dumps(write_config(preset(name), layout)))
    assert parse_config(data, where=WHERE) == (preset(name), layout)


def test_the_written_file_says_what_the_published_one_says() -> None:
    written = write_config(preset("0.5b"), "apple")
    differing = {key for key, value in written.items() if PUBLISHED[key] != value}
    assert differing == {"sliding_window"}  # of no effect while use_sliding_window is false
    assert "vision_config" not in written


def test_another_tower_is_described_beside_apples_fields() -> None:
    written = write_config(preset("nano"), "apple")
    assert written["mm_vision_tower"] == f"fastvithd_{preset('nano').image_size}"
    assert written["vision_config"]["widths"] == preset("nano").vision.widths


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("model.vision_tower.vision_tower.model.patch_embed.0.rbr_conv.0.conv.weight", "branched"),
        ("model.vision_tower.timm_model.stem.0.conv_kxk.0.conv.weight", "branched"),
        ("model.vision_tower.timm_model.stem.0.reparam_conv.weight", "fused"),
    ],
)
def test_the_keys_tell_the_form(key: str, form: str) -> None:
    assert parse_config(PUBLISHED, where=WHERE, keys=[key])[0].vision.form == form


@pytest.mark.parametrize(
    ("ratio", "mode"),
    [
        ("pad", "pad"),
        ("anyres", "anyres"),
        ("square", "crop"),
        (None, "crop"),
        ("native", "native"),
    ],
)
def test_image_mode_follows_image_aspect_ratio(ratio: str | None, mode: str) -> None:
    config = parse(PUBLISHED, image_aspect_ratio=ratio)
    assert config.image_mode == mode
    assert parse(write_config(config, "apple")).image_mode == mode
    assert parse(write_config(config, "hf")).image_mode == mode


@pytest.mark.parametrize(
    "value",
    [[[1024, 2048], [2048, 1024]], "[(1024, 2048), (2048, 1024)]", "[[1024,2048],[2048,1024]]"],
)
def test_pinpoints_are_a_list_or_a_string(value: Any) -> None:
    config = parse(PUBLISHED, image_grid_pinpoints=value)
    assert config.image_grid_pinpoints == ((1024, 2048), (2048, 1024))


def test_rope_theta_stands_at_the_top_or_in_rope_parameters() -> None:
    assert parse(PUBLISHED, rope_theta=5000).text.rope_theta == 5000.0
    rope = {"rope_type": "default", "rope_theta": 7000.0}
    assert parse(PUBLISHED, rope_parameters=rope).text.rope_theta == 7000.0
    assert parse(PUBLISHED, rope_scaling={"type": "default"}).text.rope_theta == 1e6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "896"}, r"config.json: hidden_size is '896'; expected a positive whole"),
        ({"hidden_size": None}, r"config.json has no 'hidden_size'; the file is incomplete"),
        ({"num_attention_heads": 0}, r"num_attention_heads is 0; expected a positive whole number"),
        ({"num_attention_heads": 13}, r"config.json: hidden_size 896 is no multiple of"),
        ({"num_hidden_layers": True}, r"num_hidden_layers is True"),
        ({"rms_norm_eps": float("nan")}, r"rms_norm_eps is nan; expected a number"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings is 'yes'; expected true or false"),
        ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'; expected 'silu', the only one"),
        ({"use_sliding_window": True}, r"use_sliding_window is True; expected False"),
        ({"mm_patch_merge_type": "spatial_unpad"}, r"mm_patch_merge_type is 'spatial_unpad'"),
        ({"mm_projector_type": "identity"}, r"config.json: projector type 'identity' is not known"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, r"mm_vision_tower is 'openai/"),
        ({"mm_vision_tower": "clip_336"}, r"mobileclip_l_SIZE, or a vision_config"),
        ({"mm_hidden_size": 1024}, r"mm_hidden_size is 1024; expected 3072"),
        ({"vision_config": {"depth": 3}}, r"config.json: vision_config: 'depth' is not known"),
        ({"vision_config": {"depths": [1, 2]}}, r"must have five entries"),
        (
            {"vision_config": {"token_mixers": ["pool"] * 5}},
            r"expected a list out of repmixer, att",
        ),
        ({"vision_config": []}, r"vision_config is \[\]; expected an object"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, r"rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, r"rope_type is 'linear'; expected 'default'"),
        ({"image_grid_pinpoints": "(1x1),...,(6x6)"}, r"expected a list of \[width, height\]"),
        ({"image_grid_pinpoints": [[1024]]}, r"expected a list of \[width, height\]"),
        ({"image_grid_pinpoints": "__import__('os')"}, r"expected a list of \[width, height\]"),
        ({"image_aspect_ratio": 3}, r"image_aspect_ratio is 3; expected a string"),
    ],
)
def test_a_bad_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(PUBLISHED, **changes)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"model_type": "llava"}, r"model_type 'llava' is no FastVLM; expected 'llava_qwen2'"),
        ({}, r"model_type None is no FastVLM"),
        ({**PUBLISHED, "quantization": {"bits": 4}}, r"weights are quantised \(quantization\)"),
        ({**PUBLISHED, "quantization_config": {"a": 1}}, r"quantised \(quantization_config\)"),
    ],
)
def test_other_models_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_config(data, where=WHERE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projector_hidden_act": "relu"}, r"projector_hidden_act is 'relu'; expected 'gelu'"),
        ({"multimodal_projector_bias": False}, r"multimodal_projector_bias is False"),
        ({"text_config": None}, r"has no 'text_config'"),
        ({"image_size": None, "image_seq_length": 200}, r"image_seq_length is 200; expected the"),
        (
            {"vision_config": {"model_type": "timm_wrapper", "architecture": "resnet50"}},
            r"vision_config: architecture is 'resnet50'; expected fastvit_mci3",
        ),
        (
            {"vision_config": {"architecture": "fastvit_mci3", "model_args": {"in_chans": 1}}},
            r"vision_config: model_args: 'in_chans' is not known",
        ),
    ],
)
def test_a_bad_value_of_transformers_file_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(write_config(preset("0.5b"), "hf"), **changes)


def published_by_transformers() -> dict[str, Any]:
    """As its converter leaves it: none of our own fields."""
    data = write_config(preset("0.5b"), "hf")
    for key in (
        "image_size",
        "image_aspect_ratio",
        "image_grid_pinpoints",
        "tokenizer_model_max_length",
    ):
        del data[key]
    data["text_config"]["tie_word_embeddings"] = False
    return data


def test_a_folder_of_transformers_without_our_fields(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published_by_transformers()), "utf-8")
    assert read_config(tmp_path) == (
        preset("0.5b"),
        "hf",
    )  # 256 tokens are 1024 px; either flag ties


def test_the_processor_knows_the_image_size(tmp_path: Path) -> None:
    data = {**published_by_transformers(), "image_seq_length": 576}  # transformers' unused default
    (tmp_path / "config.json").write_text(json.dumps(data), "utf-8")
    processor = {"image_processor": {"crop_size": {"height": 768, "width": 768}}}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor), "utf-8")
    assert read_config(tmp_path)[0].image_size == 768


def test_a_tower_that_timm_cannot_build_has_no_place_in_layout_hf() -> None:
    vision = VisionConfig(token_mixers=("repmixer",) * 5)
    with pytest.raises(ConfigError, match=r"token mixers are fixed.*use layout 'apple'"):
        write_config(replace(preset("0.5b"), vision=vision), "hf")
    with pytest.raises(ConfigError, match="two linear layers"):
        write_config(tiny_config(projector_type="linear"), "hf")


@pytest.mark.parametrize("layout", ["apple", "hf"])
def test_a_deep_fused_tower_has_no_published_layout(layout: Layout) -> None:
    with pytest.raises(ConfigError, match="deep-fused tower has no published layout"):
        write_config(preset("nano", form="deep_fused"), layout)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[1]", "holds a JSON list"),
        ("\ud800", "JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=rf"config.json .*{message}"):
        read_config(tmp_path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5000) | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(
    key=st.sampled_from([*sorted(PUBLISHED), "vision_config", "rope_parameters"]), value=JSON_VALUES
)
def test_any_value_is_read_or_refused_by_name(key: str, value: Any) -> None:
    message = complaint_about({**PUBLISHED, key: value})
    assert message is None or str(WHERE) in message


def complaint_about(data: dict[str, Any]) -> str | None:
    try:
        parse(data)
    except (ConfigError, CheckpointError) as error:
        return str(error)
    return None
