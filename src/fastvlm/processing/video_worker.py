"""The process that decodes clips nobody vouches for: `python -m fastvlm.processing.video_worker REQUEST`.

It reads the file from standard input and answers on standard output, one message after the other: a line of JSON,
then `num_bytes` of pixels. Where the system can do it (POSIX), memory and computing time are limited, and once
everything is loaded no file or socket can be opened any more. `video_process` is the other side.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import pkgutil
import signal
import sys
from dataclasses import asdict
from typing import Any, BinaryIO, NoReturn

import av
import PIL.ImageFile  # noqa: F401  loaded on first use otherwise

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.video_decoder import Clip
from fastvlm.processing.video_info import TooManyFramesError, VideoLimits


def main() -> None:
    """Answer the request in the first argument."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the parent, which ends this process
    request = json.loads(sys.argv[1])
    limits = VideoLimits(**request["limits"])
    out = sys.stdout.buffer
    try:
        file = _file(limits, is_piped=request["is_piped"])
        _load_everything()
        _limit_resources(limits, num_held=request["num_held"])
        _answer(request, file, limits, out)
        _send(out, kind="end")
    except TooManyFramesError as err:
        _send(out, kind="too_many", num_planned=err.num_planned, max_frames=err.max_frames)
    except MediaError as err:
        _send(out, kind="error", message=str(err))
    except MemoryError:
        _send(out, kind="no_memory")
    except BrokenPipeError:
        _leave()
    except Exception as err:  # noqa: BLE001  a process border: the parent tells the user
        _send(out, kind="error", message=f"cannot be decoded ({type(err).__name__}: {err})")
    _leave()


def _answer(request: dict[str, Any], file: BinaryIO, limits: VideoLimits, out: BinaryIO) -> None:
    clip = Clip(file, limits)
    match request["task"]:
        case "probe":
            _send(out, kind="info", info=asdict(clip.info()), num_planned=0)
        case "frames":
            options = request["options"]
            options["timestamps_s"] = tuple(options["timestamps_s"])
            indices = clip.plan(VideoOptions(**options), request["max_frames"])
            _send(out, kind="info", info=asdict(clip.info()), num_planned=len(indices))
            for frame in clip.frames(indices):
                width, height = frame.image.size
                pixels = frame.image.tobytes()
                _send(out, pixels, kind="frame", time_s=frame.time_s, width=width, height=height)
        case "thumbnails":
            for time_s, levels in clip.thumbnails(clip.scan_plan(), request["size"]):
                _send(out, levels, kind="thumbnail", time_s=time_s)


def _file(limits: VideoLimits, *, is_piped: bool) -> BinaryIO:
    """The clip: standard input is the file itself, or a pipe that has to be read to its end."""
    file = sys.stdin.buffer
    return io.BytesIO(file.read(limits.max_bytes)) if is_piped else file


def _send(out: BinaryIO, payload: bytes = b"", **message: object) -> None:
    out.write(json.dumps(message | {"num_bytes": len(payload)}).encode() + b"\n")
    out.write(payload)
    out.flush()


def _load_everything() -> None:
    """Load what PyAV would load on first use, when no file may be opened any more."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)


def _limit_resources(limits: VideoLimits, *, num_held: int) -> None:
    """Cap memory, computing time and open files; `num_held` bytes of the clip are in memory already."""
    if sys.platform == "win32":
        return
    import resource

    seconds = math.ceil(limits.timeout_s * (os.cpu_count() or 1)) + 1
    for what, value in (
        (resource.RLIMIT_AS, limits.memory_bytes + num_held),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        try:
            hard = resource.getrlimit(what)[1]
            lowest = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (lowest, lowest))
        except (ValueError, OSError):  # macOS refuses some; the clock of the parent remains
            continue


def _leave() -> NoReturn:
    """End without tearing down: the decoder's threads may still be at work, and nothing is left to be saved."""
    os._exit(0)


if __name__ == "__main__":
    main()
