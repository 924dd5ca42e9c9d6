"""A clip from a path or bytes to a few upright RGB frames with their times.

Files are decoded in a process of their own with limited time, memory and rights (`video_worker`), unless the
caller vouches for them: then in this one, which is faster to start and gives the same frames. Which frames are
taken is decided in `frame_sampling`, how they are found and converted in `video_decoder`. Loads no FFmpeg by itself.

Example:
    >>> reader = read_frames("clip.mp4", VideoOptions(num_frames=8))  # doctest: +SKIP
    >>> print(reader.info.duration_s, [frame.time_s for frame in reader])  # doctest: +SKIP
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self, TypeAlias

import numpy as np

from fastvlm.errors import ConfigError, MediaError
from fastvlm.messages import MAX_FRAMES, VideoOptions
from fastvlm.processing.duplicate_frames import (
    THUMBNAIL_SIZE,
    is_distinct,
    scene_cuts,
    scene_frames,
    thumbnail,
)
from fastvlm.processing.image_container import ftyp_brands, sniff_format
from fastvlm.processing.video_info import (
    DEFAULT_VIDEO_LIMITS,
    Frame,
    TooManyFramesError,
    VideoInfo,
    VideoLimits,
)
from fastvlm.processing.video_process import Task, VideoProcess

if TYPE_CHECKING:
    from fastvlm.processing.video_decoder import Clip

__all__ = [
    "DEFAULT_VIDEO_LIMITS",
    "Frame",
    "FrameReader",
    "TooManyFramesError",
    "VideoInfo",
    "VideoLimits",
    "is_video_file",
    "keyframe_times",
    "probe_video",
    "read_frames",
]

ClipSource: TypeAlias = str | Path | bytes
"""A path, or the bytes of a file."""

_MAGIC_BYTES: Final = 4096
_MAGICS: Final = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF: WMV
    b"OggS",
    b"\0\0\1\xba",  # MPEG programme stream
)
_OLD_QUICKTIME: Final = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_PICTURE_BRANDS: Final = {b"avif", b"avis", b"heic", b"heix", b"hevc", b"heif", b"mif1", b"msf1"}


class FrameReader:
    """The planned frames of a clip, decoded as they are taken; iterate once.

    Everything is given back at the end, by `close`, on leaving a `with` block, or when the object is dropped.

    Attributes:
        info: what the clip holds.
        num_planned: frames that are decoded at most; damaged and duplicate ones may be left out.
    """

    def __init__(
        self,
        info: VideoInfo,
        num_planned: int,
        frames: Iterator[Frame],
        close: Callable[[], object],
    ) -> None:
        self.info = info
        self.num_planned = num_planned
        self._frames = frames
        self.close = close

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        try:
            return next(self._frames)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def probe_video(
    source: ClipSource, *, limits: VideoLimits = DEFAULT_VIDEO_LIMITS, is_trusted: bool = False
) -> VideoInfo:
    """Describe a clip: reads all of it, decodes one frame.

    Args:
        source: a path, or the bytes of a file.
        limits: what is accepted.
        is_trusted: work in this process, without limits on time and memory.

    Raises:
        MediaError: missing, no video, damaged, or beyond a limit; begins with the name of the file.
    """
    name = _name(source)
    with _naming(name):
        if not is_trusted:
            process = _process(source, "probe", limits)
            try:
                return process.info()[0]
            finally:
                process.close()
        clip, close = _open_here(source, limits)
        try:
            return clip.info()
        finally:
            close()


def read_frames(
    source: ClipSource,
    options: VideoOptions,
    *,
    limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
    max_frames: int | None = None,
    is_trusted: bool = False,
) -> FrameReader:
    """Take frames of a clip.

    Args:
        source: a path, or the bytes of a file.
        options: which frames; `frame_size` and `has_time_marks` are the caller's business.
        limits: what is accepted.
        max_frames: how many the caller has room for.
        is_trusted: decode in this process, without limits on time and memory: for your own files.

    Returns:
        An iterator over at least one frame, in order of time; `.info` is known before the first.

    Raises:
        TooManyFramesError: the plan has more than `max_frames`; said before any frame is decoded.
        MediaError: missing, no video, damaged, or beyond a limit; begins with the name of the file. While
            iterating: more than half of the frames cannot be decoded.
    """
    name = _name(source)
    with _naming(name):
        if is_trusted:
            clip, close = _open_here(source, limits)
            try:
                indices = clip.plan(options, max_frames)
                info, num_planned = clip.info(), len(indices)
            except BaseException:
                close()
                raise
            frames: Iterator[Frame] = clip.frames(indices)
        else:
            process = _process(source, "frames", limits, options=options, max_frames=max_frames)
            close = process.close
            try:
                info, num_planned = process.info()
            except BaseException:
                close()
                raise
            frames = process.frames()
    return FrameReader(info, num_planned, _named(frames, name, options.skip_duplicates), close)


def keyframe_times(
    source: ClipSource,
    *,
    limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
    max_frames: int = MAX_FRAMES,
    is_trusted: bool = False,
) -> list[float]:
    """One time for each scene of a clip, for sampling timestamps.

    Of a short clip four frames a second are looked at, of a long one its key frames, which encoders set at cuts.

    Args:
        source: a path, or the bytes of a file.
        limits: what is accepted.
        max_frames: most scenes; with more, the hardest cuts count.
        is_trusted: as in `read_frames`.

    Returns:
        Seconds from the first frame, ascending, at least one: the middle frame of each scene.

    Raises:
        MediaError: as in `read_frames`.
        ConfigError: `max_frames` below 1.
    """
    if max_frames < 1:
        raise ConfigError(f"max_frames is {max_frames}, expected at least 1")
    with _naming(_name(source)):
        if is_trusted:
            clip, close = _open_here(source, limits)
            looked_at = clip.thumbnails(clip.scan_plan(), THUMBNAIL_SIZE)
        else:
            process = _process(source, "thumbnails", limits)
            looked_at, close = process.thumbnails(), process.close
        try:
            found = list(looked_at)
        finally:
            close()
        if not found:
            raise MediaError("no frame can be decoded; the file is damaged")
    times_s = [time_s for time_s, _ in found]
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    small = [np.frombuffer(levels, np.uint8).reshape(size) for _, levels in found]
    return scene_frames(times_s, scene_cuts(small, times_s, max_cuts=max_frames - 1))


def is_video_file(source: ClipSource) -> bool:
    """Whether a file is a clip, by its first bytes and not by its name.

    Animated pictures (GIF, WebP, APNG, AVIF) are pictures, sound files in containers that also hold video count
    as clips, and a path that cannot be read is none: whoever opens it says why.
    """
    if isinstance(source, bytes):
        head = source[:_MAGIC_BYTES]
    else:
        try:
            with Path(source).open("rb") as file:
                head = file.read(_MAGIC_BYTES)
        except (OSError, ValueError):
            return False
    if sniff_format(head) is not None:
        return False
    if head[4:8] == b"ftyp":
        return not ftyp_brands(head) & _PICTURE_BRANDS
    return (
        head.startswith(_MAGICS)
        or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        or head[4:8] in _OLD_QUICKTIME
        or _is_transport_stream(head)
    )


def _is_transport_stream(head: bytes) -> bool:
    """MPEG-TS: a sync byte every 188 bytes, or every 192 after a time stamp of four."""
    return any(
        len(head) > start + 4 * step and all(head[start + i * step] == 0x47 for i in range(5))
        for start, step in ((0, 188), (4, 192))
    )


def _name(source: ClipSource) -> str:
    return "video bytes" if isinstance(source, bytes) else str(source)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the file before what went wrong with it."""
    try:
        yield
    except TooManyFramesError:
        raise
    except MediaError as err:
        raise MediaError(f"{name}: {err}") from err
    except MemoryError as err:  # a size that damage made absurd
        raise MediaError(
            f"{name}: the memory does not suffice to decode it; the file is damaged, or scale it down"
        ) from err


def _named(frames: Iterator[Frame], name: str, skips_duplicates: bool) -> Iterator[Frame]:
    kept = None
    with _naming(name):
        for frame in frames:
            if skips_duplicates:
                current = thumbnail(frame.image)
                if not is_distinct(current, kept):
                    continue
                kept = current
            yield frame


def _open_source(source: ClipSource, limits: VideoLimits) -> BinaryIO | bytes:
    """An open regular file, or the bytes, neither empty nor too large."""
    if isinstance(source, bytes):
        _check_bytes(len(source), limits)
        return source
    if isinstance(source, str) and re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE):
        raise MediaError(
            "addresses are not fetched here; download the clip and pass its path or bytes"
        )
    path = Path(source)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(
                f"is {'a folder' if path.is_dir() else 'no regular file'}, expected a file"
            )
        _check_bytes(status.st_size, limits)
        return path.open("rb")
    except FileNotFoundError as err:
        raise MediaError("there is no such file") from err
    except MediaError:
        raise
    except (OSError, ValueError) as err:  # ValueError: a zero byte in the path
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise MediaError(f"cannot be read ({reason.lower()})") from err


def _check_bytes(num_bytes: int, limits: VideoLimits) -> None:
    if not num_bytes:
        raise MediaError("is empty (0 bytes)")
    if num_bytes > limits.max_bytes:
        raise MediaError(
            f"{num_bytes} bytes exceed the limit of {limits.max_bytes}; cut the clip or raise max_bytes"
        )


def _process(
    source: ClipSource,
    task: Task,
    limits: VideoLimits,
    *,
    options: VideoOptions | None = None,
    max_frames: int | None = None,
) -> VideoProcess:
    file = _open_source(source, limits)
    if isinstance(file, bytes):
        return VideoProcess(file, task, limits=limits, options=options, max_frames=max_frames)
    with file:  # the process has its own handle
        return VideoProcess(file, task, limits=limits, options=options, max_frames=max_frames)


def _open_here(source: ClipSource, limits: VideoLimits) -> tuple[Clip, Callable[[], None]]:
    """A clip in this process, and what closes it."""
    from fastvlm.processing.video_decoder import Clip  # loads FFmpeg

    opened = _open_source(source, limits)
    file: BinaryIO = io.BytesIO(opened) if isinstance(opened, bytes) else opened
    try:
        clip = Clip(file, limits)
    except BaseException:
        file.close()
        raise

    def close() -> None:
        clip.close()
        file.close()

    return clip, close
