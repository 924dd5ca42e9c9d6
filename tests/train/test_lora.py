"""Adapters: without effect at first, merged as they compute, and the same after a way through a folder."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.config import FastVLMConfig
from fastvlm.errors import CheckpointError
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.model import FastVLM
from fastvlm.train.export import merge_folders
from fastvlm.train.lora import TARGETS, add_adapters, merge_adapter, merge_state, save_adapter
from fastvlm.train.network import TuningNetwork
from fastvlm.train.parts import choose_trained
from fastvlm.train.settings import TuneSettings
from tiny_models import assert_same_state, random_model, tiny_config

pytest.importorskip("peft", reason="needs the 'train' extra")

SETTINGS = TuneSettings(lora_rank=4, lora_alpha=6.0, lora_dropout=0.0, train_vision_tower=False)
SCALE = 1.5
UP_PROJ = "language_model.layers.0.mlp.up_proj"


def adapted(model: FastVLM, settings: TuneSettings = SETTINGS, *, seed: int = 1) -> FastVLM:
    """A copy with adapters as training would leave them: B is not zero, the projector has moved."""
    model = copy.deepcopy(model)
    add_adapters(model, settings)
    choose_trained(TuningNetwork(model), settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * 0.2
                parameter.copy_(noise)
    return model.eval()


def trained_state(model: FastVLM) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def logits_of(model: FastVLM) -> Tensor:
    dtype = model.lm_head.weight.dtype
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3)).to(dtype)
    ids = torch.tensor([[5, 6, *[IMAGE_TOKEN_ID] * 4, 7, 8, 9]])
    logits: Tensor = model.lm_head(model(ids, model.encode_images(pixels)))
    return logits


def test_adapters_change_nothing_at_first() -> None:
    model = random_model(tiny_config())
    before = logits_of(model)
    add_adapters(model, SETTINGS)
    assert torch.equal(logits_of(model.eval()), before)


def test_every_matrix_of_a_decoder_layer_has_an_adapter_and_nothing_else() -> None:
    model = adapted(random_model(tiny_config()))
    places = {name.partition(".lora_")[0] for name in trained_state(model) if ".lora_" in name}
    layers = range(model.config.text.num_hidden_layers)
    blocks = {target: "self_attn" if target[0] in "qkvo" else "mlp" for target in TARGETS}
    assert places == {
        f"language_model.layers.{layer}.{block}.{target}"
        for layer in layers
        for target, block in blocks.items()
    }


# float32: products of sums are ordered differently; measured 2e-6 of the largest logit.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("tied", [True, False])
def test_merged_weights_compute_as_adapters_do(
    dtype: torch.dtype, tolerance: float, tied: bool
) -> None:
    base = random_model(tiny_config(tied=tied), dtype=dtype)
    model = adapted(base).to(dtype)
    expected = logits_of(model)
    assert (expected - logits_of(base)).abs().max() > 0.1
    merge_state(base, trained_state(model), SCALE)
    assert (logits_of(base) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("trains_tower", [False, True])
def test_a_folder_holds_all_that_was_trained(tmp_path: Path, trains_tower: bool) -> None:
    settings = TuneSettings(lora_rank=4, lora_alpha=6.0, train_vision_tower=trains_tower)
    base = random_model(tiny_config())
    state = trained_state(adapted(base, settings))
    expected, loaded = copy.deepcopy(base), copy.deepcopy(base)
    merge_state(expected, state, SCALE)
    save_adapter(state, base, settings, tmp_path / "adapter")
    merge_adapter(loaded, tmp_path / "adapter")
    assert_same_state(loaded, expected)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text("utf-8"))
    assert config["modules_to_save"] == [
        "multi_modal_projector",
        *(["vision_tower"] if trains_tower else []),
    ]


def test_a_frozen_projector_is_not_in_the_folder(tmp_path: Path) -> None:
    settings = TuneSettings(lora_rank=4, train_projector=False, train_vision_tower=False)
    base = random_model(tiny_config())
    save_adapter(trained_state(adapted(base, settings)), base, settings, tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all(".lora_" in key for key in tensors)
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text("utf-8"))
    assert config["modules_to_save"] is None


@pytest.mark.parametrize("layout", ["apple", "hf"])
def test_merged_folders_are_a_model(tmp_path: Path, layout: Any) -> None:
    base = random_model(tiny_config(tied=True))
    save_model(base, tmp_path / "base", layout="apple")
    state = trained_state(adapted(base))
    save_adapter(state, base, SETTINGS, tmp_path / "adapter")
    merge_folders(str(tmp_path / "base"), tmp_path / "adapter", tmp_path / "merged", layout=layout)
    merge_state(base, state, SCALE)
    assert_same_state(load_model(tmp_path / "merged", dtype=torch.float32)[0], base)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = random_model(tiny_config())
    save_adapter(trained_state(adapted(base)), base, SETTINGS, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_a_rank_stabilised_adapter_has_another_scale(folder: Path) -> None:
    change_config(folder, use_rslora=True)
    base = random_model(tiny_config())
    expected = copy.deepcopy(base)
    merge_state(expected, trained_state(adapted(base)), 6.0 / 4**0.5)
    merge_adapter(base, folder)
    assert_same_state(base, expected)


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | changes), "utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "has use_dora, which is no plain LoRA"),
        ({"peft_type": "IA3"}, "has peft_type 'IA3'"),
        ({"rank_pattern": {"q_proj": 8}}, "has rank_pattern"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights"),
        ({"r": 0}, "damaged adapter"),
        ({"lora_alpha": None}, "damaged adapter"),
    ],
)
def test_an_adapter_of_another_kind_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(random_model(tiny_config()), folder)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no adapter; expected adapter_config\.json"):
        merge_adapter(random_model(tiny_config()), tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_cut_file_is_refused(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="holds a damaged adapter"):
        merge_adapter(random_model(tiny_config()), folder)


def test_a_missing_matrix_is_named(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    for side in "AB":
        key = f"base_model.model.model.language_model.layers.1.mlp.up_proj.lora_{side}.weight"
        save_file({name: tensor for name, tensor in tensors.items() if name != key}, file)
        with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj; the adapter is inc"):
            merge_adapter(random_model(tiny_config()), folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_hidden_layers": 1},
            r"layers\.1\..* has no place in this model; is it the right base",
        ),
        ({"intermediate_size": 64}, r"makes \(.*48.*\), the model has \(.*64.*\); is it the right"),
    ],
)
def test_the_adapter_of_another_model_is_refused(
    folder: Path, change: dict[str, int], message: str
) -> None:
    config = tiny_config()
    other = replace(config, text=replace(config.text, **change))
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(random_model(other), folder)


def wide_config() -> FastVLMConfig:
    config = tiny_config()
    return replace(config, text=replace(config.text, hidden_size=64, intermediate_size=128))


class TestFourBits:
    """bitsandbytes computes on a CPU too, rightly where rows have a multiple of 64 weights, as all models have."""

    SETTINGS = TuneSettings(
        lora_rank=4, lora_alpha=6.0, lora_dropout=0.0, train_vision_tower=False, quantize_base="nf4"
    )

    @pytest.fixture(autouse=True)
    def needs_bitsandbytes(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR)
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")

    def test_only_adapters_and_projector_have_gradients(self) -> None:
        model = adapted(random_model(wide_config()), self.SETTINGS)
        linear: Any = model.get_submodule(UP_PROJ)
        assert linear.base_layer.weight.dtype == torch.uint8
        assert linear.base_layer.weight.numel() == 64 * 128 // 2
        ids = torch.tensor([[5, *[IMAGE_TOKEN_ID] * 4, 7, 8]])
        hidden = model(ids, model.encode_images(torch.rand(1, 3, 128, 128)))
        model.lm_head(hidden).float().logsumexp(-1).sum().backward()
        with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        assert with_gradient == set(trained_state(model))
        assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.grad is not None)

    def test_validation_between_steps_leaves_gradients_alone(self) -> None:
        model = adapted(random_model(wide_config()), self.SETTINGS)
        gradients = [self.gradients(model)]
        logits_of(model.eval())
        gradients.append(self.gradients(model.train()))
        for name, gradient in gradients[0].items():
            assert torch.equal(gradients[1][name], gradient), name

    def gradients(self, model: FastVLM) -> dict[str, Tensor]:
        model.zero_grad()
        hidden = model(torch.tensor([[5, 6, 7]]))
        model.lm_head(hidden).float().logsumexp(-1).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def test_weights_are_near_those_of_the_base(self) -> None:
        from bitsandbytes.functional import dequantize_4bit

        base = random_model(wide_config())
        linear: Any = adapted(base, self.SETTINGS).get_submodule(UP_PROJ)
        weight = linear.base_layer.weight
        found = dequantize_4bit(weight.data, weight.quant_state)
        exact = base.get_parameter(f"{UP_PROJ}.weight")
        # The widest gap between two values of NormalFloat is 0.304 of a block's largest.
        assert 0 < (found - exact).abs().max() <= 0.16 * exact.abs().max()

    def test_it_merges_into_the_base_and_not_into_its_rounded_weights(self, tmp_path: Path) -> None:
        base = random_model(wide_config())
        model = adapted(base, self.SETTINGS)
        save_adapter(trained_state(model), base, self.SETTINGS, tmp_path / "adapter")
        exact = logits_of(adapted(base))
        merge_adapter(base, tmp_path / "adapter")
        # peft keeps adapters of such layers in bfloat16, 8 bits of mantissa; measured 0.0025.
        assert (logits_of(base) - exact).abs().max() <= 0.01 * exact.abs().max()
