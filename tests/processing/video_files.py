"""Small clips for tests, written by PyAV. Every frame shows its own number, in black and white bars."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image

NUM_BARS = 10
BAR = 16
WIDTH, HEIGHT = NUM_BARS * BAR, 48

Picture = Callable[[int], NDArray[np.uint8]]


def numbered(index: int) -> NDArray[np.uint8]:
    """Frame `index` as uint8 [48, 160, 3]: its binary digits as bars, the lowest at the left."""
    digits = np.array([index >> bit & 1 for bit in range(NUM_BARS)], np.uint8) * 255
    return np.broadcast_to(np.repeat(digits, BAR)[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(image: Image.Image) -> int:
    """Read the number of a frame, at whatever size it is."""
    grey = np.asarray(image.convert("L").resize((NUM_BARS, 1), Image.Resampling.BOX))
    assert not ((grey > 60) & (grey < 195)).any(), grey
    return sum(int(level > 127) << bit for bit, level in enumerate(grey[0]))


def clip(
    num_frames: int = 20,
    *,
    fps: int | Fraction = 25,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    picture: Picture = numbered,
    gop: int = 8,
    has_b_frames: bool = True,
    rotation: int | None = None,
    is_mirrored: bool = False,
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> bytes:
    """A clip as the bytes of its file.

    Args:
        stamps: presentation time of each frame in milliseconds, instead of a constant rate.
        rotation: counter-clockwise degrees of the display matrix.
        picture: gives the frames.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=1000 if stamps else fps)
        context = stream.codec_context
        height, width = picture(0).shape[:2]
        context.width, context.height, context.pix_fmt = width, height, pix_fmt
        context.time_base = Fraction(1, 1000) if stamps else 1 / Fraction(fps)
        context.gop_size = gop
        if codec == "libx264":
            bframes = {"bf": "2", "b_strategy": "0"} if has_b_frames else {"bf": "0"}
            context.options = {"preset": "ultrafast", "qp": "0", "sc_threshold": "0"} | bframes
        context.options = dict(context.options) | (options or {})
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation, is_mirrored, False)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts = stamps[index] if stamps else index
            frame.time_base = context.time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def sound(container: str = "mp4") -> bytes:
    """Half a second of silence and no picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        _write_silence(output)
    return file.getvalue()


def several_tracks() -> bytes:
    """Sound, a cover picture, a clip of 20 numbered frames, and another of 20 frames numbered from 500."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        cover = output.add_stream("png", rate=25)
        cover.codec_context.width, cover.codec_context.height = WIDTH, HEIGHT
        cover.codec_context.pix_fmt = "rgb24"
        cover.disposition = Disposition.attached_pic
        tracks = [output.add_stream("libx264", rate=25) for _ in range(2)]
        for track in tracks:
            track.codec_context.width, track.codec_context.height = WIDTH, HEIGHT
            track.codec_context.pix_fmt = "yuv420p"
        tracks[0].disposition, tracks[1].disposition = Disposition(0), Disposition.default
        frame = av.VideoFrame.from_ndarray(numbered(999), format="rgb24")
        output.mux(cover.encode(frame))
        output.mux(cover.encode(None))
        for index in range(20):
            for track, start in zip(tracks, (0, 500), strict=True):
                frame = av.VideoFrame.from_ndarray(numbered(start + index), format="rgb24")
                frame.pts = index
                output.mux(track.encode(frame))
        for track in tracks:
            output.mux(track.encode(None))
    return file.getvalue()


def _write_silence(output: av.container.OutputContainer) -> None:
    stream = output.add_stream("aac", rate=16000, layout="mono")
    for start in range(0, 8000, 1024):
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate, frame.pts = 16000, start
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def with_lies(data: bytes, *, hours: int, num_samples: int | None = None) -> bytes:
    """An MP4 whose header claims so many hours and, if given, frames of one byte each."""
    file = bytearray(data)
    for box, scale_at, duration_at in (("mvhd", 12, 16), ("mdhd", 12, 16)):
        place = data.index(box.encode()) + 4
        (scale,) = struct.unpack_from(">I", data, place + scale_at)
        struct.pack_into(">I", file, place + duration_at, min(scale * 3600 * hours, 2**32 - 1))
    if num_samples is not None:
        place = data.index(b"stts") + 4
        struct.pack_into(">I", file, place + 8, num_samples)
        place = data.index(b"stsz") + 4
        struct.pack_into(">II", file, place + 4, 1, num_samples)
        place = data.index(b"stsc") + 4
        struct.pack_into(">I", file, place + 12, num_samples)
    return bytes(file)
