"""What a results file says about the machine."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from fastvlm.machine import describe_machine, num_cores


def test_machine_is_described_without_its_paths() -> None:
    described = describe_machine(torch.device("cpu"))
    assert described["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert described["cpu"]
    assert described["cores"] == num_cores() >= 1
    assert "gpu" not in described
    assert str(Path.home()) not in json.dumps(described)
