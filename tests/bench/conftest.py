"""A tiny checkpoint folder with random weights, and a small picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastvlm.bench.photo import draw_photo
from fastvlm.bench.random_checkpoint import write_random_checkpoint
from fastvlm.config import FastVLMConfig
from tiny_models import tiny_config


@pytest.fixture(scope="session")
def tiny_bench_config() -> FastVLMConfig:
    return replace(tiny_config(tied=True), max_length=256)


@pytest.fixture(scope="session")
def tiny_bench_folder(
    tiny_bench_config: FastVLMConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    write_random_checkpoint(folder, tiny_bench_config, layout="apple")
    return folder


@pytest.fixture(scope="session")
def photo() -> bytes:
    return draw_photo(width=160, height=120)
