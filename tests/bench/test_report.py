"""Results files, and tables made of nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastvlm.bench.report import (
    render_latency,
    render_tables,
    render_training,
    result_name,
    write_result,
)
from fastvlm.errors import ConfigError


def system(name: str, dtype: str, ttft_ms: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": dtype,
        "load_s": 0.8,
        "peak_rss_mib": 2000,
        "peak_device_mib": None,
        "num_prompt_tokens": 284,
        "ttft_ms": ttft_ms,
        "preprocess_ms": 100.0,
        "vision_ms": ttft_ms - 900,
        "prefill_ms": 800.0,
        "tokens_per_second": 17.5,
        **changes,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    ratio = {"ttft_ms": 0.625, "tokens_per_second": 1.0, "load_s": 1.0, "peak_rss_mib": 1.0}
    return {
        "benchmark": "latency",
        "model": "0.5b",
        "weights": "random",
        "weight_file_mib": 1447,
        "device": "cpu",
        "protocol": {
            "rounds": 3,
            "answers_per_round": 2,
            "threads": 2,
            "num_new_tokens": 33,
            "image": "drawn, 4000 x 3000 JPEG",
            "image_bytes": 2_193_855,
            "prompt": "?",
        },
        "machine": {
            "date": "2026-01-02",
            "cpu": "Some CPU",
            "packages": {"torch": "2.15.0", "transformers": "5.23.0", "numpy": "2"},
        },
        "systems": {
            "fastvlm": system("fastvlm", "bfloat16", 2500.0),
            "transformers:bfloat16": system("transformers:bfloat16", "bfloat16", 4000.0),
        },
        "ratios": {"fastvlm": {"transformers:bfloat16": ratio}},
        "agreement": {"systems": [], "num_tokens": 33, "num_distinct_tokens": 9, "is_equal": True},
    }


def test_table_holds_the_figures(result: dict[str, Any]) -> None:
    lines = render_latency(result).splitlines()
    assert lines[0] == "**FastVLM 0.5b, Some CPU, 2 threads, 2026-01-02**"
    assert lines[4] == (
        "| fastvlm | bfloat16 | 0.80 s | 2000 MiB | 2.50 s | 0.10 + 1.60 + 0.80 | 17.5 |"
    )
    assert "- `fastvlm` / `transformers:bfloat16`: TTFT 0.62x, TPS 1.00x" in "\n".join(lines)
    assert "the same 33 greedy tokens" in lines[-1]
    assert "torch 2.15.0, transformers 5.23.0" in lines[-1]


def test_only_our_first_system_is_compared_across_dtypes(result: dict[str, Any]) -> None:
    result["systems"]["fastvlm:float32"] = system("fastvlm:float32", "float32", 3000.0)
    result["systems"]["transformers:float32"] = system("transformers:float32", "float32", 5000.0)
    ratio = result["ratios"]["fastvlm"]["transformers:bfloat16"]
    result["ratios"] = {
        ours: {f"transformers:{dtype}": ratio for dtype in ("bfloat16", "float32")}
        for ours in ("fastvlm", "fastvlm:float32")
    }
    lines = [line for line in render_latency(result).splitlines() if " / " in line]
    assert [line.split(": TTFT")[0] for line in lines] == [
        "- `fastvlm` / `transformers:bfloat16`",
        "- `fastvlm` / `transformers:float32`",
        "- `fastvlm:float32` / `transformers:float32`",
    ]


def test_disagreement_is_said_aloud(result: dict[str, Any]) -> None:
    result["agreement"]["is_equal"] = False
    assert "NOT the same 33 greedy tokens" in render_latency(result)


def test_gpu_memory_has_a_column_where_there_is_a_gpu(result: dict[str, Any]) -> None:
    assert "GPU memory" not in render_latency(result)
    result["systems"]["fastvlm"]["peak_device_mib"] = 1300
    result["machine"]["gpu"] = "Some GPU"
    rendered = render_latency(result)
    assert "| 1300 MiB |" in rendered
    assert "Some GPU" in rendered
    assert "| - |" in rendered


def test_all_files_of_a_folder_are_rendered(result: dict[str, Any], tmp_path: Path) -> None:
    write_result(result, tmp_path / "new" / result_name(result))
    write_result({**result, "model": "7b"}, tmp_path / "new" / "latency-7b-cpu.json")
    rendered = render_tables(tmp_path / "new")
    assert rendered.index("FastVLM 0.5b") < rendered.index("FastVLM 7b")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "latency-0.5b-cpu.json",
        "latency-7b-cpu.json",
    ]


def test_result_replaces_the_one_before(result: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "latency-0.5b-cpu.json"
    path.write_text("old", encoding="utf-8")
    write_result(result, path)
    assert json.loads(path.read_text("utf-8")) == result


def test_nothing_to_report_and_damage_are_errors(result: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no latency-\*\.json and no train-\*\.json"):
        render_tables(tmp_path)
    path = tmp_path / "latency-0.5b-cpu.json"
    for text in ("{", "[]", json.dumps({**result, "systems": {"a": {}}})):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match="is no results file"):
            render_tables(tmp_path)


def training_system(name: str, seconds: float) -> dict[str, Any]:
    return {
        "name": name,
        "num_trained": 622_700_000,
        "seconds_per_step": seconds,
        "peak_mib": 12_000,
        "peak_process_mib": None,
    }


@pytest.fixture
def training(result: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: result[name] for name in ("model", "weights", "weight_file_mib", "device")},
        "machine": result["machine"],
        "benchmark": "train",
        "protocol": {
            "num_steps": 5,
            "batch_size": 1,
            "image_size": 1024,
            "num_tokens": 340,
            "num_targets": 57,
            "precision": "fp32",
            "has_checkpointing": False,
            "threads": 2,
        },
        "variants": {
            "full": {
                "systems": {
                    "fastvlm": training_system("fastvlm", 12.0),
                    "transformers": training_system("transformers", 16.0),
                },
                "ratios": {"seconds_per_step": 0.75, "peak_mib": 1.0},
                "agreement": {"first_loss_difference": 1e-5, "tolerance": 1e-3, "is_equal": True},
            }
        },
    }


def test_training_table_holds_the_figures(training: dict[str, Any]) -> None:
    lines = render_training(training).splitlines()
    assert lines[0] == "**Tuning FastVLM 0.5b, Some CPU, 2 threads, 2026-01-02**"
    assert lines[4] == "| all weights | fastvlm | 622.7 M | 12.00 s | 12000 MiB | - |"
    assert lines[7] == (
        "- all weights, `fastvlm` / `transformers`: time of a step 0.75x, peak memory 1.00x; the same "
        "parameters and first loss (difference 1.0e-05)"
    )
    assert "one picture of 1024 px in 340 tokens, 57 of them learned; fp32, without" in lines[-1]
    assert "medians of 4 steps" in lines[-1]
    training["variants"]["full"]["agreement"]["is_equal"] = False
    assert "NOT the same parameters and first loss" in render_training(training)


def test_training_of_one_system_is_compared_with_nothing(training: dict[str, Any]) -> None:
    measured = training["variants"]["full"]
    del measured["systems"]["transformers"]
    measured |= {"ratios": None, "agreement": None}
    assert "`fastvlm` / `transformers`" not in render_training(training)


def test_training_results_stand_behind_latency(
    result: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    for one in (training, result):
        write_result(one, tmp_path / result_name(one))
    rendered = render_tables(tmp_path)
    assert rendered.index("**FastVLM 0.5b") < rendered.index("**Tuning FastVLM 0.5b")
    (tmp_path / "train-0.5b-cpu.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="measure again with `fastvlm bench train`"):
        render_tables(tmp_path)


def test_place_that_cannot_be_written_is_named(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_result(result, tmp_path / "file" / "latency.json")
