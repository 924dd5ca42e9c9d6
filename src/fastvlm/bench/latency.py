"""Load time, memory, TTFT and TPS of several systems on the same weights, picture and prompt.

Protocol: in every round each system runs once, in a fresh process with the same number of threads; the order turns
around from round to round, so that slow changes of the machine hit all alike. A process loads the model, answers
once to warm up, then answers `ANSWERS_PER_PROCESS` times. The figures are medians over all rounds. Files are in the
page cache: a first load from a slow disk takes as long as the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import environ
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from fastvlm.bench.peers import require_transformers
from fastvlm.bench.photo import draw_photo
from fastvlm.bench.protocol import PROMPT, Sample, System
from fastvlm.bench.random_checkpoint import write_random_checkpoint
from fastvlm.bench.worker import Result, Task
from fastvlm.checkpoint.config_json import read_config
from fastvlm.checkpoint.convert import convert_checkpoint
from fastvlm.checkpoint.hub import resolve_model
from fastvlm.config import PRESETS, preset
from fastvlm.device import resolve_device
from fastvlm.errors import BackendError, ConfigError, ContextLengthError, MediaError
from fastvlm.machine import describe_machine, num_cores
from fastvlm.messages import user_message
from fastvlm.processing.processor import Processor

ANSWERS_PER_PROCESS: Final = 2
_MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyPlan:
    """What to measure."""

    model: str
    """A preset, which gets random weights of its full size, or a checkpoint folder."""
    systems: tuple[System, ...]
    """The competitors; see `parse_system`."""
    repeats: int = 5
    """Rounds, each with a fresh process for each system."""
    threads: int = 0
    """Threads of every system; 0 means as many as there are cores."""
    num_new_tokens: int = 33
    """Tokens of each answer, the first one included."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    image: Path | None = None
    """The picture; None draws a JPEG of 12 million pixels."""
    prompt: str = PROMPT
    """The question."""

    def __post_init__(self) -> None:
        for name, lowest in (("repeats", 1), ("threads", 0), ("num_new_tokens", 2)):
            if getattr(self, name) < lowest:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least {lowest}")
        names = [system.name for system in self.systems]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"systems are {', '.join(names) or 'none'}; expected each one once")


def measure_latency(
    plan: LatencyPlan, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run the plan.

    Args:
        plan: what to measure.
        progress: told in a few words what is being done.

    Returns:
        What goes into the results file: the protocol, the machine, and per system its medians and samples.

    Raises:
        MissingExtraError: a library to be measured is not installed.
        BackendError: a system could not be loaded or could not answer.
    """
    if any(system.peer == "transformers" for system in plan.systems):
        require_transformers()
    device = resolve_device(plan.device)
    plan = replace(plan, threads=plan.threads or num_cores())
    with tempfile.TemporaryDirectory(prefix="fastvlm-bench-") as name:
        work = Path(name)
        image = _image_bytes(plan.image)
        (work / "image").write_bytes(image)
        folders = _prepare_folders(plan, work, progress)
        _write_inputs(folders[None], plan, image, work / "inputs.npz")
        results: dict[str, list[Result]] = {system.name: [] for system in plan.systems}
        for index in range(plan.repeats):
            for system in order_of_round(plan.systems, index):
                progress(f"round {index + 1} of {plan.repeats}: {system.name}")
                task = _task(plan, system, folders[system.layout], work, is_first=index == 0)
                results[system.name].append(_measure(task, work, system.name))
        num_weights = _weight_bytes(folders[None])
    summaries = {
        system.name: {**asdict(system), **summarise(results[system.name])}
        for system in plan.systems
    }
    return {
        "benchmark": "latency",
        "model": plan.model if plan.model in PRESETS else Path(plan.model).name,
        "weights": "random" if plan.model in PRESETS else "as given",
        "weight_file_mib": num_weights // _MIB,
        "device": device.type,
        "protocol": {
            "rounds": plan.repeats,
            "answers_per_round": ANSWERS_PER_PROCESS,
            "threads": plan.threads,
            "num_new_tokens": plan.num_new_tokens,
            "image": "drawn, 4000 x 3000 JPEG" if plan.image is None else plan.image.name,
            "image_bytes": len(image),
            "prompt": plan.prompt,
        },
        "machine": describe_machine(device),
        "systems": summaries,
        "ratios": ratios(summaries),
        "agreement": agreement(results),
    }


def order_of_round(systems: Sequence[System], index: int) -> Sequence[System]:
    """The systems as given, in every other round backwards."""
    return systems if index % 2 == 0 else systems[::-1]


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Medians over all rounds of one system, and what they were taken from."""
    samples = [sample for result in results for sample in result.samples]

    def middle(value: Callable[[Sample], float], *, digits: int = 1) -> float:
        return round(median(map(value, samples)), digits)

    def mib(name: str) -> int | None:
        values = [getattr(result, name) for result in results]
        known = [value for value in values if value is not None]
        return round(median(known) / _MIB) if known else None

    return {
        "dtype": results[0].dtype,
        "num_prompt_tokens": samples[0].num_prompt_tokens,
        "import_s": round(median(result.import_s for result in results), 3),
        "load_s": round(median(result.load_s for result in results), 3),
        "load_cpu_s": round(median(result.load_cpu_s for result in results), 3),
        "cold_ttft_ms": round(median(result.cold.ttft_s for result in results) * 1000, 1),
        "rss_imported_mib": mib("rss_imported_bytes"),
        "rss_loaded_mib": mib("rss_loaded_bytes"),
        "peak_rss_loading_mib": mib("peak_rss_loading_bytes"),
        "peak_rss_mib": mib("peak_rss_bytes"),
        "peak_device_mib": mib("peak_device_bytes"),
        "ttft_ms": middle(lambda s: s.ttft_s * 1000),
        "ttft_cpu_ms": middle(lambda s: s.ttft_cpu_s * 1000),
        "preprocess_ms": middle(lambda s: s.preprocess_s * 1000),
        "vision_ms": middle(lambda s: s.vision_s * 1000),
        "prefill_ms": middle(lambda s: s.prefill_s * 1000),
        "decode_ms_per_token": middle(lambda s: s.decode_s * 1000 / s.num_decoded, digits=2),
        "decode_cpu_ms_per_token": middle(
            lambda s: s.decode_cpu_s * 1000 / s.num_decoded, digits=2
        ),
        "tokens_per_second": middle(lambda s: s.num_decoded / s.decode_s, digits=2),
        "rounds": [asdict(result) for result in results],
    }


def ratios(summaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Every `fastvlm` system over every other library's: below 1 is faster or smaller, for TPS above 1."""
    names = (
        "ttft_ms",
        "ttft_cpu_ms",
        "tokens_per_second",
        "load_s",
        "load_cpu_s",
        "cold_ttft_ms",
        "peak_rss_loading_mib",
        "peak_rss_mib",
        "peak_device_mib",
    )
    found: dict[str, dict[str, dict[str, float]]] = {}
    for ours, own in summaries.items():
        for theirs, other in summaries.items():
            if own["peer"] == "fastvlm" and other["peer"] != "fastvlm":
                found.setdefault(ours, {})[theirs] = {
                    name: round(own[name] / other[name], 3)
                    for name in names
                    if own[name] is not None and other[name]
                }
    return found


def agreement(results: Mapping[str, Sequence[Result]]) -> dict[str, Any] | None:
    """Whether all systems in float32 continue the same inputs with the same tokens; None for fewer than two."""
    tokens = {
        name: found[0].token_ids for name, found in results.items() if found[0].dtype == "float32"
    }
    if len(tokens) < 2:
        return None
    first = next(iter(tokens.values()))
    return {
        "systems": sorted(tokens),
        "num_tokens": len(first),
        "num_distinct_tokens": len(set(first)),
        "is_equal": all(other == first for other in tokens.values()),
    }


def _image_bytes(path: Path | None) -> bytes:
    if path is None:
        return draw_photo()
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror or error}") from error


def _prepare_folders(
    plan: LatencyPlan, work: Path, progress: Callable[[str], None]
) -> dict[str | None, Path]:
    """The model in every layout that some system loads; under None as it was given."""
    if plan.model in PRESETS:
        original = work / "apple"
        progress(f"writing {plan.model} with random weights")
        write_random_checkpoint(original, preset(plan.model), layout="apple")
    else:
        original = resolve_model(plan.model)
    _, own_layout = read_config(original)
    folders: dict[str | None, Path] = {None: original, own_layout: original}
    for system in plan.systems:
        if system.layout is not None and system.layout not in folders:
            progress(f"converting to layout {system.layout}")
            target = work / system.layout
            convert_checkpoint(original, target, layout=system.layout)
            folders[system.layout] = target
    return folders


def _write_inputs(folder: Path, plan: LatencyPlan, image: bytes, path: Path) -> None:
    """The prepared request from which all systems have to go on with the same tokens."""
    config, _ = read_config(folder)
    inputs = Processor.from_folder(folder, config)([user_message(plan.prompt, image)])
    total = len(inputs.input_ids) + plan.num_new_tokens
    if total > config.max_length:
        raise ContextLengthError(
            f"{len(inputs.input_ids)} tokens of the prompt + {plan.num_new_tokens} new ones = {total} exceeds "
            f"max_length {config.max_length}; lower --new-tokens"
        )
    np.savez(path, input_ids=inputs.input_ids, pixel_values=inputs.pixel_values[0])


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _task(plan: LatencyPlan, system: System, folder: Path, work: Path, *, is_first: bool) -> Task:
    return Task(
        peer=system.peer,
        folder=str(folder),
        device=plan.device,
        dtype=system.dtype,
        threads=plan.threads,
        image_file=str(work / "image"),
        prompt=plan.prompt,
        num_new_tokens=plan.num_new_tokens,
        num_answers=ANSWERS_PER_PROCESS,
        inputs_file=str(work / "inputs.npz") if is_first else None,
    )


def _measure(task: Task, work: Path, name: str) -> Result:
    """Run a task in a fresh process."""
    task_file, result_file = work / "task.json", work / "result.json"
    task_file.write_text(json.dumps(asdict(task)), "utf-8")
    result_file.unlink(missing_ok=True)
    threads = str(task.threads)
    done = subprocess.run(  # noqa: S603 -- this interpreter and our own module
        [sys.executable, "-m", "fastvlm.bench.worker", str(task_file), str(result_file)],
        env={**environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if not result_file.is_file():
        lines = done.stderr.strip().splitlines()
        raise BackendError(
            f"the process that measured {name} ended with code {done.returncode}"
            f"{': ' + lines[-1] if lines else ''}; try it alone with --systems {name} --repeats 1"
        )
    data = json.loads(result_file.read_text("utf-8"))
    if "error" in data:
        raise BackendError(f"{name}: {data['error']}")
    return Result.from_json(data)
