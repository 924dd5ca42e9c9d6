"""The process that measures one system once: `python -m fastvlm.bench.worker TASK.json RESULT.json`.

Each system gets a process of its own, so that load time and memory are its own. Imports are timed apart from
loading; nothing heavy may be imported at the top of this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from fastvlm.bench.protocol import Candidate, Peer, Sample, now
from fastvlm.errors import FastVLMError
from fastvlm.memory import peak_device_bytes, peak_rss_bytes, rss_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What to measure.

    Attributes:
        peer: the library.
        folder: the checkpoint.
        device: cpu, cuda, mps.
        dtype: of the weights.
        threads: of the processor.
        image_file: an encoded picture.
        prompt: the question.
        num_new_tokens: tokens of each answer.
        num_answers: answers that count, after one that does not.
        inputs_file: an .npz with input_ids and pixel_values whose greedy continuation is wanted, or None.
    """

    peer: Peer
    folder: str
    device: str
    dtype: str
    threads: int
    image_file: str
    prompt: str
    num_new_tokens: int
    num_answers: int
    inputs_file: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was measured; times in seconds.

    Attributes:
        dtype: of the weights as loaded.
        import_s: importing the library and all that it uses.
        load_s: from the folder to a model that can be asked.
        load_cpu_s: the same in CPU time of the process.
        rss_imported_bytes: memory of the process before loading; None where the system does not tell.
        rss_loaded_bytes: memory after loading.
        peak_rss_loading_bytes: most memory until then.
        peak_rss_bytes: most memory at all.
        peak_device_bytes: most memory of tensors on a GPU.
        cold: the first answer, which still pays for what is done on first use.
        samples: the answers after it.
        token_ids: the continuation of `Task.inputs_file`.
    """

    dtype: str
    import_s: float
    load_s: float
    load_cpu_s: float
    rss_imported_bytes: int | None
    rss_loaded_bytes: int | None
    peak_rss_loading_bytes: int | None
    peak_rss_bytes: int | None
    peak_device_bytes: int | None
    cold: Sample
    samples: tuple[Sample, ...]
    token_ids: tuple[int, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """What `asdict` and JSON made of a result, back."""
        samples = tuple(Sample(**sample) for sample in data["samples"])
        token_ids = tuple(data["token_ids"])
        cold = Sample(**data["cold"])
        return cls(**{**data, "cold": cold, "samples": samples, "token_ids": token_ids})


def run(task: Task) -> Result:
    """Measure in this process, which should be fresh.

    Raises:
        FastVLMError: the system cannot be loaded or cannot answer.
    """
    began = now()
    candidate_class = _import(task.peer)
    import torch

    from fastvlm.device import resolve_device

    torch.set_num_threads(task.threads)
    device = resolve_device(task.device)
    imported, rss_imported = now(), rss_bytes()
    candidate = candidate_class(Path(task.folder), device=task.device, dtype=task.dtype)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    loaded, rss_loaded, peak_loading = now(), rss_bytes(), peak_rss_bytes()
    image = Path(task.image_file).read_bytes()
    cold, *samples = (
        candidate.answer(image, task.prompt, task.num_new_tokens)
        for _ in range(1 + task.num_answers)
    )
    peak, peak_device = peak_rss_bytes(), peak_device_bytes(device)
    return Result(
        dtype=candidate.dtype,
        import_s=imported.wall - began.wall,
        load_s=loaded.wall - imported.wall,
        load_cpu_s=loaded.cpu - imported.cpu,
        rss_imported_bytes=rss_imported,
        rss_loaded_bytes=rss_loaded,
        peak_rss_loading_bytes=peak_loading,
        peak_rss_bytes=peak,
        peak_device_bytes=peak_device,
        cold=cold,
        samples=tuple(samples),
        token_ids=_continuation(candidate, task),
    )


def _import(peer: Peer) -> Callable[..., Candidate]:
    """Import all that the library uses; returns what loads it."""
    if peer == "transformers":
        from fastvlm.bench.peers import TransformersCandidate, import_transformers

        import_transformers()
        return TransformersCandidate
    from fastvlm.bench.candidate import FastVLMCandidate

    for name in (
        "backends.torch_backend",
        "checkpoint.hub",
    ):  # the engine imports them when it loads
        import_module(f"fastvlm.{name}")
    return FastVLMCandidate


def _continuation(candidate: Candidate, task: Task) -> tuple[int, ...]:
    if task.inputs_file is None:
        return ()
    import numpy as np

    with np.load(task.inputs_file) as inputs:
        return tuple(
            candidate.greedy_tokens(
                inputs["input_ids"], inputs["pixel_values"], task.num_new_tokens
            )
        )


def main() -> None:
    """Read the task, write the result or the error."""
    task_file, result_file = map(Path, sys.argv[1:3])
    task = Task(**json.loads(task_file.read_text("utf-8")))
    try:
        result = asdict(run(task))
    except FastVLMError as error:
        result = {"error": str(error)}
    result_file.write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
