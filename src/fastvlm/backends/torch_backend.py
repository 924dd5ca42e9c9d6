"""The network in PyTorch, on CPU, CUDA or MPS: the plain backend that the others must agree with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from fastvlm.backends.base import DecodeState, Prompt
from fastvlm.checkpoint.load import LoadReport, load_model
from fastvlm.checkpoint.shards import has_weights, list_tensors
from fastvlm.config import FastVLMConfig
from fastvlm.device import resolve_device, resolve_dtype
from fastvlm.errors import NumericalError
from fastvlm.model import FastVLM, GrowingCache, deep_fuse
from fastvlm.model.quantized import Quantization, quantize_linears

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TorchBackend:
    """Runs a `FastVLM` for inference.

    The tower is deep-fused and laid out channels-last, the faster form on a CPU (docs/performance.md). It stays in float32 when float16 is asked for, whose range the encoder exceeds.
    """

    def __init__(self, model: FastVLM, report: LoadReport | None = None) -> None:
        self.config: FastVLMConfig = model.config
        self.report = report
        self.device = model.lm_head.weight.device
        self.dtype = model.lm_head.weight.dtype
        self.description = f"torch {self.device.type} {str(self.dtype).removeprefix('torch.')}"
        model.eval().requires_grad_(requires_grad=False)
        if model.vision_tower.config.form != "deep_fused":
            model.vision_tower = deep_fuse(model.vision_tower)
        if self.dtype == torch.float16:
            model.vision_tower.float()
            model.projector.float()
        self._tower_dtype = next(model.vision_tower.parameters()).dtype
        for parameter in model.vision_tower.parameters():
            if (
                parameter.ndim == 4
            ):  # unlike Module.to, this copies no 1x1 kernel: both layouts are one
                parameter.data = parameter.contiguous(memory_format=torch.channels_last)
        self._model = model

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: Quantization | None = None,
        base: Path | None = None,
    ) -> Self:
        """Load a checkpoint folder of any layout; `base` is what a projector-only one belongs on.

        `quantize` rounds the weights of the decoder layers; embedding, output layer and everything that sees
        pictures stay as they are.

        Raises:
            BackendError: the device or dtype is unknown or not there.
            CheckpointError: the folder is incomplete, damaged or unknown.
        """
        where = resolve_device(device)
        full = base or folder
        stored = list_tensors(full) if has_weights(full) else {}  # load_model says what is missing
        size = sum(math.prod(tensor.shape) for tensor in stored.values())
        model, report = load_model(
            folder,
            dtype=resolve_dtype(dtype, where, size),
            device=where,
            base=base,
            for_inference=True,
        )
        if where.type == "cuda":
            # TF32 only touches float32 multiplications: 13 bits fewer than the reference, 2x to 8x the speed.
            torch.set_float32_matmul_precision("high")
        backend = cls(model, report)
        if quantize is not None:
            quantize_linears(model.language_model.layers, quantize)
            backend.description += f" {quantize}"
        return backend

    @torch.inference_mode()
    def encode_images(self, pixel_values: NDArray[np.float32]) -> Tensor:
        pixels = torch.from_numpy(pixel_values).to(self.device, self._tower_dtype)
        features = self._model.encode_images(pixels.contiguous(memory_format=torch.channels_last))
        if not torch.isfinite(features).all():
            raise NumericalError(
                f"the vision encoder gave NaN or infinity in {features.dtype}; use --dtype bfloat16 or float32"
            )
        return features.to(self.dtype)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, DecodeState]:
        lengths = [len(prompt.input_ids) for prompt in prompts]
        longest = max(lengths)
        # Padding stands on the left, so that the last position of every sequence is its newest token.
        rows = [
            np.pad(p.input_ids, (longest - n, 0)) for p, n in zip(prompts, lengths, strict=True)
        ]
        input_ids = torch.from_numpy(np.stack(rows)).to(self.device)  # [B, T]
        features = [p.image_features for p in prompts if p.image_features is not None]
        image_features = torch.cat(features) if features else None
        mask = position_ids = None
        if min(lengths) < longest:
            start = torch.tensor([longest - n for n in lengths], device=self.device)[:, None]
            position_ids = torch.arange(longest, device=self.device) - start  # [B, T]
            mask = position_ids >= 0
            position_ids = position_ids.clamp(min=0)
        state = DecodeState(
            past_key_values=GrowingCache(self.config.text.num_hidden_layers),
            attention_mask=mask,
            position_ids=torch.tensor(lengths, device=self.device),
        )
        hidden = self._model(
            input_ids, image_features, mask, state.past_key_values, position_ids
        )  # [B, T, D]
        return self._logits(hidden[:, -1]), state

    @torch.inference_mode()
    def decode_step(self, token_ids: Tensor, state: DecodeState) -> Tensor:
        if state.attention_mask is not None:
            state.attention_mask = torch.nn.functional.pad(state.attention_mask, (0, 1), value=True)
        hidden = self._model(
            token_ids[:, None],
            None,
            state.attention_mask,
            state.past_key_values,
            state.position_ids[:, None],
        )  # [B, 1, D]
        state.position_ids = state.position_ids + 1
        return self._logits(hidden[:, -1])

    @torch.inference_mode()
    def select(self, state: DecodeState, rows: Tensor) -> DecodeState:
        mask = state.attention_mask
        return DecodeState(
            past_key_values=state.past_key_values.select(rows),
            attention_mask=None if mask is None else mask[rows],
            position_ids=state.position_ids[rows],
        )

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self._model.lm_head(hidden).float()  # [B, V]
        if not torch.isfinite(logits).all():
            raise NumericalError(
                f"the language model gave NaN or infinity in {self.dtype}; use --dtype bfloat16 or float32"
            )
        return logits
