"""Seconds of an optimizer step and peak memory, of `fastvlm train` and of the same step written with transformers.

Both systems get the same weights, the same batch (one drawn picture, one question, one answer), the same optimizer,
precision and number of threads, each in a process of its own, one after the other. `fastvlm` runs as a user runs it,
and the figures come from the log of the run: its steps open the picture, scale it and write the log as well, while
transformers' batch is ready beforehand. That both do the same is checked by the loss of the first step.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from os import environ
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import numpy as np

from fastvlm.bench.peers import require_transformers
from fastvlm.bench.photo import draw_photo
from fastvlm.bench.protocol import PROMPT, Peer
from fastvlm.bench.random_checkpoint import write_random_checkpoint
from fastvlm.bench.training_worker import (
    LEARNING_RATE,
    LORA_ALPHA,
    LORA_RANK,
    MAX_GRAD_NORM,
    Precision,
    Steps,
    StepTask,
    Variant,
)
from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.convert import convert_checkpoint
from fastvlm.checkpoint.hub import resolve_model
from fastvlm.config import PATCH_STRIDE, PRESETS, preset
from fastvlm.data.mixture import Mixture
from fastvlm.data.samples import BrokenSample, TrainingSamples
from fastvlm.device import resolve_device
from fastvlm.errors import BackendError, ConfigError, MissingExtraError
from fastvlm.inputs import IGNORE_INDEX, ModelInputs
from fastvlm.machine import describe_machine, num_cores
from fastvlm.memory import peak_rss_bytes_of
from fastvlm.processing.processor import Processor

ANSWER: Final = " ".join(["the image in one short sentence."] * 8)
TOLERANCE: Final[Mapping[Precision, float]] = {"fp32": 1e-3, "bf16": 5e-2}
"""Of the first loss: order of sums in float32; eight bits of mantissa in each product of bf16."""
_RECIPES: Final[Mapping[Variant, str]] = {"full": "stage2", "lora": "lora"}
_MIB: Final = 2**20
_POLL_S: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """What to measure."""

    model: str
    """A preset, which gets random weights of its full size, or a checkpoint folder."""
    variants: tuple[Variant, ...] = ("full", "lora")
    """All weights; or adapters on the decoder and the projector, with the tower frozen."""
    systems: tuple[Peer, ...] = ("fastvlm", "transformers")
    """The competitors."""
    num_steps: int = 5
    """Optimizer steps; the first does not count."""
    batch_size: int = 1
    """Samples of a step."""
    image_size: int = 1024
    """Pixels per side of the picture of each sample."""
    precision: Precision = "fp32"
    """Arithmetic; what is trained stays in float32."""
    has_checkpointing: bool = False
    """Compute activations twice to save memory."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """Threads of every system; 0 means as many as there are cores."""

    def __post_init__(self) -> None:
        for name, lowest in (("num_steps", 2), ("batch_size", 1), ("threads", 0)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {lowest}")
        if self.image_size < PATCH_STRIDE or self.image_size % PATCH_STRIDE:
            raise ConfigError(
                f"image_size is {self.image_size}; expected a multiple of {PATCH_STRIDE}"
            )
        for name, kind in (("variants", Variant), ("systems", Peer)):
            given, known = getattr(self, name), get_args(kind)
            if not given or len(set(given)) < len(given) or not set(given) <= set(known):
                raise ConfigError(
                    f"{name} are {', '.join(given) or 'none'}; expected {' or '.join(known)}, each once"
                )
        if self.precision not in get_args(Precision):
            raise ConfigError(f"precision is {self.precision!r}; expected fp32 or bf16")


def measure_training(
    plan: TrainingPlan, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the plan.

    Args:
        plan: what to measure.
        progress: told in a few words what is being done.

    Returns:
        What goes into the results file: the protocol, the machine, and for each variant what each system took.

    Raises:
        MissingExtraError: a library to be measured is not installed.
        BackendError: a system could not train.
        ConfigError: a plan that cannot work.
    """
    _require_packages(plan)
    device = resolve_device(plan.device)
    plan = replace(plan, threads=plan.threads or num_cores(), device=device.type)
    with tempfile.TemporaryDirectory(prefix="fastvlm-bench-") as name:
        work = Path(name)
        folders = _prepare_folders(plan, work, progress)
        sample = _write_data(folders["fastvlm"], plan, work)
        variants: dict[str, Any] = {}
        for variant in plan.variants:
            systems = {}
            for system in plan.systems:
                progress(f"{variant}: {system}, {plan.num_steps} steps")
                systems[system] = _measure(plan, variant, system, folders[system], work)
            variants[variant] = summarise(systems, TOLERANCE[plan.precision])
        num_weights = sum(p.stat().st_size for p in folders["fastvlm"].glob("*.safetensors"))
    assert sample.labels is not None
    return {
        "benchmark": "train",
        "model": plan.model if plan.model in PRESETS else Path(plan.model).name,
        "weights": "random" if plan.model in PRESETS else "as given",
        "weight_file_mib": num_weights // _MIB,
        "device": device.type,
        "protocol": {
            "num_steps": plan.num_steps,
            "batch_size": plan.batch_size,
            "image_size": plan.image_size,
            "num_tokens": len(sample.input_ids),
            "num_targets": int((sample.labels != IGNORE_INDEX).sum()),
            "precision": plan.precision,
            "has_checkpointing": plan.has_checkpointing,
            "learning_rate": LEARNING_RATE,
            "lora_rank": LORA_RANK,
            "threads": plan.threads,
        },
        "machine": describe_machine(device),
        "variants": variants,
    }


def summarise(systems: Mapping[Peer, tuple[Steps, int | None]], tolerance: float) -> dict[str, Any]:
    """What one variant took, by system, how the systems compare, and whether they computed the same."""
    summaries: dict[Peer, dict[str, Any]] = {
        name: {
            "name": name,
            "num_trained": steps.num_trained,
            "seconds_per_step": round(median(steps.step_s), 3),
            "peak_mib": steps.peak_mib,
            "peak_process_mib": peak,
            "step_s": [round(seconds, 3) for seconds in steps.step_s],
            "losses": list(steps.losses),
        }
        for name, (steps, peak) in systems.items()
    }
    summary: dict[str, Any] = {"systems": summaries, "ratios": None, "agreement": None}
    if len(systems) == len(get_args(Peer)):
        ours, theirs = summaries["fastvlm"], summaries["transformers"]
        summary["ratios"] = {
            name: round(ours[name] / theirs[name], 3)
            for name in ("seconds_per_step", "peak_mib", "peak_process_mib")
            if ours[name] is not None and theirs[name]
        }
        difference = abs(ours["losses"][0] - theirs["losses"][0])
        summary["agreement"] = {
            "first_loss_difference": difference,
            "tolerance": tolerance,
            "is_equal": difference <= tolerance and ours["num_trained"] == theirs["num_trained"],
        }
    return summary


def train_arguments(plan: TrainingPlan, variant: Variant, folder: Path, work: Path) -> list[str]:
    """The arguments of `fastvlm` for one variant, run folder excluded."""
    values: dict[str, object] = {
        "recipe": _RECIPES[variant],
        "model": folder,
        "data": work / "data.json",
        "image-size": plan.image_size,
        "max-steps": plan.num_steps,
        "batch-size": plan.batch_size,
        "gradient-accumulation-steps": 1,
        "learning-rate": LEARNING_RATE,
        "projector-learning-rate": LEARNING_RATE,
        "max-grad-norm": MAX_GRAD_NORM,
        "schedule": "constant",
        "warmup-fraction": 0,
        "precision": plan.precision,
        "device": plan.device,
        "log-steps": 1,
        "save-steps": 0,
    }
    if variant == "lora":
        values |= {"lora-rank": LORA_RANK, "lora-alpha": LORA_ALPHA, "lora-dropout": 0}
    named = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    checkpointing = "--gradient-checkpointing"
    if not plan.has_checkpointing:
        checkpointing = "--no-gradient-checkpointing"
    return ["train", *named, checkpointing, "--no-tf32", "--no-group-by-length", "--no-compare"]


def read_run(folder: Path) -> Steps:
    """What the log of a run says about its steps.

    Raises:
        BackendError: it says too little.
    """
    try:
        lines = map(json.loads, (folder / "log.jsonl").read_text("utf-8").splitlines())
        steps = [line for line in lines if "loss" in line]
        ends = [line["time"] for line in steps]
        parts = json.loads((folder / "run.json").read_text("utf-8"))["trainable"]
        return Steps(
            losses=tuple(line["loss"] for line in steps),
            step_s=tuple(end - begin for begin, end in pairwise(ends)),
            peak_mib=round(steps[-1]["memory_mib"]) or None,  # 0 where the system does not tell
            num_trained=sum(part["trained"] for part in parts),
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise BackendError(f"the run in {folder} has no complete log: {error!r}") from error


def _require_packages(plan: TrainingPlan) -> None:
    if "transformers" in plan.systems:
        require_transformers()
    missing = [name for name in ("accelerate", "peft", "transformers") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"measuring training needs {', '.join(missing)}, which is not installed; "
            "run `pip install 'fastvlm[train,bench]'`"
        )


def _prepare_folders(
    plan: TrainingPlan, work: Path, progress: Callable[[str], None]
) -> dict[Peer, Path]:
    """The same weights for each system, in a layout that it loads."""
    if plan.model in PRESETS:
        own = work / "apple"
        progress(f"writing {plan.model} with random weights")
        write_random_checkpoint(own, preset(plan.model), layout="apple")
    else:
        own = resolve_model(plan.model)
    folders: dict[Peer, Path] = {"fastvlm": own, "transformers": own}
    _, layout = read_config(own)
    if "transformers" in plan.systems and layout != "hf":
        progress("converting to layout hf")
        folders["transformers"] = work / "hf"
        convert_checkpoint(own, work / "hf", layout="hf")
    return folders


def _write_data(folder: Path, plan: TrainingPlan, work: Path) -> ModelInputs:
    """A training file of equal records, enough for all steps, and the same sample as arrays."""
    (work / "photo.jpg").write_bytes(draw_photo(width=plan.image_size, height=plan.image_size))
    turns = [{"from": "human", "value": f"<image>\n{PROMPT}"}, {"from": "gpt", "value": ANSWER}]
    records = [
        {"id": str(index), "image": "photo.jpg", "conversations": turns}
        for index in range(plan.num_steps * plan.batch_size)
    ]
    data = work / "data.json"
    data.write_text(json.dumps(records), "utf-8")
    config = replace(read_config(folder)[0], image_size=plan.image_size)
    mixture = Mixture.open([str(data)])
    sample = TrainingSamples(mixture, Processor.from_folder(folder, config))[mixture.order(0)[0]]
    if isinstance(sample, BrokenSample):
        raise ConfigError(f"{plan.model} cannot take the sample: {sample.reason}")
    if len(sample.pixel_values) != 1 or len(sample.pixel_values[0]) != 1:
        raise ConfigError(
            f"{plan.model} makes several tiles of a picture, which transformers does not take; "
            "choose a model that scales each picture to one square"
        )
    assert sample.labels is not None
    np.savez(
        work / "inputs.npz",
        input_ids=sample.input_ids,
        labels=sample.labels,
        pixel_values=sample.pixel_values[0],
    )
    return sample


def _measure(
    plan: TrainingPlan, variant: Variant, system: Peer, folder: Path, work: Path
) -> tuple[Steps, int | None]:
    """Train in a fresh process; returns what its steps took, and the peak of all of it, saving included, in MiB."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        output, result_file = Path(name) / "output", Path(name) / "result.json"
        if system == "fastvlm":
            arguments = train_arguments(plan, variant, folder, work)
            command = ["fastvlm", *arguments, "--quiet", "--output", str(output)]
            peak = run_module(command, plan.threads, Path(name) / "messages.txt")
            return read_run(output), peak
        task = StepTask(
            folder=str(folder),
            inputs_file=str(work / "inputs.npz"),
            output=str(output),
            variant=variant,
            precision=plan.precision,
            num_steps=plan.num_steps,
            batch_size=plan.batch_size,
            device=plan.device,
            threads=plan.threads,
            has_checkpointing=plan.has_checkpointing,
        )
        task_file = Path(name) / "task.json"
        task_file.write_text(json.dumps(asdict(task)), "utf-8")
        command = ["fastvlm.bench.training_worker", str(task_file), str(result_file)]
        peak = run_module(command, plan.threads, Path(name) / "messages.txt")
        data = json.loads(result_file.read_text("utf-8"))
        if "error" in data:
            raise BackendError(f"{system}: {data['error']}")
        return Steps(**data), peak


def run_module(module_and_arguments: Sequence[str], threads: int, messages: Path) -> int | None:
    """Run a module to its end in a process of its own.

    Args:
        module_and_arguments: what stands behind `python -m`.
        threads: that the process may compute with.
        messages: file for what it prints.

    Returns:
        Its peak memory in MiB, None where the system does not tell.

    Raises:
        BackendError: it failed.
    """
    count, peak = str(threads), None
    with (
        messages.open("wb") as file,
        subprocess.Popen(  # noqa: S603 -- this interpreter and our own modules
            [sys.executable, "-m", *module_and_arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        ) as process,
    ):
        try:
            while process.poll() is None:
                peak = peak_rss_bytes_of(process.pid) or peak
                _wait(process)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = messages.read_text("utf-8", "replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else "; the system ends processes so when memory runs out"
        raise BackendError(
            f"`{' '.join(module_and_arguments[:2])}` ended with code {process.returncode}{said}"
        )
    return None if peak is None else round(peak / _MIB)


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_POLL_S)
    except subprocess.TimeoutExpired:
        return
