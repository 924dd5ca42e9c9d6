"""Optimizer steps as they are written with transformers today: `python -m fastvlm.bench.training_worker TASK RESULT`.

A plain loop around `FastVlmForConditionalGeneration`: forward with labels, backward, clipped gradients, fused AdamW.
The batch is ready before the first step, so no step opens a picture. BatchNorms stay in eval, as `fastvlm train` keeps
them: with batch statistics the two systems would compute different losses. Adapters are peft's.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from fastvlm.errors import FastVLMError
from fastvlm.inputs import IMAGE_TOKEN_ID
from fastvlm.memory import peak_device_bytes, peak_rss_bytes

if TYPE_CHECKING:
    import torch

Variant: TypeAlias = Literal["full", "lora"]
Precision: TypeAlias = Literal["fp32", "bf16"]

LEARNING_RATE: Final = 2e-5
MAX_GRAD_NORM: Final = 1.0
LORA_RANK: Final = 64
LORA_ALPHA: Final = 16
_BETAS: Final = (0.9, 0.999)
_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTask:
    """What to do.

    Attributes:
        folder: checkpoint in layout hf.
        inputs_file: an .npz with input_ids [T], labels [T] and pixel_values [1, 3, H, W] of one sample.
        output: for what is saved after the last step.
        variant: all weights, or adapters and the projector.
        precision: of products; weights that are trained are in float32.
        num_steps: optimizer steps.
        batch_size: how many times the sample is in the batch.
        device: cpu or cuda.
        threads: of the processor.
        has_checkpointing: compute activations of the tower and the decoder twice.
    """

    folder: str
    inputs_file: str
    output: str
    variant: Variant
    precision: Precision
    num_steps: int
    batch_size: int
    device: str
    threads: int
    has_checkpointing: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What was measured.

    Attributes:
        losses: of every step, before its update.
        step_s: seconds of every step but the first, which still pays for what is done on first use.
        peak_mib: most memory until the end of the last step: of tensors on a GPU, else of the process.
        num_trained: parameters with a gradient.
    """

    losses: tuple[float, ...]
    step_s: tuple[float, ...]
    peak_mib: int | None
    num_trained: int


def run(task: StepTask) -> Steps:
    """Train in this process, which should be fresh, and save.

    Raises:
        FastVLMError: the device is not there.
    """
    import torch

    from fastvlm.device import resolve_device

    torch.set_num_threads(task.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = resolve_device(task.device)
    model = _load(task, device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=LEARNING_RATE, betas=_BETAS, weight_decay=0.0, fused=True
    )
    batch = _batch(task, device, image_token_id=model.config.image_token_id)
    losses, ends = [], []
    for _ in range(task.num_steps):
        with _autocast(task.precision, device):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())
    peak = peak_device_bytes(device) if device.type == "cuda" else peak_rss_bytes()
    model.save_pretrained(task.output)
    return Steps(
        losses=tuple(losses),
        step_s=tuple(end - begin for begin, end in pairwise(ends)),
        peak_mib=None if peak is None else round(peak / _MIB),
        num_trained=sum(parameter.numel() for parameter in trained),
    )


def _load(task: StepTask, device: torch.device) -> Any:
    """The network in train mode, with what is not trained frozen."""
    import torch

    transformers: Any = import_module("transformers")
    model: Any = transformers.FastVlmForConditionalGeneration.from_pretrained(
        task.folder, dtype="float32"
    )
    model.config.use_cache = model.config.text_config.use_cache = False
    if task.has_checkpointing:
        model.activation_checkpointing_enable()
        model.model.vision_tower.timm_model.set_grad_checkpointing(
            True
        )  # not done by the line above
    if task.variant == "lora":
        model = _with_adapters(model, task.precision)
    model = model.to(device).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def _with_adapters(model: Any, precision: Precision) -> Any:
    """Adapters on the decoder and the projector in full; frozen weights take the precision of products."""
    import torch

    peft: Any = import_module("peft")
    if precision == "bf16":
        model.model.language_model.to(torch.bfloat16)
        model.lm_head.to(torch.bfloat16)
    config = peft.LoraConfig(
        r=LORA_RANK,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules=list(_TARGETS),
        modules_to_save=["multi_modal_projector"],
    )
    return peft.get_peft_model(model, config)


def _batch(task: StepTask, device: torch.device, *, image_token_id: int) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    with np.load(task.inputs_file) as inputs:
        sample = {name: torch.from_numpy(inputs[name]) for name in inputs.files}
    ids = sample["input_ids"].masked_fill(sample["input_ids"] == IMAGE_TOKEN_ID, image_token_id)
    batch = {
        "input_ids": ids[None].repeat(task.batch_size, 1),  # [B, T]
        "attention_mask": torch.ones(task.batch_size, len(ids), dtype=torch.int64),
        "labels": sample["labels"][None].repeat(task.batch_size, 1),
        "pixel_values": sample["pixel_values"].repeat(task.batch_size, 1, 1, 1),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    import torch

    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def main() -> None:
    """Read the task, write the result or the error."""
    task_file, result_file = map(Path, sys.argv[1:3])
    task = StepTask(**json.loads(task_file.read_text("utf-8")))
    try:
        result = asdict(run(task))
    except FastVLMError as error:
        result = {"error": str(error)}
    result_file.write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
