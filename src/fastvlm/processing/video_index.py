"""When each frame of a track is shown and where key frames lie, from its packets; nothing is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from av.error import FFmpegError

from fastvlm.errors import MediaError
from fastvlm.processing.frame_sampling import FrameTimes

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

MAX_FRAMES_IN_FILE: Final = 4_000_000
"""Six hours at 180 frames a second."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameIndex:
    """All frames of a track.

    Attributes:
        times: when they are shown, from the first on.
        stamps: their presentation times as decoded frames carry them, or 0, 1, 2 ... where the file has none.
        key_stamps: presentation times of key frames, ascending.
        key_places: where to seek for each of them, in decoding time.
        has_stamps: frames carry presentation times.
    """

    times: FrameTimes
    stamps: Sequence[int]
    key_stamps: list[int]
    key_places: list[int]
    has_stamps: bool


def read_index(container: InputContainer, track: VideoStream) -> FrameIndex:
    """Note every packet of a track. A file that is cut short ends where it can no longer be read."""
    shown, keys, num_unstamped = array("q"), [], 0
    last_shown: tuple[int, int] | None = None  # start and duration
    with tolerating_damage():
        for packet in container.demux(track):
            if not packet.size or packet.is_corrupt or _is_hidden(packet, track):
                continue
            if len(shown) + num_unstamped >= MAX_FRAMES_IN_FILE:
                raise MediaError(f"has more than {MAX_FRAMES_IN_FILE} frames; cut the clip")
            if packet.is_keyframe and packet.pts is not None:
                place = packet.pts if packet.dts is None else min(packet.dts, packet.pts)
                keys.append((packet.pts, place))
            if packet.is_discard:  # before the beginning that an edit list sets; decoded, not shown
                continue
            if packet.pts is None:
                num_unstamped += 1
                continue
            shown.append(packet.pts)
            last_shown = max(last_shown or (packet.pts, 0), (packet.pts, packet.duration or 0))
    num_frames = len(shown) + num_unstamped
    if not num_frames:
        raise MediaError("its video track holds no frames; the file is damaged or cut short")
    rate = track.average_rate or track.guessed_rate or Fraction(25)
    if num_unstamped or last_shown is None or not track.time_base:
        times = FrameTimes(range(num_frames), 1 / rate, num_frames)
        return FrameIndex(times, range(num_frames), [], [], has_stamps=False)
    stamps = array("q", sorted(set(shown)))
    first, last = stamps[0], stamps[-1]
    mean_gap = round((last - first) / (len(stamps) - 1)) if last > first else 0
    duration = last_shown[1] or mean_gap or round(1 / (rate * track.time_base))
    times = FrameTimes(
        array("q", (stamp - first for stamp in stamps)),
        track.time_base,
        last - first + max(duration, 1),
    )
    keys.sort()
    return FrameIndex(
        times, stamps, [stamp for stamp, _ in keys], [place for _, place in keys], has_stamps=True
    )


def _is_hidden(packet: Packet[VideoStream], track: VideoStream) -> bool:
    """A VP8 packet that is only referred to; RFC 6386 section 9.1, show_frame. Other codecs pack those in."""
    return track.codec_context.name.endswith("vp8") and not memoryview(packet)[0] >> 4 & 1


@contextmanager
def tolerating_damage() -> Generator[None]:
    """Damaged data is no error yet: what can be read before and after may be enough. Lack of memory is one."""
    try:
        yield
    except FFmpegError as err:
        if isinstance(err, MemoryError):
            raise
    except IndexError:  # PyAV, when damage makes tracks appear that were not there at the beginning
        return
