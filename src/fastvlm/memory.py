"""How much memory a process takes and has taken, on Linux, macOS and Windows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int | None:
    """Most memory this process ever held at once, mapped files that it touched included.

    None where the system does not tell. On Linux this is VmHWM: `ru_maxrss` would begin at what the parent
    process held when it started this one.
    """
    if _STATUS.is_file():
        return _status_bytes("VmHWM")
    if os.name == "nt":
        return _windows_peak()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def peak_rss_bytes_of(pid: int) -> int | None:
    """The same of another process that runs; None outside Linux, and when it has just ended."""
    try:
        return _status_bytes("VmHWM", Path(f"/proc/{pid}/status"))
    except OSError:
        return None


def rss_bytes() -> int | None:
    """Memory this process holds now; None outside Linux, where only the peak is cheap to ask for."""
    return _status_bytes("VmRSS") if _STATUS.is_file() else None


def peak_device_bytes(device: torch.device) -> int | None:
    """Most memory that tensors ever took on a CUDA device; None for other devices."""
    if device.type != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device)


def _status_bytes(field: str, status: Path = _STATUS) -> int | None:
    for line in status.read_text("ascii", "replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def _windows_peak() -> int | None:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            *((f"unused_{index}", ctypes.c_size_t) for index in range(7)),
        )

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel: Any = getattr(ctypes, "windll").kernel32  # noqa: B009 -- exists on Windows only
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = (
        wintypes.HANDLE,
        ctypes.POINTER(Counters),
        wintypes.DWORD,
    )
    is_told = kernel.K32GetProcessMemoryInfo(
        kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb
    )
    return int(counters.PeakWorkingSetSize) if is_told else None
