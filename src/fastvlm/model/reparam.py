"""Folding: the same function with fewer operations. `fuse` and `deep_fuse` return new modules.

branched --fuse--> fused --deep_fuse--> deep_fused

`fuse` turns each sum of parallel convolutions and batch norms into one convolution: the form in which the
published weights are stored. Source of the algebra: MobileOne (arXiv 2206.04040) section 3.2, FastViT
(arXiv 2303.14189) section 3.2. `deep_fuse` goes on where the published form stops: the batch norm of each ConvFFN,
the layer scales, and the affine part of each attention norm disappear into their neighbours; all of it exact.

Kernels are [out, in/groups, k, k], biases [out].
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.config import TowerForm, VisionConfig
from fastvlm.errors import ConfigError
from fastvlm.model.blocks import (
    AttentionBlock,
    ConvNorm,
    LargeKernelConv,
    LayerScale,
    MobileOneConv,
    PositionEncoding,
    RepMixer,
    RepMixerBlock,
)
from fastvlm.model.empty import without_memory
from fastvlm.model.fastvithd import FastViTHD
from fastvlm.model.fastvlm import FastVLM

Network = TypeVar("Network", bound=FastViTHD | FastVLM)


class Folded(NamedTuple):
    """One convolution that computes what several modules did."""

    weight: Tensor
    bias: Tensor


def fuse(network: Network) -> Network:
    """A new network with one convolution in place of each set of branches; same function in eval mode.

    Raises:
        ConfigError: the network is not branched.
    """
    _require_form(network, "branched")
    state: dict[str, Tensor] = {}
    for name, module in _outermost(
        network, (MobileOneConv, RepMixer, LargeKernelConv, PositionEncoding)
    ):
        folded = fold(module)
        state[f"{name}.reparam_conv.weight"], state[f"{name}.reparam_conv.bias"] = folded
        state |= {
            f"{name}.{key}": value
            for key, value in module.state_dict().items()
            if key.startswith("se.")
        }
    return _rebuild(network, "fused", state)


def deep_fuse(network: Network) -> Network:
    """A new network without batch norms, layer scales and affine norms; same function in eval mode.

    Accepts the branched form too, which it fuses first.

    Raises:
        ConfigError: the network is deep-fused already.
    """
    if _vision_config(network).form == "branched":
        network = fuse(network)
    _require_form(network, "fused")
    state: dict[str, Tensor] = {}
    for name, block in network.named_modules():
        if isinstance(block, RepMixerBlock | AttentionBlock):
            folded = _deep_fold(block).items()
            state |= {f"{name}.{key}": value for key, value in folded}
    return _rebuild(network, "deep_fused", state)


def _deep_fold(block: RepMixerBlock | AttentionBlock) -> dict[str, Tensor]:
    """The tensors of a block that change when its norm, scales and batch norm are folded away."""
    conv = _fold_conv_norm(block.mlp.conv)
    state = {"mlp.conv.weight": conv.weight, "mlp.conv.bias": conv.bias}
    if isinstance(block, RepMixerBlock):
        return state | _scale_output("mlp.fc2", block.mlp.fc2, block.layer_scale)
    attention, norm = block.token_mixer, block.norm
    # W (g * y + b) = (W g) y + W b, where y is the normalised input.
    state["token_mixer.qkv.weight"] = attention.qkv.weight.detach() * norm.weight.detach()
    state["token_mixer.qkv.bias"] = _precise(attention.qkv.weight) @ _precise(norm.bias)
    state |= _scale_output("token_mixer.proj", attention.proj, block.layer_scale_1)
    return state | _scale_output("mlp.fc2", block.mlp.fc2, block.layer_scale_2)


@singledispatch
def fold(module: nn.Module) -> Folded:
    """The one convolution that a branched module amounts to in eval mode (activation and SE left out)."""
    raise TypeError(f"{type(module).__name__} has no branches to fold")


@fold.register
def _(module: MobileOneConv) -> Folded:
    folded = [_fold_branch(branch, module) for branch in module.branches]
    weight = torch.stack([branch.weight for branch in folded]).sum(0)
    return Folded(weight, torch.stack([branch.bias for branch in folded]).sum(0))


@fold.register
def _(module: RepMixer) -> Folded:
    mixer, norm = fold(module.mixer), fold(module.norm)
    scale = _precise(module.layer_scale.gamma).flatten()  # [C]
    weight = scale[:, None, None, None] * (mixer.weight - norm.weight)
    return Folded(weight + _dirac_like(weight), scale * (mixer.bias - norm.bias))


@fold.register
def _(module: LargeKernelConv) -> Folded:
    large, small = _fold_conv_norm(module.large_conv), _fold_conv_norm(module.small_conv)
    weight = large.weight + _pad_kernel(small.weight, large.weight.shape[-1])
    return Folded(weight, large.bias + small.bias)


@fold.register
def _(module: PositionEncoding) -> Folded:
    conv = module.pos_enc
    assert conv.bias is not None
    weight = _precise(conv.weight)
    return Folded(weight + _dirac_like(weight), _precise(conv.bias))


def _fold_branch(branch: nn.Module, module: MobileOneConv) -> Folded:
    if isinstance(branch, ConvNorm):
        folded = _fold_conv_norm(branch)
        return Folded(_pad_kernel(folded.weight, module.kernel), folded.bias)
    assert isinstance(branch, nn.BatchNorm2d)
    channels = branch.num_features
    identity = _dirac_like(
        branch.weight.new_zeros(channels, channels // module.groups, module.kernel, module.kernel),
        groups=module.groups,
    )
    return _fold_norm(identity, branch)


def _fold_conv_norm(module: nn.Module) -> Folded:
    assert isinstance(module, ConvNorm)
    return _fold_norm(module.conv.weight, module.bn)


def _fold_norm(weight: Tensor, norm: nn.BatchNorm2d) -> Folded:
    """Batch norm after a convolution without bias: a factor a channel, and a bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    std = torch.sqrt(_precise(norm.running_var) + norm.eps)
    factor = _precise(norm.weight) / std  # [C]
    bias = _precise(norm.bias) - _precise(norm.running_mean) * factor
    return Folded(_precise(weight) * factor[:, None, None, None], bias)


def _precise(tensor: Tensor) -> Tensor:
    """At least float32, so that low-precision weights are rounded once, after folding."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def _pad_kernel(weight: Tensor, kernel: int) -> Tensor:
    """Zeros around a smaller kernel, so that it adds up with a larger one."""
    margin = (kernel - weight.shape[-1]) // 2
    return F.pad(weight, [margin] * 4)


def _dirac_like(weight: Tensor, *, groups: int | None = None) -> Tensor:
    """The kernel that changes nothing; depthwise unless groups are given."""
    identity = torch.zeros_like(weight)
    return nn.init.dirac_(identity, groups if groups is not None else weight.shape[0])


def _scale_output(name: str, layer: nn.Linear | nn.Conv2d, scale: nn.Module) -> dict[str, Tensor]:
    """Fold a factor per output channel into the layer that makes those channels.

    One multiplication rounds once in any dtype, so unlike a sum it needs no wider one in between.
    """
    assert isinstance(scale, LayerScale)
    assert layer.bias is not None
    gamma, weight = scale.gamma.detach().flatten(), layer.weight.detach()
    return {
        f"{name}.weight": weight * gamma.view(-1, *[1] * (weight.ndim - 1)),
        f"{name}.bias": layer.bias.detach() * gamma,
    }


def _outermost(
    network: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> list[tuple[str, nn.Module]]:
    """Modules of these kinds that lie in no other such module, with their names."""
    found: list[tuple[str, nn.Module]] = []
    for name, module in network.named_modules():
        if isinstance(module, kinds) and not any(
            name.startswith(f"{outer}.") for outer, _ in found
        ):
            found.append((name, module))
    return found


def _vision_config(network: FastViTHD | FastVLM) -> VisionConfig:
    return network.config.vision if isinstance(network, FastVLM) else network.config


def _require_form(network: FastViTHD | FastVLM, form: TowerForm) -> None:
    if (found := _vision_config(network).form) != form:
        raise ConfigError(f"the vision tower is {found}; expected {form}")


def _rebuild(
    network: Network,
    new_form: TowerForm,
    state: dict[str, Tensor],
) -> Network:
    """The same network in another form, with these tensors; what they do not name is copied over."""
    vision = replace(_vision_config(network), form=new_form)
    with without_memory():
        rebuilt: FastViTHD | FastVLM = (
            FastVLM(replace(network.config, vision=vision))
            if isinstance(network, FastVLM)
            else FastViTHD(vision)
        )
    old_state = network.state_dict()
    dtype = next(network.parameters()).dtype
    old_places = {tensor.data_ptr() for tensor in old_state.values()}

    def own(tensor: Tensor) -> Tensor:
        """The tensor, copied if it is one of the old network's."""
        tensor = tensor.to(dtype)
        return tensor.clone() if tensor.data_ptr() in old_places else tensor

    new_state = {
        key: own(state[key]) if key in state else old_state[key].clone()
        for key in rebuilt.state_dict()
    }
    rebuilt.load_state_dict(new_state, strict=True, assign=True)
    if isinstance(rebuilt, FastVLM) and rebuilt.config.text.tie_word_embeddings:
        rebuilt.lm_head.weight = rebuilt.language_model.embed_tokens.weight
    rebuilt.train(network.training)
    return cast("Network", rebuilt)
