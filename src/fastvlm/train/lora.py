"""LoRA adapters on the language model: put in, taken out as a PEFT folder, merged into the weights.

Source: LoRA (arXiv 2106.09685) and QLoRA (arXiv 2305.14314), through peft and bitsandbytes. The folder names
modules as the transformers layout of FastVLM does, so that `PeftModel.from_pretrained` puts it on that model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastvlm.checkpoint.keymap import key_map
from fastvlm.checkpoint.save import new_folder
from fastvlm.errors import CheckpointError, MissingExtraError
from fastvlm.model.fastvlm import FastVLM
from fastvlm.train.settings import TuneSettings

TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All matrices of a decoder layer. # REF: llava/train/train_qwen.py find_all_linear_names"""
_WEIGHTS: Final = "adapter_model.safetensors"
_CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."
_NOT_PLAIN: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
)
"""Options of peft under which W + scale * B @ A is not the merged weight."""
_KEEP_BASE: Final = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin that leave the base's weights alone; PiSSA and others take a part of them away."""
_WHOLE_PARTS: Final = {"projector": "multi_modal_projector", "vision_tower": "vision_tower"}
"""Parts that are trained without adapters: ours, and their modules in the transformers layout."""


def add_adapters(model: FastVLM, settings: TuneSettings) -> None:
    """Put adapters of `settings.lora_rank` on every matrix of the decoder layers, in place.

    Raises:
        MissingExtraError: peft or bitsandbytes is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as err:
        raise MissingExtraError("adapters need peft; pip install 'fastvlm[train]'") from err
    if settings.quantize_base == "nf4":
        _quantize_linears(model.language_model.layers)
        # peft asks the module it is put on.
        model.language_model.is_loaded_in_4bit = True  # type: ignore[assignment]
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]  # peft divides it, any number does
        lora_dropout=settings.lora_dropout,
        target_modules=list(TARGETS),
    )
    inject_adapter_in_model(config, model.language_model)


def save_adapter(
    state: Mapping[str, Tensor], model: FastVLM, settings: TuneSettings, folder: Path
) -> None:
    """Write the PEFT folder.

    Args:
        state: trained tensors by name in `FastVLM`: adapters, and all of the projector and the tower if trained.
        model: the base; whose key map names the modules.
        settings: rank, alpha, dropout and the name of the base model.
        folder: written beside its place, then renamed into it.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    keys = key_map("hf", model.config)
    whole = [part for part in _WHOLE_PARTS if any(name.startswith(f"{part}.") for name in state)]
    # peft wants all of a part, BatchNorm statistics too.
    rest_of_parts = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.partition(".")[0] in whole
    }
    tensors: dict[str, Tensor] = {}
    for name, tensor in (rest_of_parts | dict(state)).items():
        if ".lora_" in name:
            module, _, rest = name.partition(".lora_")
            which = rest.split(".")[0]  # A or B
            place = keys.to_layout(f"{module}.weight").removesuffix(".weight")
            tensors[f"{_PREFIX}{place}.lora_{which}.weight"] = tensor.contiguous()
        else:
            tensors[_PREFIX + keys.to_layout(name)] = tensor.contiguous()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.model,
        "r": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "target_modules": list(TARGETS),
        "modules_to_save": [_WHOLE_PARTS[part] for part in whole] or None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with new_folder(folder, overwrite=True) as staging:
        save_file(tensors, staging / _WEIGHTS, metadata={"format": "pt"})
        (staging / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def merge_adapter(model: FastVLM, folder: Path) -> None:
    """Add the adapters of a PEFT folder to the weights of a model, in place, and take whole modules over.

    Raises:
        CheckpointError: no such folder, a kind of adapter that is no plain LoRA, or tensors that do not fit the
            model.
    """
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} holds no adapter; expected {_CONFIG} and {_WEIGHTS}, as peft writes them"
        )
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        scale = _scale_of(config, folder)
        tensors = load_file(folder / _WEIGHTS)
    except (ValueError, KeyError, TypeError, ZeroDivisionError, SafetensorError) as err:
        raise CheckpointError(f"{folder} holds a damaged adapter: {err}; write it again") from err
    keys = key_map("hf", model.config)
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        place = key.removeprefix(_PREFIX)
        module, _, rest = place.partition(".lora_")
        name = keys.to_ours(f"{module}.weight" if rest else place)
        if name is None:
            raise CheckpointError(
                f"{folder}: {key} has no place in this model; is it the right base?"
            )
        state[f"{name.removesuffix('.weight')}.lora_{rest}" if rest else name] = tensor
    merge_state(model, state, scale)


@torch.no_grad()
def merge_state(model: FastVLM, state: Mapping[str, Tensor], scale: float) -> None:
    """W + scale * B @ A for every adapter in `state`, names as in `FastVLM`; other tensors replace the model's.

    Computed in float32, or in float64 for such a model, and rounded once.

    Raises:
        CheckpointError: a name or shape that the model does not have.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in state.items():
        module, _, matrix = name.partition(".lora_")
        target = own.get(f"{module}.weight" if matrix else name)
        if target is None:
            raise CheckpointError(f"{name} has no place in this model; is it the right base?")
        wide = torch.promote_types(target.dtype, torch.float32)
        value = _product(state, name, wide) if matrix else tensor.to(wide)
        if value.shape != target.shape:
            raise CheckpointError(
                f"{name} makes {tuple(value.shape)}, the model has {tuple(target.shape)}; is it the right base?"
            )
        if not matrix:
            target.copy_(value)
        elif matrix.startswith("A"):  # B came with it
            target.copy_(target.to(wide) + scale * value)


def _product(state: Mapping[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    """B @ A of the adapter that a tensor belongs to."""
    module, _, matrix = name.partition(".lora_")
    down, up = (state.get(f"{module}.lora_{side}{matrix[1:]}") for side in "AB")
    if down is None or up is None or up.shape[1:] != down.shape[:1]:
        raise CheckpointError(
            f"{name}: expected a lora_A and a lora_B of one rank for {module}; the adapter is incomplete, or of "
            "another kind that peft alone can merge"
        )
    return up.to(dtype) @ down.to(dtype)


def _scale_of(config: Mapping[str, Any], folder: Path) -> float:
    """By how much B @ A counts, for an adapter that is plain LoRA."""
    special = [name for name in _NOT_PLAIN if config.get(name)]
    if config.get("init_lora_weights") not in (*_KEEP_BASE, None):
        special.append("init_lora_weights")
    if config.get("peft_type") != "LORA" or special:
        kind = ", ".join(special) or f"peft_type {config.get('peft_type')!r}"
        raise CheckpointError(f"{folder} has {kind}, which is no plain LoRA; merge it with peft")
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _quantize_linears(layers: nn.Module) -> None:
    """Linear layers to 4-bit NormalFloat with double quantisation, as QLoRA has them."""
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError as err:
        raise MissingExtraError(
            "quantize_base needs bitsandbytes; pip install bitsandbytes"
        ) from err
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            linear = Linear4bit(  # type: ignore[no-untyped-call]
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=torch.bfloat16,
                compress_statistics=True,
                quant_type="nf4",
            )
            linear.weight = Params4bit(
                child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            linear.bias = child.bias
            # On some CPUs a forward pass in eval repacks the weights for a kernel without gradients, for good.
            linear.support_avx512bf16_for_cpu = False
            setattr(parent, name, linear.to(child.weight.device))
