"""Sizes and choices of the network, as frozen dataclasses, and the published presets.

Figures: paper (arXiv 2412.13303v2) section 3.2; apple/ml-fastvlm `mobileclip/mci.py` and
`configs/mobileclip_l.json`; apple/FastVLM-* config.json. How they are read from and written to config.json
lives in `checkpoint/config_json.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from fastvlm.errors import ConfigError

TokenMixer: TypeAlias = Literal["repmixer", "attention"]
TowerForm: TypeAlias = Literal["branched", "fused", "deep_fused"]
ImageMode: TypeAlias = Literal["pad", "crop", "anyres", "native"]

PATCH_STRIDE: Final = 64
"""Input pixels per image token along each side."""
MIN_IMAGE_SIZE: Final = PATCH_STRIDE
"""Smallest side of a picture for the network, one token."""
MAX_IMAGE_SIZE: Final = 2048
"""Largest side, 1024 tokens; twice the side that released models were trained at."""


def num_image_tokens(height: int, width: int) -> int:
    """Tokens of a picture of this size: six halvings, each rounded up, in both directions.

    Note that Apple's `num_patches_per_side` rounds down, which is wrong for sizes that are no multiple of 64.
    """
    return math.ceil(height / PATCH_STRIDE) * math.ceil(width / PATCH_STRIDE)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The FastViTHD encoder. The defaults are the published one."""

    depths: tuple[int, ...] = (2, 12, 24, 4, 2)
    """Blocks in each of the five stages."""
    widths: tuple[int, ...] = (96, 192, 384, 768, 1536)
    """Channels of each stage; the stem has those of the first."""
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4, 4)
    """Hidden channels of the ConvFFN over channels of the stage."""
    token_mixers: tuple[TokenMixer, ...] = ("repmixer",) * 3 + ("attention",) * 2
    """What mixes positions in each stage; a conditional position encoding precedes attention stages."""
    head_dim: int = 32
    """Channels of one attention head."""
    cls_ratio: int = 2
    """Channels after the last convolution over channels of the last stage."""
    layer_scale_init: float = 1e-5
    """Starting value of the per-channel scale of each residual branch."""
    form: TowerForm = "fused"
    """branched (as trained from scratch), fused (as published) or deep_fused (nothing left to fold)."""

    def __post_init__(self) -> None:
        lengths = {
            len(self.depths),
            len(self.widths),
            len(self.mlp_ratios),
            len(self.token_mixers),
        }
        if lengths != {5}:
            raise ConfigError(
                "depths, widths, mlp_ratios and token_mixers must have five entries each (stride 64), "
                f"got {len(self.depths)}, {len(self.widths)}, {len(self.mlp_ratios)} and {len(self.token_mixers)}"
            )
        for narrow, wide in pairwise(self.widths):
            if wide % narrow:
                raise ConfigError(
                    f"width {wide} is no multiple of {narrow}, the width of the stage before; "
                    "downsampling is a grouped convolution"
                )
        for width, mixer in zip(self.widths, self.token_mixers, strict=True):
            if mixer == "attention" and width % self.head_dim:
                raise ConfigError(
                    f"attention stage of width {width} is no multiple of head_dim {self.head_dim}"
                )

    @property
    def hidden_size(self) -> int:
        """Channels of one image feature before the projector."""
        return self.widths[-1] * self.cls_ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """The Qwen2 decoder."""

    hidden_size: int
    """Channels of one token."""
    intermediate_size: int
    """Hidden channels of the SwiGLU block."""
    num_hidden_layers: int
    """Decoder layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads, shared by groups of query heads."""
    vocab_size: int
    """Rows of the embedding; may exceed the tokenizer, whose last rows are then never used."""
    tie_word_embeddings: bool
    """Whether the output layer is the embedding."""
    rope_theta: float = 1_000_000.0
    """Base of the rotary position encoding."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in every RMSNorm."""
    max_position_embeddings: int = 32768
    """Longest sequence of the language model."""
    bos_token_id: int = 151643
    """Written to config.json; Qwen2 prepends nothing."""
    eos_token_id: int = 151645
    """Ends an answer (<|im_end|>)."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ConfigError(
                f"num_attention_heads {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True, kw_only=True, slots=True)
class FastVLMConfig:
    """Encoder, projector, decoder, and how pictures and prompts are prepared for them."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig
    projector_type: str = "mlp2x_gelu"
    """linear, or mlpNx_gelu with N linear layers."""
    image_size: int = 1024
    """Pixels per side of the square the model was trained on."""
    image_mode: ImageMode = "pad"
    """How a picture becomes that square: pad (as trained), crop, anyres, native."""
    image_grid_pinpoints: tuple[tuple[int, int], ...] = ()
    """Width and height in pixels of the grids that anyres may choose from."""
    max_length: int = 8192
    """Longest prompt plus answer in tokens, image tokens included."""

    def __post_init__(self) -> None:
        projector_depth(self.projector_type)  # raises for an unknown type

    @property
    def num_image_tokens(self) -> int:
        """Tokens of one square picture at the trained size."""
        return num_image_tokens(self.image_size, self.image_size)


def projector_depth(projector_type: str) -> int:
    """Number of linear layers of a projector type.

    Raises:
        ConfigError: a type other than `linear` and `mlpNx_gelu`.
    """
    if projector_type == "linear":
        return 1
    middle = projector_type.removeprefix("mlp").removesuffix("x_gelu")
    if projector_type == f"mlp{middle}x_gelu" and middle.isdigit() and int(middle) >= 1:
        return int(middle)
    raise ConfigError(
        f"projector type {projector_type!r} is not known; expected 'linear' or 'mlpNx_gelu', e.g. 'mlp2x_gelu'"
    )


_QWEN2_05B = TextConfig(
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    vocab_size=151_936,
    tie_word_embeddings=True,
)
_QWEN2_15B = TextConfig(
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    vocab_size=151_936,
    tie_word_embeddings=True,
)
_QWEN2_7B = TextConfig(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152_064,
    tie_word_embeddings=False,
)
# Widths and depths were found by trial on two CPU cores: see docs/nano.md.
_NANO = FastVLMConfig(
    vision=VisionConfig(
        depths=(1, 1, 2, 2, 1),
        widths=(16, 32, 64, 192, 384),
        mlp_ratios=(3, 3, 4, 4, 3),
        layer_scale_init=0.5,
    ),
    text=TextConfig(
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=640,
        tie_word_embeddings=True,
        rope_theta=10_000.0,
        max_position_embeddings=2048,
        bos_token_id=617,
        eos_token_id=619,
    ),
    image_size=192,
    max_length=2048,
)

PRESETS: Final[dict[str, FastVLMConfig]] = {
    "nano": _NANO,
    "0.5b": FastVLMConfig(text=_QWEN2_05B),
    "1.5b": FastVLMConfig(text=_QWEN2_15B),
    "7b": FastVLMConfig(text=_QWEN2_7B),
}


def preset(name: str, *, form: TowerForm = "fused") -> FastVLMConfig:
    """The configuration of a published model, or of `nano`.

    Raises:
        ConfigError: no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset named {name!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[name]
    return replace(config, vision=replace(config.vision, form=form))
