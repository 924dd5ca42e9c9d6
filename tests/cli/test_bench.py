"""`fastvlm bench` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_unknown_system_is_wrong_use(fastvlm: Callable[..., Any]) -> None:
    done = fastvlm("bench", "latency", "--systems", "fastvlm,llama")
    assert done.code == 2
    assert done.err.startswith("error: system 'llama' is not known")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "full,all"), "variants are full, all; expected full or lora, each once"),
        (("--steps", 1), "num_steps is 1; expected at least 2"),
    ],
)
def test_training_that_cannot_be_measured_is_wrong_use(
    fastvlm: Callable[..., Any], arguments: tuple[object, ...], message: str
) -> None:
    done = fastvlm("bench", "train", *arguments)
    assert (done.code, done.err) == (2, f"error: {message}\n")


def test_report_without_results_is_wrong_use(fastvlm: Callable[..., Any], tmp_path: Path) -> None:
    done = fastvlm("bench", "report", tmp_path)
    assert done.code == 2
    assert "run `fastvlm bench latency`" in done.err


def test_latency_writes_a_file_that_report_prints(
    fastvlm: Callable[..., Any],
    tiny_folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = fastvlm(
        *("bench", "latency", "--model", tiny_folder, "--systems", "fastvlm", "--repeats", 1),
        *("--threads", 1, "--new-tokens", 3, "--device", "cpu", "--dtype", "float32"),
        *("--image", pictures / "b.jpg"),
    )
    assert done.code == 0, done.err
    path = tmp_path / "benchmarks" / "latency-model-cpu.json"
    assert json.loads(path.read_text("utf-8"))["systems"]["fastvlm"]["dtype"] == "float32"
    assert "round 1 of 1: fastvlm" in done.err
    assert done.out.startswith("**FastVLM model, ")
    assert fastvlm("bench", "report").out == done.out
