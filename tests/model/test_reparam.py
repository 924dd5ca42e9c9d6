"""Folding changes the form, never the function, and never the network it is given."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastvlm.config import TowerForm, preset
from fastvlm.errors import ConfigError
from fastvlm.model import FastViTHD, FastVLM, deep_fuse, fuse


def random_tower(form: TowerForm = "branched") -> FastViTHD:
    torch.manual_seed(4)
    tower = FastViTHD(preset("nano", form=form).vision).double()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return tower.eval()


@torch.no_grad()
def test_all_forms_compute_the_same() -> None:
    tower = random_tower()
    pixel_values = torch.rand(2, 3, 130, 200, dtype=torch.float64)
    expected = tower(pixel_values)
    for form in (fuse(tower), deep_fuse(tower), deep_fuse(fuse(tower))):
        difference = (form(pixel_values) - expected).abs().max() / expected.abs().max()
        assert difference < 1e-12


def test_forms_hold_what_their_names_say() -> None:
    fused, deep_fused = fuse(random_tower()), deep_fuse(random_tower())
    blocks = sum(preset("nano").vision.depths)
    assert count(fused, nn.BatchNorm2d) == blocks
    assert count(deep_fused, nn.BatchNorm2d) == 0
    assert not [name for name in deep_fused.state_dict() if "gamma" in name or ".norm." in name]
    assert fused.config.form == "fused"
    assert deep_fused.config.form == "deep_fused"


def test_full_size_tower_has_44_batch_norms_left_after_fusing() -> None:
    with torch.device("meta"):
        fused = FastViTHD(preset("0.5b", form="fused").vision)
        deep_fused = FastViTHD(preset("0.5b", form="deep_fused").vision)
    assert count(fused, nn.BatchNorm2d) == 44
    assert count(deep_fused, nn.BatchNorm2d) == 0


@torch.no_grad()
def test_the_network_given_stays_as_it_was() -> None:
    tower = random_tower()
    before = copy.deepcopy(tower.state_dict())
    for folded in (fuse(tower), deep_fuse(tower)):
        for parameter in folded.parameters():
            parameter.zero_()
    assert tower.config.form == "branched"
    for key, value in tower.state_dict().items():
        assert torch.equal(value, before[key])


@torch.no_grad()
def test_whole_model_keeps_dtype_mode_and_tying() -> None:
    model = FastVLM(preset("nano", form="branched")).bfloat16().eval()
    fused = fuse(model)
    assert isinstance(fused, FastVLM)
    assert fused.config.vision.form == "fused"
    assert {parameter.dtype for parameter in fused.parameters()} == {torch.bfloat16}
    assert fused.lm_head.weight is fused.language_model.embed_tokens.weight
    assert not fused.training


@torch.no_grad()
def test_low_precision_weights_are_rounded_once() -> None:
    tower = fuse(random_tower()).bfloat16()
    folded, precise = deep_fuse(tower).state_dict(), deep_fuse(tower.float()).state_dict()
    for key, value in precise.items():
        assert torch.equal(folded[key], value.bfloat16()), key


def test_folding_twice_is_refused() -> None:
    fused = fuse(random_tower())
    with pytest.raises(ConfigError, match="is fused; expected branched"):
        fuse(fused)
    with pytest.raises(ConfigError, match="is deep_fused; expected fused"):
        deep_fuse(deep_fuse(fused))


def count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())
