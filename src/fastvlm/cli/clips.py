"""From what was typed to clips and their options; messages of the library in words of the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastvlm.cli.pictures import expand
from fastvlm.errors import ConfigError, MediaError
from fastvlm.messages import MAX_FRAMES, FrameSampling, VideoOptions

if TYPE_CHECKING:
    from fastvlm.processing.video import VideoLimits

DEFAULT_FRAMES: Final = VideoOptions().num_frames

VIDEO_WORDS: Final = {
    "num_frames": "--frames",
    "frame_size": "--frame-size",
    "image_size": "--frame-size",
    "start_s": "--start",
    "end_s": "--end",
    "timestamps_s": "--timestamps",
    "max_bytes": "--max-bytes",
    "max_pixels": "--max-pixels",
    "max_edge": "--max-edge",
    "max_duration_s": "--max-duration",
    "timeout_s": "--timeout",
    "memory_bytes": "--max-memory",
}
"""Options of `fastvlm video` by their names in the library."""

PICTURE_WORDS: Final = {
    "num_frames": "--frames",
    "frame_size": "--image-size",
    "image_size": "--image-size",
}
"""The same for commands whose clips stand among pictures."""

_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")


def spelled(message: str, words: Mapping[str, str], *, name: str = "") -> str:
    """A message of the library with options as they are typed; `name`, a file it may begin with, stays."""
    kept = name if name and message.startswith(name) else ""
    rest = message[len(kept) :].replace(
        "raise max_length", "raise max_length in the config.json of the model"
    )
    return kept + re.sub(r"\b[a-z]+_[a-z_]+\b", lambda found: words.get(found[0], found[0]), rest)


def parse_time(text: str, option: str) -> float:
    """Seconds from `12.5`, `1:30` or `1:02:03.5`.

    Raises:
        ConfigError: anything else.
    """
    found = _TIME.fullmatch(text.strip())
    if found is not None:
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        is_whole = (found[2] is None or seconds < 60) and (found[1] is None or minutes < 60)
        if is_whole:
            return hours * 3600 + minutes * 60 + seconds
    raise ConfigError(
        f"{option} is {text!r}; expected seconds, m:ss or h:mm:ss such as 12.5, 1:30 or 1:02:03"
    )


def video_options(arguments: Mapping[str, Any]) -> VideoOptions:
    """The frames that the arguments of `fastvlm video` ask for; `--fps` and `--timestamps` say the sampling.

    Raises:
        ConfigError: a value out of range, or options that exclude each other.
    """
    timestamps, fps, frames = (arguments[name] for name in ("timestamps", "fps", "frames"))
    implied: FrameSampling = "uniform"
    if timestamps is not None:
        implied = "timestamps"
    elif fps is not None:
        implied = "fps"
    sampling: FrameSampling = arguments["sampling"] or implied
    times_s = [
        parse_time(one, "--timestamps") for one in (timestamps or "").split(",") if one.strip()
    ]
    if arguments["keyframes"] and (arguments["sampling"] or implied != "uniform"):
        raise ConfigError(
            "--keyframes chooses the frames; leave --sampling, --fps and --timestamps out"
        )
    if frames is None:
        frames = MAX_FRAMES if sampling == "fps" else DEFAULT_FRAMES
    start, end = arguments["start"], arguments["end"]
    try:
        return VideoOptions(
            num_frames=frames,
            sampling=sampling,
            fps=fps,
            timestamps_s=tuple(times_s),
            start_s=0.0 if start is None else parse_time(start, "--start"),
            end_s=None if end is None else parse_time(end, "--end"),
            has_time_marks=arguments["time_marks"],
            skip_duplicates=arguments["keyframes"],
        )
    except ConfigError as error:
        raise ConfigError(spelled(str(error), VIDEO_WORDS)) from None


def frames_option(num_frames: int) -> VideoOptions:
    """The default way to take so many frames, for commands without the other options.

    Raises:
        ConfigError: out of range.
    """
    try:
        return VideoOptions(num_frames=num_frames)
    except ConfigError as error:
        raise ConfigError(spelled(str(error), PICTURE_WORDS)) from None


def clip_names(typed: Sequence[str]) -> list[str]:
    """The files that these names and patterns stand for.

    Raises:
        MediaError: an empty name, a folder, or a pattern without match.
    """
    for name in typed:
        if name and Path(name).is_dir():
            raise MediaError(f"{name}: is a folder; expected clips, such as {Path(name) / '*.mp4'}")
    return [clip.name for clip in expand(typed)]


def read_clip(name: str, limits: VideoLimits) -> str | bytes:
    """What the reader of clips takes: a path, or bytes from standard input.

    Raises:
        MediaError: standard input is empty, or the file is a picture.
    """
    from fastvlm.processing.image_container import sniff_format

    if name == "-":
        data = sys.stdin.buffer.read(limits.max_bytes + 1)
        if not data:
            raise MediaError("standard input is empty; expected the bytes of a clip")
        source: str | bytes = data
        head = data[:4096]
    else:
        source, head = name, _head(name)
    picture = sniff_format(head)
    if picture is not None and picture != "GIF":
        raise MediaError(
            f"{name}: is a {picture} picture, no clip; ask about it with `fastvlm predict`"
        )
    return source


def _head(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(4096)
    except (OSError, ValueError):  # the reader of clips says why
        return b""
