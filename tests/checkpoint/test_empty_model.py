"""The network without memory has every tensor, and costs none of what torch's initialisation would."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fastvlm.checkpoint.empty_model import empty_model
from fastvlm.config import TowerForm
from fastvlm.model import FastVLM
from tiny_models import tiny_config


@pytest.mark.parametrize("form", ["branched", "fused", "deep_fused"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_has_every_tensor_and_no_memory(form: TowerForm, tied: bool) -> None:
    config = tiny_config(form=form, tied=tied)
    empty, real = empty_model(config), FastVLM(config)
    assert {name: (t.shape, t.dtype) for name, t in empty.state_dict().items()} == {
        name: (t.shape, t.dtype) for name, t in real.state_dict().items()
    }
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    assert (empty.lm_head.weight is empty.language_model.embed_tokens.weight) == tied


def test_initialisation_works_again_afterwards() -> None:
    empty_model(tiny_config())
    assert torch.nn.Linear(30, 30).weight.std() > 0.05


def test_torchs_symbolic_machinery_stays_out() -> None:
    code = (
        "import sys; from fastvlm.config import preset; "
        "from fastvlm.checkpoint.empty_model import empty_model; "
        "before = 'sympy' in sys.modules; empty_model(preset('0.5b')); "
        "assert before or 'sympy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
