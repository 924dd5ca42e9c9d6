"""Plain data about clips: what is accepted, what a file holds, one frame of it. Nothing here opens a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastvlm.errors import ConfigError, MediaError

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """How large and long a clip may be, and what decoding it may cost."""

    max_bytes: int = 2 * 1024**3
    """Length of the file."""
    max_pixels: int = 40_000_000
    """Width times height of a frame, as it is stored and as it is shown."""
    max_edge: int = 16384
    """Longer side of a frame in pixels."""
    max_duration_s: float = 6 * 3600.0
    """Seconds from the first frame to the end of the last, measured, whatever the header says."""
    timeout_s: float = 60.0
    """Seconds that reading may take, the time of the caller between frames left out. Not for trusted files."""
    memory_bytes: int = 4 * 1024**3
    """Address space of the decoding process, where the system can limit it (Linux); 130 MiB of it are the program.
    Not for trusted files."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_edge", "memory_bytes"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")
        for name in ("max_duration_s", "timeout_s"):
            if not (value := getattr(self, name)) > 0:
                raise ConfigError(f"{name} is {value}, expected more than 0 seconds")


DEFAULT_VIDEO_LIMITS: Final = VideoLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """What a clip holds, measured on its packets; a header is believed in nothing but the size of the picture.

    Attributes:
        duration_s: from the first frame to the end of the last, in seconds.
        num_frames: frames that are shown.
        fps: frames a second on average; None for a single frame.
        width: of a frame as it is shown: upright, with square pixels.
        height: likewise.
        rotation_degrees: clockwise turn that sets the stored frames upright: 0, 90, 180 or 270.
        codec: short name, such as h264.
        is_header_trusted: the header announces the number of frames that was counted.
    """

    duration_s: float
    num_frames: int
    fps: float | None
    width: int
    height: int
    rotation_degrees: int
    codec: str
    is_header_trusted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a clip.

    Attributes:
        image: upright RGB.
        time_s: when it is shown, in seconds from the first frame of the clip.
    """

    image: Image.Image
    time_s: float


class TooManyFramesError(MediaError):
    """More frames are planned than the caller has room for; raised before any is decoded."""

    def __init__(self, num_planned: int, max_frames: int) -> None:
        super().__init__(
            f"{num_planned} frames are planned, but there is room for {max_frames}; lower num_frames"
        )
        self.num_planned = num_planned
        self.max_frames = max_frames
