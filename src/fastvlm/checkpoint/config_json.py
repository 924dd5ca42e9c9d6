"""config.json of both published layouts, read into `FastVLMConfig` and written from it.

Fields of Apple's file: `apple/FastVLM-0.5B` config.json and apple/ml-fastvlm `llava/model/llava_arch.py`. Fields
of the other: transformers `models/fast_vlm/configuration_fast_vlm.py` and `models/timm_wrapper`. What a layout has
no field for is written beside its own ones, where its other readers leave it alone: `vision_config` for a tower
other than the published one in Apple's file; `image_size`, `image_aspect_ratio`, `image_grid_pinpoints` and
`tokenizer_model_max_length` in transformers'.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from fastvlm.checkpoint.json_fields import JsonFields
from fastvlm.checkpoint.keymap import Layout
from fastvlm.checkpoint.shards import (
    SAFETENSORS_NAME,
    has_weights,
    list_tensors,
    read_json,
)
from fastvlm.config import (
    PATCH_STRIDE,
    FastVLMConfig,
    ImageMode,
    TextConfig,
    TowerForm,
    VisionConfig,
    projector_depth,
)
from fastvlm.errors import CheckpointError, ConfigError

_APPLE_TOWER_NAME: Final = re.compile(r"^(?:.*/)?(?P<name>[a-z0-9_]+)_(?P<size>\d+)$")
_TIMM_ARCHITECTURE: Final = "fastvit_mci3"
# REF: llava/mm_utils.py process_images: what is neither "pad" nor "anyres" is resized and centre-cropped.
_IMAGE_MODES: Final[Mapping[str, ImageMode]] = {
    "pad": "pad",
    "anyres": "anyres",
    "native": "native",
}
_ASPECT_RATIOS: Final[Mapping[ImageMode, str]] = {"crop": "square"}


def read_config(folder: Path) -> tuple[FastVLMConfig, Layout]:
    """The configuration of a checkpoint folder and the layout it is stored in.

    Raises:
        CheckpointError: config.json is missing, damaged, or describes another kind of model.
        ConfigError: a value in it is of the wrong type or cannot work here.
    """
    folder = Path(folder)
    keys = list_tensors(folder) if has_weights(folder, SAFETENSORS_NAME) else ()
    return parse_config(read_json(folder / "config.json"), where=folder / "config.json", keys=keys)


def parse_config(
    data: Mapping[str, Any], *, where: Path, keys: Collection[str] = ()
) -> tuple[FastVLMConfig, Layout]:
    """Like `read_config`, from a parsed file.

    Args:
        data: the JSON object.
        where: the file, for messages and for the image size that some writers keep beside it.
        keys: names of the stored tensors, which tell the branched form from the fused one.
    """
    fields = JsonFields(data, str(where))
    layout = _recognise(data, where)
    try:
        config = _from_apple(fields) if layout == "apple" else _from_hf(fields, where.parent)
        form: TowerForm = "branched" if _is_branched(keys) else "fused"
        return dataclasses.replace(
            config, vision=dataclasses.replace(config.vision, form=form)
        ), layout
    except ConfigError as error:
        if str(where) in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error


def write_config(
    config: FastVLMConfig, layout: Layout, *, dtype: str = "bfloat16", image_token_id: int = 151646
) -> dict[str, Any]:
    """The JSON object that describes a network in a published layout.

    Args:
        config: the network.
        layout: the layout.
        dtype: what the weights are stored in, e.g. "bfloat16".
        image_token_id: layout hf only; the vocabulary row that stands for one image token in `input_ids`.

    Raises:
        ConfigError: the layout cannot describe this network.
    """
    if config.vision.form == "deep_fused":
        raise ConfigError(
            "a deep-fused tower has no published layout; save the model before deep_fuse, and deep-fuse after loading"
        )
    if layout == "apple":
        return _to_apple(config, dtype)
    return _to_hf(config, dtype, image_token_id)


def _recognise(data: Mapping[str, Any], where: Path) -> Layout:
    for key in ("quantization", "quantization_config"):
        if data.get(key):
            raise CheckpointError(
                f"{where} says that the weights are quantised ({key}); expected the original float weights"
            )
    model_type, architectures = data.get("model_type"), data.get("architectures") or ()
    if model_type == "llava_qwen2" or "LlavaQwen2ForCausalLM" in architectures:
        return "apple"
    if model_type == "fast_vlm":
        return "hf"
    raise CheckpointError(
        f"{where}: model_type {model_type!r} is no FastVLM; expected 'llava_qwen2' (Apple's folders) or 'fast_vlm' "
        "(transformers)"
    )


def _is_branched(keys: Collection[str]) -> bool:
    return any(".rbr_conv." in key or ".conv_kxk." in key for key in keys)


def _from_apple(fields: JsonFields) -> FastVLMConfig:
    fields.expect("hidden_act", "silu")
    fields.expect("mm_patch_merge_type", "flat")
    fields.expect("mm_use_im_start_end", False)
    tower = fields.text("mm_vision_tower")
    match = _APPLE_TOWER_NAME.match(tower)
    if match is None or int(match["size"]) == 0:
        raise fields.wrong(
            "mm_vision_tower", tower, "a name with the image size, as mobileclip_l_1024"
        )
    own = fields.object("vision_config")
    if own is None and match["name"] != "mobileclip_l":
        raise fields.wrong(
            "mm_vision_tower",
            tower,
            "mobileclip_l_SIZE, or a vision_config that describes the tower",
        )
    vision = VisionConfig() if own is None else _vision_from_apple(own)
    if (size := fields.integer("mm_hidden_size", vision.hidden_size)) != vision.hidden_size:
        raise fields.wrong(
            "mm_hidden_size", size, f"{vision.hidden_size}, what the tower {tower} puts out"
        )
    text = _text_config(fields, tied=fields.boolean("tie_word_embeddings", default=False))
    return FastVLMConfig(
        vision=vision,
        text=text,
        projector_type=fields.text("mm_projector_type", "linear"),
        image_size=int(match["size"]),
        **_policy(fields, text),
    )


def _to_apple(config: FastVLMConfig, dtype: str) -> dict[str, Any]:
    text, vision = config.text, dataclasses.asdict(config.vision)
    is_published = dataclasses.replace(config.vision, form="fused") == VisionConfig()
    del vision["form"]
    data = {
        "architectures": ["LlavaQwen2ForCausalLM"],
        "model_type": "llava_qwen2",
        "attention_dropout": 0.0,
        **_text_fields(text),
        "rope_theta": text.rope_theta,
        "max_window_layers": text.num_hidden_layers,
        "sliding_window": None,
        "tie_word_embeddings": text.tie_word_embeddings,
        "torch_dtype": dtype,
        "mm_hidden_size": config.vision.hidden_size,
        "mm_patch_merge_type": "flat",
        "mm_projector_type": config.projector_type,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": f"{'mobileclip_l' if is_published else 'fastvithd'}_{config.image_size}",
        # REF: llava_arch.py: without this flag Apple's code leaves the tower at random.
        "unfreeze_mm_vision_tower": True,
        "use_mm_proj": True,
        "tokenizer_padding_side": "right",
        **_policy_fields(config),
    }
    return data if is_published else {**data, "vision_config": vision}


def _vision_from_apple(fields: JsonFields) -> VisionConfig:
    default = VisionConfig()
    known = {field.name for field in dataclasses.fields(VisionConfig)}
    fields.expect_only(known)
    return VisionConfig(
        depths=fields.integers("depths", default.depths),
        widths=fields.integers("widths", default.widths),
        mlp_ratios=fields.integers("mlp_ratios", default.mlp_ratios),
        token_mixers=fields.choices(
            "token_mixers", default.token_mixers, allowed=("repmixer", "attention")
        ),
        head_dim=fields.integer("head_dim", default.head_dim),
        cls_ratio=fields.integer("cls_ratio", default.cls_ratio),
        layer_scale_init=fields.number("layer_scale_init", default.layer_scale_init),
    )


def _from_hf(fields: JsonFields, folder: Path) -> FastVLMConfig:
    fields.expect("projector_hidden_act", "gelu")
    fields.expect("multimodal_projector_bias", True)
    text_fields = fields.object("text_config", required=True)
    text_fields.expect("model_type", "qwen2")
    text_fields.expect("hidden_act", "silu")
    # REF: configuration_fast_vlm.py: either of the two flags ties.
    tied = fields.boolean("tie_word_embeddings", default=False)
    tied = text_fields.boolean("tie_word_embeddings", default=False) or tied
    text = _text_config(text_fields, tied=tied)
    return FastVLMConfig(
        vision=_vision_from_hf(fields.object("vision_config", required=True)),
        text=text,
        projector_type="mlp2x_gelu",
        image_size=_hf_image_size(fields, folder),
        **_policy(fields, text, default_mode="pad"),
    )


def _to_hf(config: FastVLMConfig, dtype: str, image_token_id: int) -> dict[str, Any]:
    vision, text = config.vision, config.text
    default = VisionConfig()
    if (vision.token_mixers, vision.head_dim) != (default.token_mixers, default.head_dim):
        raise ConfigError(
            "transformers builds the tower with timm's fastvit_mci3, whose token mixers are fixed and whose head_dim "
            f"is 32; this tower has {', '.join(vision.token_mixers)} and {vision.head_dim}; use layout 'apple'"
        )
    if (depth := projector_depth(config.projector_type)) != 2:
        raise ConfigError(
            f"transformers' fast_vlm has two linear layers in its projector, {config.projector_type!r} has {depth}; "
            "use layout 'apple'"
        )
    model_args: dict[str, Any] = {"inference_mode": vision.form != "branched"}
    for name, field in _TIMM_ARGUMENTS.items():
        value = getattr(vision, field)
        if value != getattr(default, field):
            model_args[name] = value
    return {
        "architectures": ["FastVlmForConditionalGeneration"],
        "model_type": "fast_vlm",
        "dtype": dtype,
        "image_token_index": image_token_id,
        "image_seq_length": config.num_image_tokens,
        "image_size": config.image_size,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": text.tie_word_embeddings,
        **_policy_fields(config),
        "text_config": {
            "model_type": "qwen2",
            "dtype": dtype,
            **_text_fields(text),
            "rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta},
            "tie_word_embeddings": text.tie_word_embeddings,
        },
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": _TIMM_ARCHITECTURE,
            "do_pooling": True,
            "global_pool": "avg",
            "hidden_size": vision.hidden_size,
            "initializer_range": 0.02,
            "model_args": model_args,
            "num_classes": 0,
        },
    }


_TIMM_ARGUMENTS: Final = {
    "layers": "depths",
    "embed_dims": "widths",
    "mlp_ratios": "mlp_ratios",
    "cls_ratio": "cls_ratio",
    "layer_scale_init_value": "layer_scale_init",
}
"""Arguments of timm's `FastVit` and the fields they are."""


def _vision_from_hf(fields: JsonFields) -> VisionConfig:
    fields.expect("model_type", "timm_wrapper")
    architecture = fields.text("architecture")
    # timm names published weights after a dot: fastvit_mci3.apple_mclip2_dfndr2b
    if architecture.partition(".")[0] != _TIMM_ARCHITECTURE:
        raise fields.wrong("architecture", architecture, _TIMM_ARCHITECTURE)
    arguments = fields.object("model_args")
    if arguments is None:
        return VisionConfig()
    arguments.expect_only({*_TIMM_ARGUMENTS, "inference_mode"})
    default = VisionConfig()
    return VisionConfig(
        depths=arguments.integers("layers", default.depths),
        widths=arguments.integers("embed_dims", default.widths),
        mlp_ratios=arguments.integers("mlp_ratios", default.mlp_ratios),
        cls_ratio=arguments.integer("cls_ratio", default.cls_ratio),
        layer_scale_init=arguments.number("layer_scale_init_value", default.layer_scale_init),
    )


def _hf_image_size(fields: JsonFields, folder: Path) -> int:
    """Pixels per side: our own field, else the processor's crop, else the side of the token square."""
    if fields.raw("image_size") is not None:
        return fields.integer("image_size")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            processor = JsonFields(read_json(folder / name), str(folder / name))
            processor = processor.object("image_processor") or processor
            if crop := processor.object("crop_size"):
                return crop.integer("height")
    num_tokens = fields.integer("image_seq_length", 256)
    side = math.isqrt(num_tokens)
    if side * side != num_tokens or not side:
        raise fields.wrong(
            "image_seq_length", num_tokens, "the number of tokens of a square picture"
        )
    return side * PATCH_STRIDE


def _text_config(fields: JsonFields, *, tied: bool) -> TextConfig:
    fields.expect("use_sliding_window", False)
    eos = fields.first_integer("eos_token_id", 151645)
    return TextConfig(
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_hidden_layers=fields.integer("num_hidden_layers"),
        num_attention_heads=fields.integer("num_attention_heads"),
        num_key_value_heads=fields.integer("num_key_value_heads"),
        vocab_size=fields.integer("vocab_size"),
        tie_word_embeddings=tied,
        rope_theta=_rope_theta(fields),
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        max_position_embeddings=fields.integer("max_position_embeddings", 32768),
        bos_token_id=fields.first_integer("bos_token_id", 151643),
        eos_token_id=eos,
    )


def _text_fields(text: TextConfig) -> dict[str, Any]:
    return {
        "bos_token_id": text.bos_token_id,
        "eos_token_id": text.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_position_embeddings": text.max_position_embeddings,
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "rms_norm_eps": text.rms_norm_eps,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": text.vocab_size,
    }


def _rope_theta(fields: JsonFields) -> float:
    """Base of the rotary encoding: at the top (Apple), or in `rope_parameters` (transformers 5)."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = fields.object(name)
        if rope is None:
            continue
        kind = rope.text("rope_type", rope.text("type", "default"))
        if kind != "default":
            raise rope.wrong("rope_type", kind, "'default', the only one FastVLM was released with")
        if theta := rope.number("rope_theta", 0.0):
            return theta
    return fields.number("rope_theta", 1_000_000.0)


def _policy(
    fields: JsonFields, text: TextConfig, default_mode: ImageMode = "crop"
) -> dict[str, Any]:
    """How pictures and prompts are prepared: the part that both layouts spell alike."""
    ratio = fields.text("image_aspect_ratio", "")
    return {
        "image_mode": _IMAGE_MODES.get(ratio, "crop" if ratio else default_mode),
        "image_grid_pinpoints": _pinpoints(fields),
        "max_length": fields.integer(
            "tokenizer_model_max_length", min(8192, text.max_position_embeddings)
        ),
    }


def _policy_fields(config: FastVLMConfig) -> dict[str, Any]:
    return {
        "image_aspect_ratio": _ASPECT_RATIOS.get(config.image_mode, config.image_mode),
        "image_grid_pinpoints": [list(pair) for pair in config.image_grid_pinpoints] or None,
        "tokenizer_model_max_length": config.max_length,
    }


def _pinpoints(fields: JsonFields) -> tuple[tuple[int, int], ...]:
    """[[1024, 2048], ...], or the same as a string, as LLaVA's training script writes it."""
    value = fields.raw("image_grid_pinpoints")
    expected = "a list of [width, height] in pixels"
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            raise fields.wrong("image_grid_pinpoints", value, expected) from None
    pairs = value or []
    is_valid = isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple)
        and len(pair) == 2
        and all(type(side) is int and side > 0 for side in pair)
        for pair in pairs
    )
    if not is_valid:
        raise fields.wrong("image_grid_pinpoints", value, expected)
    return tuple((width, height) for width, height in pairs)
