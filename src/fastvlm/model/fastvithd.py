"""FastViTHD, the vision encoder: paper section 3.2, in reading order.

Three convolutional and two self-attention stages. Each stage but the first halves the resolution, the stem
quarters it, so one feature stands for 64 x 64 pixels: 256 image tokens at 1024 px.

Same numbers as apple/ml-fastvlm `mobileclip/mci.py` (`fastvithd`) and timm's `fastvit_mci3` without its head.
"""

from __future__ import annotations

from torch import Tensor, nn

from fastvlm.config import VisionConfig
from fastvlm.errors import ShapeError
from fastvlm.model.blocks import (
    AttentionBlock,
    PatchEmbed,
    RepMixerBlock,
    mobileone,
    position_encoding,
)


class FastViTHD(nn.Module):
    """The encoder up to its last convolution: that feature map is what the projector takes.

    Shape:
        [N, 3, H, W] -> [N, hidden_size, ceil(H/64), ceil(W/64)], hidden_size 3072 in the published model

    Raises:
        ShapeError: input that is not 4-D with three channels.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width, form = config.widths[0], config.form
        self.stem = nn.Sequential(
            mobileone(3, width, 3, stride=2, has_scale=False, form=form),
            mobileone(width, width, 3, stride=2, groups=width, has_scale=False, form=form),
            mobileone(width, width, 1, has_scale=False, form=form),
        )
        self.stages = nn.ModuleList([Stage(config, index) for index in range(5)])
        width = config.widths[-1]
        self.final_conv = mobileone(
            width, config.hidden_size, 3, groups=width, has_se=True, form=form
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
            raise ShapeError(
                f"pixel_values has shape {list(pixel_values.shape)}; expected [N, 3, H, W] with RGB in 0..1"
            )
        x = self.stem(pixel_values)  # [N, 96, H/4, W/4]
        for stage in self.stages:
            x = stage(x)  # [N, 96, H/4, W/4] ... [N, 1536, H/64, W/64]
        return self.final_conv(x)  # [N, 3072, H/64, W/64]


class Stage(nn.Module):
    """Downsampling (not in the first stage), position encoding (attention stages only), blocks."""

    def __init__(self, config: VisionConfig, index: int) -> None:
        super().__init__()
        width, form = config.widths[index], config.form
        has_attention = config.token_mixers[index] == "attention"
        self.downsample = (
            PatchEmbed(config.widths[index - 1], width, form) if index else nn.Identity()
        )
        self.pos_emb = position_encoding(width, form=form) if has_attention else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                _block(config, index, has_attention=has_attention)
                for _ in range(config.depths[index])
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.pos_emb(self.downsample(x)))


def _block(config: VisionConfig, index: int, *, has_attention: bool) -> nn.Module:
    width, ratio = config.widths[index], config.mlp_ratios[index]
    if has_attention:
        return AttentionBlock(
            width,
            ratio=ratio,
            head_dim=config.head_dim,
            layer_scale_init=config.layer_scale_init,
            form=config.form,
        )
    return RepMixerBlock(
        width, ratio=ratio, layer_scale_init=config.layer_scale_init, form=config.form
    )
