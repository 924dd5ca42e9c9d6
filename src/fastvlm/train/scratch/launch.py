"""Starts the processes of a training run, follows them, and ends them together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import IO, Final

import torch

from fastvlm.errors import ConfigError, FastVLMError
from fastvlm.processing.tokenizer import Tokenizer
from fastvlm.train.scratch.nano_tokenizer import train_nano_tokenizer
from fastvlm.train.scratch.recipe import recipe
from fastvlm.train.scratch.state import RunSettings, read_settings, write_settings

_FINISHED, _STOPPED = 0, 3

# glibc hands every large tensor back to the system and asks for it again on the next step; keeping it is worth
# 5 to 15 % of the time. Other systems ignore these names.
_ALLOCATOR: Final = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "200000000",
}


@dataclass(frozen=True, slots=True)
class News:
    """One line of progress."""

    stage: str
    step: int
    num_steps: int
    loss: str
    samples_per_second: str
    accuracies: str
    """Empty but for the steps at which it is measured."""


def start_run(
    folder: Path, recipe_name: str, *, device: str = "auto", steps_scale: float = 1.0
) -> None:
    """Prepare a folder for a run: its settings and its tokenizer.

    Raises:
        ConfigError: an unknown recipe or device, or a folder that already holds a run.
    """
    chosen = recipe(recipe_name).scaled(steps_scale)
    name = _resolve_device(device)
    num_workers = min(chosen.num_workers, os.cpu_count() or 1) if name == "cpu" else 1
    settings = RunSettings(
        recipe=recipe_name, steps_scale=steps_scale, num_workers=num_workers, device=name
    )
    write_settings(folder, settings)
    # Kept with the run, so that a resumed run reads and writes the ids it began with.
    train_nano_tokenizer().save(folder)


def follow_run(folder: Path, on_news: Callable[[News], None]) -> bool:
    """Train until the recipe's end or Ctrl-C; the state is saved in both cases.

    Args:
        folder: prepared by `start_run`; goes on from its saved state if there is one.
        on_news: called with every line of progress.

    Returns:
        Whether the recipe was finished.

    Raises:
        ConfigError: the folder holds no run.
        FastVLMError: a process failed; its own message is on standard error.
    """
    settings = read_settings(folder)
    Tokenizer.from_folder(folder)  # fails here, not in every process
    (folder / ".meeting").unlink(missing_ok=True)
    environment = os.environ | _ALLOCATOR | {"OMP_NUM_THREADS": "1"}
    if settings.device != "cpu":
        environment = dict(os.environ)
    processes = [
        subprocess.Popen(  # noqa: S603  our own module, no shell
            [
                sys.executable,
                "-m",
                "fastvlm.train.scratch.worker",
                str(folder.resolve()),
                str(rank),
            ],
            env=environment,
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        for rank in range(settings.num_workers)
    ]
    codes = _wait(processes, on_news)
    if all(code == _FINISHED for code in codes):
        return True
    if all(code in (_FINISHED, _STOPPED) for code in codes):
        return False
    raise FastVLMError(
        f"training processes ended with codes {codes}; the message above says why, and "
        f"--resume --output {folder} goes on from the last saved state"
    )


def _wait(processes: list[subprocess.Popen[str]], on_news: Callable[[News], None]) -> list[int]:
    """Pass lines on until all processes have ended; when one fails, end the others."""
    lines: Queue[str | None] = Queue()
    first_output = processes[0].stdout
    assert first_output is not None
    reader = threading.Thread(target=_read, args=(first_output, lines), daemon=True)
    reader.start()
    try:
        _pass_on(lines, on_news)
    except KeyboardInterrupt:
        # The terminal has sent the same signal to the workers, which are saving their state now.
        for process in processes:
            process.terminate()
        _pass_on(lines, on_news)
    for process in processes:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
    return [process.wait() for process in processes]


def _read(stream: IO[str], lines: Queue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _pass_on(lines: Queue[str | None], on_news: Callable[[News], None]) -> None:
    while (line := lines.get()) is not None:
        fields = line.rstrip("\n").split("\t")
        if len(fields) == 6:
            stage, step, num_steps, loss, speed, accuracies = fields
            on_news(News(stage, int(step), int(num_steps), loss, speed, accuracies))


def _resolve_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as err:
        raise ConfigError(f"device {device!r} is not known; expected auto, cpu or cuda") from err
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no CUDA GPU; use cpu")
    return device
