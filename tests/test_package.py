"""Promises about the package as a whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fastvlm


@pytest.mark.parametrize("code", ["import fastvlm", "import fastvlm.cli.app"])
def test_import_loads_no_torch(code: str) -> None:
    check = (
        f"{code}; import sys; assert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_public_names_are_there() -> None:
    for name in fastvlm.__all__:
        assert getattr(fastvlm, name) is not None
    assert fastvlm.load == fastvlm.Engine.load


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'chatt'"):
        _ = fastvlm.chatt


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['fastvlm', 'predict', '--help']\n"
        "from fastvlm.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--max-new-tokens" in done.stdout
