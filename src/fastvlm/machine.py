"""The machine and the software that a measurement or a training run belongs to."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "fastvlm",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "timm",
    "torchvision",
    "pillow",
    "numpy",
)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, versions, commit and date, as they go into a results file."""
    described: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "memory_gib": _memory_gib(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
    return described


def num_cores() -> int:
    """Processor cores that this process may use."""
    get_affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(get_affinity(0)) if get_affinity else os.cpu_count() or 1


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return platform.processor() or platform.machine()


def _memory_gib() -> int | None:
    if not hasattr(os, "sysconf"):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, marked when the package differs from it."""
    package = Path(__file__).parent
    commit = _output("git", "-C", str(package), "rev-parse", "--short=12", "HEAD")
    if not commit:
        return None
    changed = _output("git", "-C", str(package), "status", "--porcelain", "--", str(package))
    return f"{commit} + changes" if changed else commit


def _output(*command: str) -> str:
    """What a program prints; empty where it is not there or fails."""
    try:
        done = subprocess.run(  # noqa: S603 -- fixed programs with fixed arguments
            command, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
