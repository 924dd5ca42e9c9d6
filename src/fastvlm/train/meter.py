"""How fast a run goes: samples, tokens and FLOPs between two lines of its log, and its memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from fastvlm.memory import peak_device_bytes, peak_rss_bytes
from fastvlm.train.utilization import Utilization


class Meter:
    """Samples and tokens a second between two lines of the log, without the time of validations."""

    def __init__(self, utilization: Utilization | None) -> None:
        self._utilization = utilization
        self._samples = self._tokens = 0
        self._flops = 0.0
        self._since = time.perf_counter()
        self._paused_at = 0.0

    def count(self, batch: dict[str, Any]) -> None:
        segments = batch["segment_ids"]
        self._samples += int(segments.amax(1).sum())
        self._tokens += int((segments > 0).sum())
        if self._utilization is not None:
            self._flops += self._utilization.flops(batch)

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        self._since += time.perf_counter() - self._paused_at

    def rates(self, num_processes: int, device: torch.device) -> dict[str, float]:
        """Rates of all processes together since the last call, and this one's peak memory in MiB."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "samples_per_second": round(self._samples * num_processes / elapsed, 3),
            "tokens_per_second": round(self._tokens * num_processes / elapsed, 1),
            "memory_mib": round(peak_memory_mib(device), 1),
        }
        if self._utilization is not None:
            rates["mfu"] = round(self._flops / elapsed / self._utilization.peak, 4)
        self._samples = self._tokens = 0
        self._flops = 0.0
        self._since = time.perf_counter()
        return rates


def peak_memory_mib(device: torch.device) -> float:
    """Most memory in MiB so far: allocated on a GPU, resident on a CPU; 0 where the system does not say."""
    return (peak_device_bytes(device) or peak_rss_bytes() or 0) / 2**20
