"""Steps of tuning, beside the same steps written with transformers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastvlm.bench.random_checkpoint import write_random_checkpoint
from fastvlm.bench.report import render_training
from fastvlm.bench.training import (
    TrainingPlan,
    measure_training,
    read_run,
    run_module,
    summarise,
    train_arguments,
)
from fastvlm.bench.training_worker import Steps, StepTask, run
from fastvlm.config import FastVLMConfig
from fastvlm.errors import BackendError, ConfigError
from fastvlm.inputs import IGNORE_INDEX, IMAGE_TOKEN_ID

PACKAGES = ("transformers", "timm", "torchvision", "accelerate", "peft")


@pytest.fixture(scope="module")
def plan(tiny_bench_folder: Path) -> TrainingPlan:
    return TrainingPlan(
        model=str(tiny_bench_folder), num_steps=3, image_size=128, device="cpu", threads=1
    )


@pytest.fixture(scope="module")
def result(plan: TrainingPlan) -> dict[str, Any]:
    for name in PACKAGES:
        pytest.importorskip(name)
    return measure_training(replace(plan, batch_size=2))


@pytest.mark.oracle
@pytest.mark.parametrize("variant", ["full", "lora"])
def test_both_systems_take_the_same_first_step(result: dict[str, Any], variant: str) -> None:
    measured = result["variants"][variant]
    assert measured["agreement"]["is_equal"]
    assert measured["agreement"]["first_loss_difference"] < 1e-4
    ours, theirs = measured["systems"]["fastvlm"], measured["systems"]["transformers"]
    assert ours["num_trained"] == theirs["num_trained"]
    assert ours["losses"][0] > 1


@pytest.mark.oracle
def test_full_tuning_goes_on_alike(result: dict[str, Any]) -> None:
    systems = result["variants"]["full"]["systems"]
    ours, theirs = systems["fastvlm"]["losses"], systems["transformers"]["losses"]
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert ours[2] < ours[0]  # weights moved, in the same direction


@pytest.mark.oracle
def test_adapters_are_fewer_parameters_than_all(result: dict[str, Any]) -> None:
    full, lora = (result["variants"][name]["systems"]["fastvlm"] for name in ("full", "lora"))
    assert 0 < lora["num_trained"] < full["num_trained"]


@pytest.mark.oracle
def test_first_step_does_not_count(result: dict[str, Any]) -> None:
    for measured in result["variants"].values():
        for system in measured["systems"].values():
            assert len(system["step_s"]) == 2
            assert system["seconds_per_step"] >= 0


@pytest.mark.oracle
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the whole peak")
def test_peaks_are_those_of_processes(result: dict[str, Any]) -> None:
    for measured in result["variants"].values():
        for system in measured["systems"].values():
            assert 200 < system["peak_mib"] < 20_000
            assert system["peak_process_mib"] >= 0.95 * system["peak_mib"]


@pytest.mark.oracle
def test_results_name_the_batch_and_the_machine(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result)) == result
    protocol = result["protocol"]
    assert protocol["batch_size"] == 2
    assert 0 < protocol["num_targets"] < protocol["num_tokens"] < 256
    assert result["machine"]["packages"]["torch"]
    rendered = render_training(result)
    assert rendered.count("| fastvlm |") == rendered.count("| transformers |") == 2
    assert "the same parameters and first loss" in rendered


def test_sample_that_does_not_fit_is_wrong_use(plan: TrainingPlan) -> None:
    with pytest.raises(ConfigError, match=r"cannot take the sample: .* exceeds max_length 256"):
        measure_training(replace(plan, systems=("fastvlm",), image_size=1024))


def test_failure_of_a_process_is_told_in_its_words(tmp_path: Path) -> None:
    command = ["fastvlm", "train", "--recipe", "nothing"]
    with pytest.raises(
        BackendError, match=r"`fastvlm train` ended with code 2: error: no recipe named 'nothing'"
    ):
        run_module(command, 1, tmp_path / "messages.txt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 1}, "num_steps is 1; expected at least 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image_size": 100}, "image_size is 100; expected a multiple of 64"),
        ({"variants": ("full", "full")}, "variants are full, full; expected full or lora"),
        ({"systems": ("llama",)}, "systems are llama; expected fastvlm or transformers"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_plans_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingPlan(model="0.5b", **changes)


def test_run_is_measured_without_recomputing_and_rounding(plan: TrainingPlan) -> None:
    arguments = train_arguments(plan, "lora", Path("model"), Path("work"))
    assert arguments[:3] == ["train", "--recipe", "lora"]
    assert {"--no-gradient-checkpointing", "--no-tf32", "--no-compare"} <= set(arguments)
    again = train_arguments(
        replace(plan, has_checkpointing=True), "full", Path("model"), Path("work")
    )
    assert "--gradient-checkpointing" in again
    assert "--lora-rank" not in again


def test_run_without_steps_has_no_complete_log(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "time": 1.0}\n', encoding="utf-8")
    (tmp_path / "run.json").write_text('{"trainable": []}', encoding="utf-8")
    with pytest.raises(BackendError, match="no complete log"):
        read_run(tmp_path)


def test_other_losses_or_other_parameters_are_no_agreement() -> None:
    ours = Steps(losses=(2.0, 1.0), step_s=(3.0,), peak_mib=300, num_trained=7)
    cases = ((ours, True), (replace(ours, losses=(2.1, 1.0)), False))
    for theirs, is_equal in (*cases, (replace(ours, num_trained=8), False)):
        systems = {"fastvlm": (ours, None), "transformers": (theirs, 400)}
        summary = summarise(systems, 1e-3)
        assert summary["agreement"]["is_equal"] is is_equal
        assert summary["ratios"] == {"seconds_per_step": 1.0, "peak_mib": 1.0}
    assert summarise({"fastvlm": (ours, None)}, 1e-3)["agreement"] is None


@pytest.mark.oracle
@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_loss_of_transformers(
    precision: Any, tiny_bench_config: FastVLMConfig, tmp_path: Path
) -> None:
    for name in PACKAGES:
        pytest.importorskip(name)
    write_random_checkpoint(tmp_path / "hf", tiny_bench_config, layout="hf")
    ids = np.array([5, *[IMAGE_TOKEN_ID] * 4, 6, 7, 8], dtype=np.int64)
    pixels = np.random.default_rng(0).random((1, 3, 128, 128), dtype=np.float32)
    labels = np.where(np.arange(8) < 5, IGNORE_INDEX, ids)
    np.savez(tmp_path / "inputs.npz", input_ids=ids, labels=labels, pixel_values=pixels)

    def losses(variant: Any, *, has_checkpointing: bool) -> tuple[float, ...]:
        task = StepTask(
            folder=str(tmp_path / "hf"),
            inputs_file=str(tmp_path / "inputs.npz"),
            output=str(tmp_path / "saved"),
            variant=variant,
            precision=precision,
            num_steps=2,
            batch_size=1,
            device="cpu",
            threads=1,
            has_checkpointing=has_checkpointing,
        )
        return run(task).losses

    plain = losses("full", has_checkpointing=False)
    assert losses("full", has_checkpointing=True) == pytest.approx(plain, abs=1e-5)
    assert losses("lora", has_checkpointing=True)[0] == pytest.approx(plain[0], abs=0.02)


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.timeout(3600)
def test_full_size_takes_the_same_first_step() -> None:
    for name in PACKAGES:
        pytest.importorskip(name)
    result = measure_training(TrainingPlan(model="0.5b", num_steps=2, device="cpu"))
    assert all(measured["agreement"]["is_equal"] for measured in result["variants"].values())
