"""Memory of the process: what it holds, and what it held at most."""

from __future__ import annotations

import os
import sys

import numpy as np
import psutil
import pytest
import torch

from fastvlm.memory import (
    peak_device_bytes,
    peak_rss_bytes,
    peak_rss_bytes_of,
    rss_bytes,
)

BLOCK = 256 * 2**20
SLACK = 2**20
"""Linux counts the pages of a process in a copy for each core, and joins them later."""


def test_rss_is_what_the_system_says() -> None:
    found = rss_bytes()
    if found is None:
        pytest.skip("this system tells only the peak")
    assert found == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


def test_peak_stays_when_memory_is_given_back() -> None:
    before = peak_rss_bytes()
    block = np.ones(BLOCK, np.uint8)
    held = psutil.Process().memory_info().rss
    del block
    after = peak_rss_bytes()
    assert before is not None
    assert after is not None
    assert after >= max(before, held) - SLACK
    assert after >= BLOCK


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of other processes")
def test_peak_of_a_process_is_read_by_its_id() -> None:
    peak = peak_rss_bytes_of(os.getpid())
    assert peak is not None
    assert peak >= psutil.Process().memory_info().rss - SLACK
    assert peak_rss_bytes_of(2**31 - 1) is None  # no such process


def test_only_cuda_has_device_memory_of_its_own() -> None:
    assert peak_device_bytes(torch.device("cpu")) is None
