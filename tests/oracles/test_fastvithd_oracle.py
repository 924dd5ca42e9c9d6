"""FastViTHD gives the numbers of timm's fastvit_mci3, in every form."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fastvlm.config import TowerForm, VisionConfig, preset
from fastvlm.model import FastViTHD, deep_fuse, fuse

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.oracle

SMALL = VisionConfig(
    depths=(1, 2, 1, 2, 1),
    widths=(16, 32, 64, 192, 192),
    mlp_ratios=(3, 2, 4, 2, 3),
    layer_scale_init=0.3,
    form="branched",
)
SIZES = [(256, 256), (192, 320), (200, 130)]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def liven(network: nn.Module) -> nn.Module:
    """Random statistics and scales, so that no branch is switched off by its initial value."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, 0.2)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return network.eval()


def timm_tower(config: VisionConfig, *, is_fused: bool) -> nn.Module:
    return timm.create_model(
        "fastvit_mci3",
        num_classes=0,
        global_pool="",
        inference_mode=is_fused,
        layers=config.depths,
        embed_dims=config.widths,
        mlp_ratios=config.mlp_ratios,
        layer_scale_init_value=config.layer_scale_init,
    ).eval()


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_branched_fused_and_deep_fused_equal_timm(size: tuple[int, int]) -> None:
    branched = liven(FastViTHD(SMALL))
    assert isinstance(branched, FastViTHD)
    reference = timm_tower(SMALL, is_fused=False)
    reference.load_state_dict(branched.state_dict(), strict=True)
    fused = fuse(branched)
    fused_reference = timm_tower(SMALL, is_fused=True)
    fused_reference.load_state_dict(fused.state_dict(), strict=True)

    pixel_values = torch.rand(2, 3, *size)
    expected = reference(pixel_values)

    assert relative_difference(branched(pixel_values), expected) < 1e-9
    assert relative_difference(fused_reference(pixel_values), expected) < 1e-9
    assert relative_difference(fused(pixel_values), expected) < 1e-9
    assert relative_difference(deep_fuse(branched)(pixel_values), expected) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("form", ["branched", "fused"])
@torch.no_grad()
def test_full_size_tower_equals_timm(form: TowerForm) -> None:
    config = preset("0.5b", form=form).vision
    ours = liven(FastViTHD(config))
    reference = timm_tower(config, is_fused=form == "fused")
    reference.load_state_dict(ours.state_dict(), strict=True)
    pixel_values = torch.rand(1, 3, 256, 256)
    assert relative_difference(ours(pixel_values), reference(pixel_values)) < 1e-9
