"""The near side of `video_worker`: start it, read its messages, end it. Loads no FFmpeg.

What comes back is checked like the file itself, since a decoder that was taken over by a crafted clip could send
anything: kinds and sizes of messages are known, and nothing larger is ever read.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO, Final, Literal, TypeAlias, TypeVar

from PIL import Image

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.duplicate_frames import THUMBNAIL_SIZE
from fastvlm.processing.video_info import Frame, TooManyFramesError, VideoInfo, VideoLimits

_MAX_LINE: Final = 1 << 16
_SECONDS_TO_END: Final = 2.0
_OUT_OF_TIME: Final = -signal.SIGXCPU if sys.platform != "win32" else None
_KILLED: Final = -signal.SIGKILL if sys.platform != "win32" else None

_T = TypeVar("_T")

Task: TypeAlias = Literal["probe", "frames", "thumbnails"]


class VideoProcess:
    """One clip in a process of its own, which ends when this is closed, collected, or left at the end.

    Args:
        clip: an open file, or the bytes of one.
        task: what is asked for.
        limits: of the clip, and of time and memory.
        options: for task frames.
        max_frames: for task frames.
    """

    def __init__(
        self,
        clip: BinaryIO | bytes,
        task: Task,
        *,
        limits: VideoLimits,
        options: VideoOptions | None = None,
        max_frames: int | None = None,
    ) -> None:
        self._limits = limits
        self._remaining_s = limits.timeout_s
        self._is_late = False
        is_piped = isinstance(clip, bytes)
        request = {
            "task": task,
            "limits": asdict(limits),
            "options": None if options is None else asdict(options),
            "max_frames": max_frames,
            "size": THUMBNAIL_SIZE,
            "is_piped": is_piped,
            "num_held": len(clip) if isinstance(clip, bytes) else 0,
        }
        # -P: the current folder may hold anything, also an av.py.
        command = [sys.executable, "-P", "-m", "fastvlm.processing.video_worker"]
        self._process = subprocess.Popen(  # noqa: S603  our own module, no shell
            [*command, json.dumps(request)],
            stdin=subprocess.PIPE if isinstance(clip, bytes) else clip,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self.close = weakref.finalize(self, _end, self._process)
        if isinstance(clip, bytes):
            self._send(clip)

    def info(self) -> tuple[VideoInfo, int]:
        """What the clip holds and how many frames are planned; the first message of probe and frames."""
        message, _ = self._message("info")
        try:
            return VideoInfo(**message["info"]), int(message["num_planned"])
        except (KeyError, TypeError) as err:
            raise MediaError(self._ending()) from err

    def frames(self) -> Iterator[Frame]:
        """The frames that were asked for, as they are decoded."""
        while (found := self._message("frame"))[0]["kind"] != "end":
            message, pixels = found
            image = Image.frombytes("RGB", (message["width"], message["height"]), pixels)
            yield Frame(image, message["time_s"])

    def thumbnails(self) -> Iterator[tuple[float, bytes]]:
        """Time in seconds and levels of grey of each frame that was looked at."""
        while (found := self._message("thumbnail"))[0]["kind"] != "end":
            yield found[0]["time_s"], found[1]

    def _send(self, clip: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None

        def send() -> None:
            try:
                stdin.write(clip)
                stdin.close()
            except OSError:  # it has ended before the end of the clip; its answer says why
                return

        self._timed(send)

    def _message(self, kind: str) -> tuple[dict[str, Any], bytes]:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            message = json.loads(self._timed(lambda: stdout.readline(_MAX_LINE)))
            match message["kind"]:
                case "end":
                    return message, b""
                case "error":
                    raise MediaError(message["message"])
                case "too_many":
                    raise TooManyFramesError(message["num_planned"], message["max_frames"])
                case "no_memory":
                    raise MediaError(self._no_memory())
            num_bytes = self._num_bytes(message)
            payload = self._timed(lambda: stdout.read(num_bytes))
        except (ValueError, KeyError, TypeError) as err:
            if isinstance(err, MediaError):
                raise
            raise MediaError(self._ending()) from err
        if message["kind"] != kind or len(payload) != num_bytes:
            raise MediaError(self._ending())
        return message, payload

    def _num_bytes(self, message: dict[str, Any]) -> int:
        """How much follows a message, by its kind and within the limits."""
        match message["kind"]:
            case "frame":
                num_pixels = int(message["width"]) * int(message["height"])
                if not 0 < num_pixels <= self._limits.max_pixels:
                    raise ValueError
                return 3 * num_pixels
            case "thumbnail":
                return THUMBNAIL_SIZE**2
        return 0

    def _timed(self, work: Callable[[], _T]) -> _T:
        """Do what waits for the process; when its time is up it is killed, which ends the waiting."""
        timer = threading.Timer(max(self._remaining_s, 0), self._expire)
        timer.daemon = True
        started = time.monotonic()
        timer.start()
        try:
            return work()
        finally:
            timer.cancel()
            timer.join()  # it holds this object, which would outlive its last user by a moment
            self._remaining_s -= time.monotonic() - started

    def _expire(self) -> None:
        self._is_late = True
        self._process.kill()

    def _ending(self) -> str:
        """Why the process stopped talking sense."""
        try:
            code = self._process.wait(timeout=_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return "the decoder answered with nonsense; the file is made to harm"
        if self._is_late or code == _OUT_OF_TIME:
            return (
                f"decoding took more than {self._limits.timeout_s:g} s; take a shorter part, fewer frames, or "
                "raise timeout_s"
            )
        if code == _KILLED:  # by the system, when memory runs out
            return self._no_memory()
        return f"the decoder ended without an answer (code {code}); the file is damaged or made to harm"

    def _no_memory(self) -> str:
        return (
            f"decoding needs more than {self._limits.memory_bytes / 2**20:.0f} MiB of memory; if the file is not "
            "damaged, scale the clip down or raise memory_bytes"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue
    process.wait()
