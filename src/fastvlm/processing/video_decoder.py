"""A clip opened with PyAV: an index of all frames without decoding any, then only those that are wanted.

The index is made by reading every packet once (fast: nothing is decoded), since headers lie or say nothing. The
wanted frames are found by presentation time: seek to the key frame before each and decode forward. If a seek does
not lead where the index says, everything is decoded from the beginning instead, which is the slow twin.

| what a file has | what becomes of it |
|---|---|
| several video tracks | the default one, else the first; cover pictures do not count |
| display matrix (phones) | frames are turned and mirrored upright |
| pixels that are not square | the width is scaled, as players do; aspects beyond 1:4 are taken for damage |
| 10 and 12 bits, 4:2:2, 4:4:4, palettes | converted to 8-bit RGB; no colour space named: BT.601, as FFmpeg does |
| transparency | laid on white, as with pictures |
| interlaced fields | left woven |
| high dynamic range | not tone-mapped |
| packets that cannot be decoded | the last good frame before them, once; an error above half of the frames |

FFmpeg sees the file through Python's read and seek only, and may open nothing else: no addresses, no playlists,
no external references. Loading this module loads FFmpeg.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO, Final, cast

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition
from PIL import Image

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.frame_sampling import plan_frames, scan_indices
from fastvlm.processing.video_index import read_index, tolerating_damage
from fastvlm.processing.video_info import Frame, TooManyFramesError, VideoInfo, VideoLimits

if TYPE_CHECKING:
    from av.buffer import Buffer
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_DEMUXERS: Final = "mov,matroska,avi,flv,asf,mpegts,mpeg,ogg,gif"
"""Files that hold everything they need. Playlists, concatenations, devices and single pictures are left out."""

_OPTIONS: Final = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "none"}

_NUM_THREADS: Final = 4
_BUFFER_BYTES: Final = 1 << 17

_SEEK_GAIN: Final = 12
"""Frames that a seek must save: it empties the decoder, which takes about as many to fill its threads again."""

_MAX_ASPECT: Final = 4


class _SeekMissedError(Exception):
    """A seek did not lead to the frame that the index promised."""


class Clip:
    """An open clip; close it after use.

    Args:
        file: seekable, opened for reading bytes; it stays open.
        limits: size, length; time and memory are limited by whoever runs this.

    Raises:
        MediaError: no video, damaged, or beyond a limit; the message does not name the file.
    """

    def __init__(self, file: BinaryIO, limits: VideoLimits) -> None:
        self._file = file
        self._limits = limits
        self._container, self._stream = self._open()
        try:
            context = self._stream.codec_context
            self._check_size(context.width, context.height)
            self._index = read_index(self._container, self._stream)
            self._check_duration()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give decoder and demuxer back."""
        self._container.close()

    def plan(self, options: VideoOptions, max_frames: int | None = None) -> list[int]:
        """Which frames the options ask for, as indices for `frames`.

        Raises:
            TooManyFramesError: more than `max_frames`.
            MediaError: times beyond the end.
        """
        indices = plan_frames(self._index.times, options)
        if max_frames is not None and len(indices) > max_frames:
            raise TooManyFramesError(len(indices), max_frames)
        return indices

    def scan_plan(self) -> list[int]:
        """Which frames a search for scenes looks at."""
        stamps = self._index.stamps
        key_frames = [bisect_left(stamps, stamp) for stamp in self._index.key_stamps]
        return scan_indices(
            self._index.times, [index for index in key_frames if index < len(stamps)]
        )

    def info(self) -> VideoInfo:
        """Describe the clip; decodes its first frame, which knows the way up."""
        self._rewind()
        if (frame := next(self._decoded(), None)) is None:
            raise MediaError("no frame can be decoded; the file is damaged")
        times = self._index.times
        num_frames, last = len(times.ticks), times.ticks[-1]
        width, height = self._shown_size(frame)
        matrix = _display_matrix(frame)
        if matrix.swaps_sides:
            width, height = height, width
        return VideoInfo(
            duration_s=times.duration_s,
            num_frames=num_frames,
            fps=float((num_frames - 1) / (last * times.tick_s)) if last else None,
            width=width,
            height=height,
            rotation_degrees=matrix.degrees,
            codec=self._stream.codec.canonical_name,
            is_header_trusted=self._stream.frames == num_frames,
        )

    def frames(self, indices: Sequence[int], *, may_seek: bool = True) -> Iterator[Frame]:
        """Decode frames.

        Args:
            indices: of frames, ascending.
            may_seek: False decodes everything from the beginning: slow, and the same frames.

        Raises:
            MediaError: more than half of them cannot be decoded, or one exceeds a limit.
        """
        for index, frame in self._surviving(indices, may_seek):
            time_s = self._index.times.time_s(index)
            try:
                yield Frame(self._upright(frame), time_s)
            except FFmpegError as err:
                if isinstance(err, MemoryError):
                    raise
                raise MediaError(
                    f"the frame at {time_s:.2f} s cannot be converted to RGB ({_reason(err)})"
                ) from err

    def thumbnails(self, indices: Sequence[int], size: int) -> Iterator[tuple[float, bytes]]:
        """Time in seconds and size x size levels of grey of each frame; not turned upright."""
        if set(self._index.key_stamps).issuperset(self._index.stamps[index] for index in indices):
            self._rewind(only_key_frames=True)
            found = self._in_passing(indices)
        else:
            found = self._found(indices, may_seek=True)
        for index, frame in found:
            if frame is not None:
                small = frame.reformat(size, size, "gray", interpolation="AREA", threads=1)
                yield self._index.times.time_s(index), _plane_image(small, "L").tobytes()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        self._file.seek(0)
        try:
            container = av.open(
                self._file,
                "r",
                container_options=_OPTIONS,
                buffer_size=_BUFFER_BYTES,
                metadata_errors="replace",  # titles in whatever encoding
            )
        except FFmpegError as err:
            if isinstance(err, MemoryError):
                raise
            raise MediaError(
                "is no video that can be read, or its header is damaged; accepted are MP4, MOV, MKV, WebM, "
                f"AVI, FLV, WMV, MPEG, Ogg and GIF ({_reason(err)})"
            ) from err
        try:
            stream = _video_track(container)
            stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
        except BaseException:
            container.close()
            raise
        stream.thread_count = _NUM_THREADS
        stream.thread_type = "AUTO"
        for other in container.streams:
            if other.index != stream.index:
                other.discard = Discard.all
        return container, stream

    def _rewind(self, *, only_key_frames: bool = False) -> None:
        """Open again: not every container can seek to its beginning."""
        self._container.close()
        self._container, self._stream = self._open()
        if only_key_frames:
            self._stream.codec_context.skip_frame = "NONKEY"

    def _check_size(self, width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise MediaError(
                "the size of its pictures is unknown; the file is damaged or cut short"
            )
        if max(width, height) > self._limits.max_edge:
            raise MediaError(
                f"{width} x {height} pixels exceed the longest side of {self._limits.max_edge}; scale the clip "
                "down or raise max_edge"
            )
        if width * height > self._limits.max_pixels:
            raise MediaError(
                f"{width} x {height} = {width * height / 1e6:.1f} million pixels exceed the limit of "
                f"{self._limits.max_pixels / 1e6:.1f} million; scale the clip down or raise max_pixels"
            )

    def _check_duration(self) -> None:
        if (duration_s := self._index.times.duration_s) > self._limits.max_duration_s:
            raise MediaError(
                f"{duration_s:.0f} s exceed the limit of {self._limits.max_duration_s:g} s; cut the clip or "
                "raise max_duration_s"
            )

    def _surviving(
        self, indices: Sequence[int], may_seek: bool
    ) -> Iterator[tuple[int, VideoFrame]]:
        num_lost, first_lost = 0, 0
        for index, frame in self._found(indices, may_seek):
            if frame is not None:
                yield index, frame
                continue
            first_lost = first_lost if num_lost else index
            num_lost += 1
            if 2 * num_lost > len(indices):
                raise MediaError(
                    f"is damaged at {self._index.times.time_s(first_lost):.2f} s: {num_lost} of "
                    f"{len(indices)} frames cannot be decoded"
                )

    def _found(
        self, indices: Sequence[int], may_seek: bool
    ) -> Iterator[tuple[int, VideoFrame | None]]:
        """Each wanted frame, or what stands in for it with its own index, or None."""
        num_found, last_used = 0, -1
        self._rewind()
        if may_seek and self._index.has_stamps and self._index.key_stamps:
            with suppress(_SeekMissedError):
                for found in self._by_seeking(indices):
                    yield found
                    num_found, last_used = num_found + 1, found[0]
                return
            self._rewind()
        yield from self._in_passing(indices[num_found:], last_used=last_used)

    def _by_seeking(self, indices: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        stamps, keys = self._index.stamps, self._index.key_stamps
        decoded, position = self._decoded(), 0
        for key, group in groupby(
            indices, lambda index: max(bisect_right(keys, stamps[index]) - 1, 0)
        ):
            if bisect_left(stamps, keys[key]) - position > _SEEK_GAIN:
                decoded.close()
                try:
                    self._container.seek(self._index.key_places[key], stream=self._stream)
                except FFmpegError as err:
                    raise _SeekMissedError from err
                decoded = self._decoded()
            for index in group:
                yield index, _exactly(decoded, stamps[index])
                position = index

    def _in_passing(
        self, indices: Sequence[int], *, last_used: int = -1
    ) -> Iterator[tuple[int, VideoFrame | None]]:
        """Decode on and take what is wanted as it comes by; the last unused frame stands in for a missing one."""
        stamps, wanted = self._index.stamps, deque(indices)
        spare: tuple[int, VideoFrame] | None = None
        for place, frame in enumerate(self._decoded()):
            stamp = frame.pts if self._index.has_stamps else place
            if stamp is None:
                continue
            while wanted and stamp > stamps[wanted[0]]:
                missing = wanted.popleft()
                yield spare or (missing, None)
                spare = None
            if not wanted:
                return
            if stamp == stamps[wanted[0]]:
                yield wanted.popleft(), frame
                spare = None
            elif (index := bisect_right(stamps, stamp) - 1) > last_used:
                spare = index, frame
        for missing in wanted:
            yield spare or (missing, None)
            spare = None

    def _decoded(self) -> Generator[VideoFrame]:
        """Good frames from here on, in order of presentation; packets that cannot be decoded are left out."""
        with tolerating_damage():
            for packet in self._container.demux(self._stream):
                with tolerating_damage():
                    for frame in packet.decode():
                        if not frame.is_corrupt:
                            self._check_size(frame.width, frame.height)
                            yield frame

    def _shown_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height with square pixels, before turning."""
        aspect, width = self._stream.sample_aspect_ratio, frame.width
        if aspect and Fraction(1, _MAX_ASPECT) <= aspect <= _MAX_ASPECT:
            width = max(round(width * aspect), 1)
            self._check_size(width, frame.height)
        return width, frame.height

    def _upright(self, frame: VideoFrame) -> Image.Image:
        width, height = self._shown_size(frame)
        pixel_format = frame.format
        has_alpha = pixel_format.has_palette or any(c.is_alpha for c in pixel_format.components)
        mode, name = ("RGBA", "rgba") if has_alpha else ("RGB", "rgb24")
        image = _plane_image(frame.reformat(width, height, name, threads=1), mode)
        if has_alpha:
            paper = Image.new("RGB", image.size, (255, 255, 255))
            paper.paste(image, mask=image)
            image = paper
        return _display_matrix(frame).apply(image)


@dataclass(frozen=True, slots=True)
class _DisplayMatrix:
    """How a stored frame is turned and mirrored to be shown: a point (x, y) goes to (a x + c y, b x + d y).

    Free angles, which cameras do not write, go to the nearest quarter turn. ISO/IEC 14496-12 section 8.2.2.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @property
    def swaps_sides(self) -> bool:
        return abs(self.b) > abs(self.a)

    @property
    def degrees(self) -> int:
        """The clockwise turn, before a mirroring from left to right if there is one."""
        if self.swaps_sides:
            return 90 if self.b > 0 else 270
        return 0 if self.d >= 0 else 180

    def apply(self, image: Image.Image) -> Image.Image:
        if self.swaps_sides:
            image = image.transpose(Image.Transpose.TRANSPOSE)
            mirrors, flips = self.c < 0, self.b < 0
        else:
            mirrors, flips = self.a < 0, self.d < 0
        if mirrors:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if flips else image


def _display_matrix(frame: VideoFrame) -> _DisplayMatrix:
    found = cast("Mapping[str, Buffer]", frame.side_data).get("DISPLAYMATRIX")
    if found is None:
        return _DisplayMatrix()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    return _DisplayMatrix(a, b, c, d)


def _plane_image(frame: VideoFrame, mode: str) -> Image.Image:
    """Packed pixels as a picture; negative strides are rows from bottom to top."""
    plane = frame.planes[0]
    stride, direction = abs(plane.line_size), 1 if plane.line_size > 0 else -1
    size = (frame.width, frame.height)
    return Image.frombytes(mode, size, bytes(plane), "raw", mode, stride, direction)


def _exactly(decoded: Iterator[VideoFrame], stamp: int) -> VideoFrame:
    for frame in decoded:
        if frame.pts == stamp:
            return frame
        if frame.pts is None or frame.pts > stamp:
            break
    raise _SeekMissedError


def _video_track(container: InputContainer) -> VideoStream:
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [track for track in container.streams.video if not track.disposition & covers]
    if not tracks:
        kinds = sorted({stream.type for stream in container.streams})
        raise MediaError(
            f"has no video track (only {', '.join(kinds) or 'nothing'}); expected a clip with moving pictures"
        )
    track = next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
    if cast("object", track.codec_context) is None:  # typed as always there
        raise MediaError("its codec is not known to this FFmpeg; convert the clip to H.264 first")
    return track


def _reason(err: FFmpegError) -> str:
    return (err.strerror or type(err).__name__).lower()
