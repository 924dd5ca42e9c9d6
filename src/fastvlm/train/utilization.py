"""How much of the machine a step uses: model FLOPs utilisation (MFU, PaLM paper, appendix B).

FLOPs of a step are those that the network needs, not those that are done: activations that are computed again
do not count. The peak is measured here with a large product of matrices, so that it means something on a CPU too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastvlm.train.network import TuningNetwork
from fastvlm.train.parts import part_of

_SIDE: Final = 1536
_SIDE_GPU: Final = 4096
"""Starting a smaller product takes a GPU as long as the product."""
_REPEATS: Final = 5


@dataclass(frozen=True, slots=True)
class Utilization:
    """Turns a batch into FLOPs of forward and backward.

    Attributes:
        per_pixel: of the tower, backward included where it is trained.
        per_token: of the language model, likewise.
        peak: FLOPs a second of the device.
    """

    per_pixel: float
    per_token: float
    peak: float

    @classmethod
    def of(
        cls, network: TuningNetwork, image_size: int, device: torch.device, *, is_bf16: bool
    ) -> Utilization:
        """Measure a network where it is, and the device it will be on; takes a forward pass of the tower."""
        here = network.model.lm_head.weight.device
        pixels = torch.zeros(1, 3, image_size, image_size, device=here)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network.model.vision_tower(pixels)
        trained = {part_of(name) for name, p in network.named_parameters() if p.requires_grad}
        has_adapters = any("lora_" in name for name, _ in network.named_parameters())
        layers = network.model.language_model.layers
        weights = sum(
            p.numel() * (2 if p.dtype == torch.uint8 else 1)  # two weights of 4 bits share a byte
            for name, p in layers.named_parameters()
            if "lora_" not in name
        )
        # Backward needs the gradient of the inputs, 2 more per weight, and of the weights where they are trained.
        factor = 4 if has_adapters or "language_model" not in trained else 6
        return cls(
            per_pixel=counter.get_total_flops()
            * (3 if "vision_tower" in trained else 1)
            / image_size**2,
            per_token=float(factor * weights),
            peak=measure_peak(device, torch.bfloat16 if is_bf16 else torch.float32),
        )

    def flops(self, batch: dict[str, Any]) -> float:
        """Of one forward and backward pass, padding left out."""
        num_pixels = sum(pixels.numel() // 3 for pixels in batch["pixel_values"])
        return self.per_pixel * num_pixels + self.per_token * int((batch["segment_ids"] > 0).sum())


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a product of two large square matrices, the best of some."""
    side = _SIDE_GPU if device.type == "cuda" else _SIDE
    left = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        product = left @ left
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
        del product
    return 2 * side**3 / best
