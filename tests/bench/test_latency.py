"""From measured processes to the figures that are written down."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastvlm.bench.latency import (
    ANSWERS_PER_PROCESS,
    LatencyPlan,
    agreement,
    measure_latency,
    order_of_round,
    ratios,
    summarise,
)
from fastvlm.bench.protocol import Sample, parse_system
from fastvlm.bench.worker import Result
from fastvlm.checkpoint.load import load_model
from fastvlm.checkpoint.save import save_model
from fastvlm.errors import (
    BackendError,
    CheckpointError,
    ConfigError,
    ContextLengthError,
    MediaError,
)

SAMPLE = Sample(
    num_prompt_tokens=280,
    preprocess_s=0.1,
    vision_s=0.6,
    prefill_s=0.3,
    ttft_s=1.0,
    ttft_cpu_s=2.0,
    decode_s=0.5,
    decode_cpu_s=1.0,
    num_decoded=10,
)
RESULT = Result(
    dtype="float32",
    import_s=1.0,
    load_s=2.0,
    load_cpu_s=3.0,
    rss_imported_bytes=100 * 2**20,
    rss_loaded_bytes=200 * 2**20,
    peak_rss_loading_bytes=250 * 2**20,
    peak_rss_bytes=300 * 2**20,
    peak_device_bytes=None,
    cold=replace(SAMPLE, ttft_s=9.0),
    samples=(SAMPLE, SAMPLE),
    token_ids=(1, 2, 3),
)


def test_figures_are_medians_over_all_rounds() -> None:
    slow = replace(RESULT, load_s=50.0, samples=(replace(SAMPLE, ttft_s=70.0), SAMPLE))
    slower = replace(RESULT, load_s=4.0, samples=(replace(SAMPLE, ttft_s=3.0), SAMPLE))
    found = summarise([RESULT, slow, slower])
    assert found["load_s"] == 4.0
    assert found["ttft_ms"] == 1000.0
    assert found["cold_ttft_ms"] == 9000.0
    assert found["tokens_per_second"] == 20.0
    assert found["decode_ms_per_token"] == 50.0
    assert found["peak_rss_mib"] == 300
    assert found["peak_device_mib"] is None


def test_ratios_compare_ours_with_others_only() -> None:
    ours = {"peer": "fastvlm", **summarise([RESULT])}
    theirs = {"peer": "transformers", **summarise([replace(RESULT, load_s=4.0)])}
    found = ratios({"fastvlm": ours, "fastvlm:float32": ours, "transformers": theirs})
    assert list(found) == ["fastvlm", "fastvlm:float32"]
    assert list(found["fastvlm"]) == ["transformers"]
    assert found["fastvlm"]["transformers"]["load_s"] == 0.5
    assert found["fastvlm"]["transformers"]["ttft_ms"] == 1.0
    assert "peak_device_mib" not in found["fastvlm"]["transformers"]


def test_agreement_is_about_float32() -> None:
    other = replace(RESULT, token_ids=(1, 2, 4))
    half = replace(RESULT, dtype="bfloat16", token_ids=(9, 9, 9))
    assert agreement({"a": [RESULT], "half": [half]}) is None
    same = agreement({"a": [RESULT], "b": [RESULT], "half": [half]})
    assert same is not None
    assert same["is_equal"]
    assert same["systems"] == ["a", "b"]
    different = agreement({"a": [RESULT], "b": [other]})
    assert different is not None
    assert not different["is_equal"]


def test_order_turns_around_from_round_to_round() -> None:
    systems = [parse_system("fastvlm"), parse_system("transformers")]
    assert [[system.name for system in order_of_round(systems, index)] for index in range(3)] == [
        ["fastvlm", "transformers"],
        ["transformers", "fastvlm"],
        ["fastvlm", "transformers"],
    ]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"repeats": 0}, "repeats is 0; expected at least 1"),
        ({"num_new_tokens": 1}, "num_new_tokens is 1; expected at least 2"),
        ({"threads": -1}, "threads is -1"),
        ({"systems": ()}, "systems are none"),
        ({"systems": (parse_system("fastvlm"),) * 2}, "expected each one once"),
    ],
)
def test_plans_that_cannot_be_are_refused(changes: dict[str, object], complaint: str) -> None:
    plan = LatencyPlan(model="nano", systems=(parse_system("fastvlm"),))
    with pytest.raises(ConfigError, match=complaint):
        replace(plan, **changes)


@pytest.fixture
def plan(tiny_bench_folder: Path, photo: bytes, tmp_path: Path) -> LatencyPlan:
    (tmp_path / "photo.jpg").write_bytes(photo)
    return LatencyPlan(
        model=str(tiny_bench_folder),
        systems=(parse_system("fastvlm:float32"),),
        repeats=1,
        threads=1,
        num_new_tokens=4,
        device="cpu",
        image=tmp_path / "photo.jpg",
    )


def test_systems_are_measured_in_processes_of_their_own(plan: LatencyPlan) -> None:
    steps: list[str] = []
    systems = (parse_system("fastvlm:float32"), parse_system("fastvlm:bfloat16@hf"))
    result = measure_latency(replace(plan, systems=systems), progress=steps.append)
    assert steps == [
        "converting to layout hf",
        "round 1 of 1: fastvlm:float32",
        "round 1 of 1: fastvlm:bfloat16@hf",
    ]
    found = json.loads(json.dumps(result))["systems"]
    assert list(found) == ["fastvlm:float32", "fastvlm:bfloat16@hf"]
    assert [system["dtype"] for system in found.values()] == ["float32", "bfloat16"]
    for system in found.values():
        assert len(system["rounds"]) == 1
        assert len(system["rounds"][0]["samples"]) == ANSWERS_PER_PROCESS
        assert system["rounds"][0]["samples"][0]["num_decoded"] == 3
        assert system["load_s"] > 0
        assert system["peak_rss_mib"] > system["rss_imported_mib"] or not system["rss_imported_mib"]
    assert result["model"] == "tiny"
    assert str(Path.cwd()) not in json.dumps(result)


def test_a_system_that_cannot_run_is_one_error(plan: LatencyPlan) -> None:
    with pytest.raises(BackendError, match="device 'cuda:77' is not"):
        measure_latency(replace(plan, device="cuda:77"))


def test_errors_of_a_worker_come_back(plan: LatencyPlan, tmp_path: Path) -> None:
    model, _ = load_model(Path(plan.model), dtype=torch.float32)
    with torch.no_grad():
        model.language_model.norm.weight.fill_(1e6)
    save_model(model, tmp_path / "huge", layout="apple", tokenizer_from=Path(plan.model))
    half = replace(plan, model=str(tmp_path / "huge"), systems=(parse_system("fastvlm:float16"),))
    with pytest.raises(
        BackendError, match=r"^fastvlm:float16: tensor .* holds values up to 1e\+06"
    ):
        measure_latency(half)


def test_a_damaged_model_is_refused_before_measuring(plan: LatencyPlan, tmp_path: Path) -> None:
    shutil.copytree(plan.model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is cut short"):
        measure_latency(replace(plan, model=str(tmp_path / "cut")))


def test_answers_that_do_not_fit_are_refused_before_measuring(plan: LatencyPlan) -> None:
    with pytest.raises(ContextLengthError, match="exceeds max_length 256; lower --new-tokens"):
        measure_latency(replace(plan, num_new_tokens=250))


def test_unreadable_picture_and_model_are_named(plan: LatencyPlan, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nothing\.jpg cannot be read"):
        measure_latency(replace(plan, image=tmp_path / "nothing.jpg"))
    with pytest.raises(CheckpointError, match="nowhere"):
        measure_latency(replace(plan, model=str(tmp_path / "nowhere")))
