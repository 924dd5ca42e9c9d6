"""Building blocks of FastViTHD, each in its branched and its fused form.

Source: paper section 3.2 (FastViT with self-attention stages), apple/ml-fastvlm `mobileclip/mci.py` and
`mobileclip/mobileone.py`. Attribute names follow timm's `fastvit.py`, so that published keys map one to one.

What is a sum of parallel branches while training is one convolution at inference. `FusedConv` is that one
convolution, whatever the branches were; `model/reparam.py` computes its kernel from them. Each factory
(`mobileone`, `rep_mixer`, ...) builds the form it is asked for, so no `forward` has to ask.

Shapes: N images, C channels, H x W positions, T = H*W tokens, h heads, d channels a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.config import TowerForm

LARGE_KERNEL, SMALL_KERNEL = 7, 3


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: the branch that all branched blocks are made of."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SqueezeExcite(nn.Module):
    """Weighs each channel by what the whole picture shows; reduction 1/16, ReLU, sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = x.mean((2, 3), keepdim=True)  # [N, C, 1, 1]
        return x * self.fc2(F.relu(self.fc1(weight))).sigmoid()


class FusedConv(nn.Module):
    """One convolution with bias where the branched form has several branches."""

    def __init__(self, conv: nn.Conv2d, *, se: nn.Module | None, act: nn.Module | None) -> None:
        super().__init__()
        self.reparam_conv = conv
        self.se = se or nn.Identity()
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.se(self.reparam_conv(x)))


class MobileOneConv(nn.Module):
    """Branched form: KxK convolution + 1x1 "scale" convolution + identity, each with its own batch norm.

    The identity branch exists where input and output agree in shape, the scale branch where it is asked for
    and the kernel is larger than 1. `has_conv=False` leaves the identity alone (RepMixer's `norm`).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        has_conv: bool = True,
        has_scale: bool = True,
        se: nn.Module | None = None,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        if in_channels == out_channels and stride == 1:
            self.identity = nn.BatchNorm2d(in_channels)
        if has_conv:
            conv = ConvNorm(in_channels, out_channels, kernel, stride=stride, groups=groups)
            self.conv_kxk = nn.ModuleList([conv])
        if has_scale and kernel > 1:
            self.conv_scale = ConvNorm(in_channels, out_channels, 1, stride=stride, groups=groups)
        self.se = se or nn.Identity()
        self.act = act or nn.Identity()

    @property
    def branches(self) -> list[nn.Module]:
        """The parallel branches that exist, in the order in which they are added up."""
        named = dict(self.named_children())
        found = [named.get("identity"), *getattr(self, "conv_kxk", ()), named.get("conv_scale")]
        return [branch for branch in found if branch is not None]

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.branches
        y = first(x)
        for branch in rest:
            y = y + branch(x)
        return self.act(self.se(y))


class RepMixer(nn.Module):
    """Branched token mixer: x + scale * (mixer(x) - norm(x)); fused, all of it is one depthwise 3x3."""

    def __init__(self, width: int, *, layer_scale_init: float) -> None:
        super().__init__()
        self.norm = MobileOneConv(
            width, width, SMALL_KERNEL, groups=width, has_conv=False, has_scale=False
        )
        self.mixer = MobileOneConv(width, width, SMALL_KERNEL, groups=width)
        self.layer_scale = LayerScale(width, init=layer_scale_init)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale(self.mixer(x) - self.norm(x))


class LargeKernelConv(nn.Module):
    """Branched downsampling convolution: grouped 7x7 + grouped 3x3, both of stride 2, then GELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.large_conv = ConvNorm(
            in_channels, out_channels, LARGE_KERNEL, stride=2, groups=in_channels
        )
        self.small_conv = ConvNorm(
            in_channels, out_channels, SMALL_KERNEL, stride=2, groups=in_channels
        )
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.large_conv(x) + self.small_conv(x))


class PositionEncoding(nn.Module):
    """Branched conditional position encoding: x + depthwise 7x7 convolution of x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pos_enc = nn.Conv2d(
            width, width, LARGE_KERNEL, padding=LARGE_KERNEL // 2, groups=width
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pos_enc(x)


class LayerScale(nn.Module):
    """A learned factor per channel in front of a residual addition."""

    def __init__(self, width: int, *, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ConvFFN(nn.Module):
    """Depthwise 7x7, then two 1x1 convolutions with GELU between: 73 % of the encoder's work is in here."""

    def __init__(self, width: int, ratio: int, form: TowerForm) -> None:
        super().__init__()
        if form == "deep_fused":
            self.conv: nn.Module = nn.Conv2d(
                width, width, LARGE_KERNEL, padding=LARGE_KERNEL // 2, groups=width
            )
        else:
            self.conv = ConvNorm(width, width, LARGE_KERNEL, groups=width)
        self.fc1 = nn.Conv2d(width, width * ratio, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(width * ratio, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))


class RepMixerBlock(nn.Module):
    """Convolutional block of the first three stages."""

    def __init__(self, width: int, *, ratio: int, layer_scale_init: float, form: TowerForm) -> None:
        super().__init__()
        self.token_mixer = rep_mixer(width, layer_scale_init=layer_scale_init, form=form)
        self.mlp = ConvFFN(width, ratio, form)
        self.layer_scale = layer_scale(width, init=layer_scale_init, form=form)

    def forward(self, x: Tensor) -> Tensor:
        x = self.token_mixer(x)
        return x + self.layer_scale(self.mlp(x))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position, [N, C, H, W] -> [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Attention(nn.Module):
    """Multi-head self-attention of every position with every other, [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, width: int, head_dim: int, form: TowerForm) -> None:
        super().__init__()
        self.head_dim = head_dim
        # deep_fused: the bias is what remains of the affine part of the norm before it.
        self.qkv = nn.Linear(width, 3 * width, bias=form == "deep_fused")
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = x.flatten(2).mT  # [N, T, C]
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.head_dim)).unbind(2)  # each [N, T, h, d]
        x = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        )  # [N, h, T, d]
        x = self.proj(x.transpose(1, 2).flatten(2))  # [N, T, C]
        return x.mT.reshape(shape)  # [N, C, H, W]


class AttentionBlock(nn.Module):
    """Self-attention block of the last two stages; only the attention is normalised beforehand."""

    def __init__(
        self, width: int, *, ratio: int, head_dim: int, layer_scale_init: float, form: TowerForm
    ) -> None:
        super().__init__()
        self.norm = ChannelNorm(width, eps=1e-5, elementwise_affine=form != "deep_fused")
        self.token_mixer = Attention(width, head_dim, form)
        self.layer_scale_1 = layer_scale(width, init=layer_scale_init, form=form)
        self.mlp = ConvFFN(width, ratio, form)
        self.layer_scale_2 = layer_scale(width, init=layer_scale_init, form=form)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1(self.token_mixer(self.norm(x)))
        return x + self.layer_scale_2(self.mlp(x))


class PatchEmbed(nn.Module):
    """Halves the resolution and doubles the channels: grouped 7x7 of stride 2, then 1x1.

    In the grouped convolution each input channel makes two output channels.
    """

    def __init__(self, in_channels: int, out_channels: int, form: TowerForm) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            large_kernel_conv(in_channels, out_channels, form=form),
            mobileone(out_channels, out_channels, 1, form=form),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def mobileone(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    form: TowerForm,
    stride: int = 1,
    groups: int = 1,
    has_scale: bool = True,
    has_se: bool = False,
) -> nn.Module:
    """A MobileOne convolution with GELU, in the form that is asked for."""
    se = SqueezeExcite(out_channels) if has_se else None
    if form == "branched":
        return MobileOneConv(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            groups=groups,
            has_scale=has_scale,
            se=se,
            act=nn.GELU(),
        )
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups
    )
    return FusedConv(conv, se=se, act=nn.GELU())


def rep_mixer(width: int, *, layer_scale_init: float, form: TowerForm) -> nn.Module:
    """The token mixer of a convolutional block, in the form that is asked for."""
    if form == "branched":
        return RepMixer(width, layer_scale_init=layer_scale_init)
    return FusedConv(_depthwise(width, SMALL_KERNEL), se=None, act=None)


def large_kernel_conv(in_channels: int, out_channels: int, *, form: TowerForm) -> nn.Module:
    """The downsampling convolution of a patch embedding, in the form that is asked for."""
    if form == "branched":
        return LargeKernelConv(in_channels, out_channels)
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        LARGE_KERNEL,
        stride=2,
        padding=LARGE_KERNEL // 2,
        groups=in_channels,
    )
    return FusedConv(conv, se=None, act=nn.GELU())


def position_encoding(width: int, *, form: TowerForm) -> nn.Module:
    """The conditional position encoding before an attention stage, in the form that is asked for."""
    if form == "branched":
        return PositionEncoding(width)
    return FusedConv(_depthwise(width, LARGE_KERNEL), se=None, act=None)


def layer_scale(width: int, *, init: float, form: TowerForm) -> nn.Module:
    """The factor of a residual branch; deep_fused has it folded into the layer before."""
    return nn.Identity() if form == "deep_fused" else LayerScale(width, init=init)


def _depthwise(width: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
