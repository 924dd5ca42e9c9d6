"""Building without memory, and nothing of it left behind."""

from __future__ import annotations

import subprocess
import sys

import torch

from fastvlm.config import preset
from fastvlm.model import FastViTHD
from fastvlm.model.empty import without_memory


def test_modules_have_shapes_and_no_memory() -> None:
    with without_memory():
        tower = FastViTHD(preset("0.5b").vision)
    assert {tensor.device.type for tensor in tower.state_dict().values()} == {"meta"}
    assert tower.stages[4].blocks[0].mlp.fc1.weight.shape == (4 * 1536, 1536, 1, 1)


def test_initialisation_works_again_afterwards() -> None:
    with without_memory():
        torch.nn.Linear(3, 3)
    assert torch.nn.Linear(30, 30).weight.std() > 0.05


def test_folding_brings_no_symbolic_machinery() -> None:
    """torch would import it to initialise on the meta device, for a second and 150 MB."""
    code = (
        "import sys; from fastvlm.config import preset; from fastvlm.model import FastViTHD, deep_fuse; "
        "tower = FastViTHD(preset('nano').vision); before = 'sympy' in sys.modules; deep_fuse(tower); "
        "assert before or 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
