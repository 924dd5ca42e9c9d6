"""Containers, codecs and oddities, read in this process; every frame shows its number."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_files import HEIGHT, WIDTH, clip, number_of, numbered, several_tracks

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.video import read_frames
from fastvlm.processing.video_decoder import Clip
from fastvlm.processing.video_info import DEFAULT_VIDEO_LIMITS, Frame, VideoInfo

EIGHT_OF_20 = [0, 2, 5, 8, 10, 13, 16, 19]

KINDS: dict[str, dict[str, object]] = {
    "mp4": {},
    "no b-frames": {"has_b_frames": False},
    "open groups": {"options": {"x264-params": "open-gop=1:keyint=8:scenecut=0"}},
    "mkv": {"container": "matroska"},
    "webm vp8": {"container": "webm", "codec": "libvpx", "options": {"b": "2M"}},
    "webm vp9": {"container": "webm", "codec": "libvpx-vp9", "options": {"lossless": "1"}},
    "avi h264": {"container": "avi"},
    "avi mpeg4": {"container": "avi", "codec": "mpeg4", "options": {"b": "5M", "bf": "2"}},
    "avi bottom up": {"container": "avi", "codec": "rawvideo", "pix_fmt": "bgr24"},
    "flv": {"container": "flv"},
    "ts": {"container": "mpegts"},
    "mpeg": {"container": "mpeg", "codec": "mpeg2video", "options": {"b": "5M"}},
    "wmv": {"container": "asf", "codec": "wmv2", "options": {"b": "5M"}},
    "ogg": {"container": "ogg", "codec": "libvpx", "options": {"b": "5M"}},
    "gif": {"container": "gif", "codec": "gif", "pix_fmt": "rgb8"},
    "10 bit": {
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none:lossless=1"},
    },
    "yuv444p": {"pix_fmt": "yuv444p"},
    "rgb": {"container": "matroska", "codec": "ffv1", "pix_fmt": "bgr0"},
    "alpha": {"container": "mov", "codec": "png", "pix_fmt": "rgba"},
    "interlaced": {"options": {"x264-params": "interlaced=1"}},
    "ntsc": {"fps": Fraction(30000, 1001)},
}


def opened(data: bytes) -> closing[Clip]:
    return closing(Clip(io.BytesIO(data), DEFAULT_VIDEO_LIMITS))


def taken(data: bytes, **options: object) -> list[Frame]:
    with opened(data) as video:
        return list(video.frames(video.plan(VideoOptions(**options))))  # type: ignore[arg-type]


def described(data: bytes) -> VideoInfo:
    with opened(data) as video:
        return video.info()


def numbers(frames: Iterator[Frame] | list[Frame]) -> list[int]:
    return [number_of(frame.image) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_every_container_and_codec_gives_the_published_frames(kind: str) -> None:
    data = clip(20, **KINDS[kind])  # type: ignore[arg-type]
    frames = taken(data)
    assert numbers(frames) == EIGHT_OF_20
    rate = float(KINDS[kind].get("fps", 25))  # type: ignore[arg-type]
    for frame, index in zip(frames, EIGHT_OF_20, strict=True):
        assert frame.time_s == pytest.approx(index / rate, abs=1e-3)
        assert frame.image.size == (WIDTH, HEIGHT)
    assert numbers(taken(data, sampling="segment")) == [1, 3, 6, 8, 11, 13, 16, 18]
    info = described(data)
    assert info.num_frames == 20
    assert info.fps == pytest.approx(rate, rel=2e-3)
    assert info.duration_s == pytest.approx(20 / rate, abs=2e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gif", "alpha")])
def test_seeking_gives_the_frames_that_decoding_everything_gives(kind: str) -> None:
    indices = [3, 30, 31, 70, 95, 119]
    with opened(clip(120, **KINDS[kind])) as video:  # type: ignore[arg-type]
        slow = list(video.frames(indices, may_seek=False))
        fast = list(video.frames(indices))
        assert numbers(slow) == indices
        for one, other in zip(slow, fast, strict=True):
            assert one.time_s == other.time_s
            assert one.image.tobytes() == other.image.tobytes()
        if kind not in ("mpeg", "no b-frames"):  # MPEG programme streams have no index to seek in
            video._rewind()
            assert [index for index, _ in video._by_seeking(indices)] == indices


def test_header_without_a_frame_count_is_counted() -> None:
    assert described(clip(20)).is_header_trusted
    info = described(clip(20, container="matroska"))
    assert (info.num_frames, info.is_header_trusted) == (20, False)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_short_clips_give_the_frames_they_have(num_frames: int, container: str) -> None:
    data = clip(num_frames, container=container)
    for sampling in ("uniform", "segment"):
        assert numbers(taken(data, sampling=sampling)) == list(range(num_frames))
    assert described(data).fps == (25.0 if num_frames > 1 else None)
    assert described(data).duration_s == pytest.approx(num_frames / 25, abs=1e-3)


def test_variable_rate_goes_by_presentation_time() -> None:
    stamps = [0, 40, 80, 120, 160, 200, 1000, 1800, 1900, 2000]
    for container in ("mp4", "matroska"):
        frames = taken(clip(10, stamps=stamps, container=container), num_frames=3)
        assert numbers(frames) == [0, 6, 9]
        assert [frame.time_s for frame in frames] == [0.0, 1.0, 2.0]


def test_frames_before_an_edit_list_are_not_shown() -> None:
    stamps = [40 * index - 200 for index in range(20)]
    data = clip(20, stamps=stamps, container_options={"avoid_negative_ts": "disabled"})
    frames = taken(data, num_frames=20)
    assert numbers(frames) == list(range(5, 20))
    assert frames[0].time_s == 0
    assert not described(data).is_header_trusted


def test_time_starts_at_the_first_frame() -> None:
    for container in ("mp4", "matroska", "mpegts"):
        data = clip(5, stamps=[7000 + 40 * index for index in range(5)], container=container)
        assert [frame.time_s for frame in taken(data)] == [0.0, 0.04, 0.08, 0.12, 0.16]


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_turned_and_mirrored_clips_are_set_upright(degrees: int, is_mirrored: bool) -> None:
    stored = taken(clip(12, pix_fmt="yuv444p"), sampling="timestamps", timestamps_s=(0.44,))[0]
    expected = np.rot90(np.asarray(stored.image), degrees // 90)
    if is_mirrored:
        expected = expected[:, ::-1]
    data = clip(12, pix_fmt="yuv444p", rotation=degrees, is_mirrored=is_mirrored)
    (frame,) = taken(data, sampling="timestamps", timestamps_s=(0.44,))
    assert np.array_equal(np.asarray(frame.image), expected)
    info = described(data)
    assert info.rotation_degrees == -degrees % 360
    assert (info.width, info.height) == frame.image.size


def test_pixels_that_are_not_square_are_made_square() -> None:
    data = clip(20, aspect=Fraction(3, 2))
    frames = taken(data)
    assert numbers(frames) == EIGHT_OF_20
    assert frames[0].image.size == (WIDTH * 3 // 2, HEIGHT)
    assert (described(data).width, described(data).height) == (WIDTH * 3 // 2, HEIGHT)
    assert taken(clip(2, aspect=Fraction(100, 1)))[0].image.size == (WIDTH, HEIGHT)


def test_default_track_is_taken_and_covers_are_not() -> None:
    data = several_tracks()
    assert numbers(taken(data)) == [500 + index for index in EIGHT_OF_20]


def test_transparent_parts_are_white() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 4, 2, "rgba"
        pixels = np.zeros((2, 4, 4), np.uint8)
        pixels[:, 2:] = 255, 0, 0, 255
        output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        output.mux(stream.encode(None))
    (frame,) = taken(file.getvalue())
    assert [frame.image.getpixel((x, 0)) for x in (0, 3)] == [(255, 255, 255), (255, 0, 0)]
    # The worker has no file left to open by then, not even a module of Pillow's.
    (frame,) = read_frames(file.getvalue(), VideoOptions())
    assert [frame.image.getpixel((x, 0)) for x in (0, 3)] == [(255, 255, 255), (255, 0, 0)]


def test_colours_follow_the_colour_space_that_the_file_names() -> None:
    colour = np.array([30, 180, 60], np.uint8)
    for name, matrix in (("bt709", "bt709"), ("smpte170m", "bt470bg")):
        picture = np.broadcast_to(colour, (HEIGHT, WIDTH, 3))
        options = {"x264-params": f"colormatrix={name}"}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        space = "itu709" if matrix == "bt709" else "itu601"
        yuv = frame.reformat(format="yuv444p", dst_colorspace=space).to_ndarray()
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=25, options=options | {"qp": "0"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
            output.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv444p")))
            output.mux(stream.encode(None))
        (shown,) = taken(file.getvalue())
        assert np.abs(np.asarray(shown.image).astype(int) - colour).max() <= 3, name


def hole(data: bytes, start: float, end: float) -> bytes:
    """Overwrite a part of the pictures' data."""
    begin = data.index(b"mdat") + 4
    length = int.from_bytes(data[begin - 8 : begin - 4], "big") - 8
    first, last = begin + int(length * start), begin + int(length * end)
    return data[:first] + b"\xff" * (last - first) + data[last:]


def noisy(index: int) -> np.ndarray:
    """A numbered frame with noise, so that each takes its share of the file."""
    noise = np.random.default_rng(index).integers(-40, 40, (HEIGHT, WIDTH, 3))
    return np.clip(numbered(index).astype(int) + noise, 0, 255).astype(np.uint8)


def test_damage_in_the_middle_leaves_the_rest() -> None:
    data = hole(clip(80, picture=noisy, has_b_frames=False), 0.42, 0.48)
    frames = taken(data, num_frames=20)
    found, times = numbers(frames), [frame.time_s for frame in frames]
    assert len(frames) >= 15
    assert found[0] == 0
    assert found[-1] == 79
    assert len(set(found)) == len(found)
    assert times == [number / 25 for number in found]


def test_mostly_damaged_clip_names_the_time() -> None:
    data = hole(clip(80, picture=noisy, has_b_frames=False), 0.2, 0.98)
    with pytest.raises(MediaError, match=r"is damaged at \d\.\d\d s: \d+ of 20 frames cannot be"):
        taken(data, num_frames=20)


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts"])
def test_clip_that_is_cut_short_gives_what_is_there(container: str) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {}
    whole = clip(80, picture=noisy, container=container, container_options=options)
    data = whole[: len(whole) // 2]
    info = described(data)
    assert 30 <= info.num_frames <= 45
    assert not info.is_header_trusted
    found = numbers(taken(data))
    assert found[0] == 0
    assert len(found) == 8


def test_hidden_packets_of_vp8_are_no_frames() -> None:
    data = clip(6, container="webm", codec="libvpx", options={"b": "2M"})
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format="webm") as output:
        track = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if not packet.size:
                continue
            packet.stream = track
            packet.pts = packet.dts = packet.pts * 2
            output.mux(packet)
            if packet.pts == 6 * 40:
                frame_tag = bytearray(bytes(packet))
                frame_tag[0] &= ~0x10  # show_frame
                hidden = av.Packet(bytes(frame_tag))
                hidden.stream, hidden.time_base = track, packet.time_base
                hidden.pts = hidden.dts = packet.pts + 40
                output.mux(hidden)
    assert described(file.getvalue()).num_frames == 6


def test_size_that_changes_on_the_way_is_checked() -> None:
    small = clip(8, container="mpegts")
    stamps = [1000 + 40 * index for index in range(8)]
    scaled = np.zeros((HEIGHT * 4, WIDTH * 4, 3), np.uint8)
    large = clip(8, container="mpegts", stamps=stamps, picture=lambda _: scaled)
    limits = replace(DEFAULT_VIDEO_LIMITS, max_edge=320)
    with closing(Clip(io.BytesIO(small + large), limits)) as video:
        with pytest.raises(MediaError, match="640 x 192 pixels exceed the longest side of 320"):
            list(video.frames(range(16)))


def test_nothing_else_is_opened(tmp_path: os.PathLike[str]) -> None:
    """A list that FFmpeg would follow if it were allowed to."""
    (target := tmp_path / "clip.ts").write_bytes(clip(20, container="mpegts"))  # type: ignore[operator]
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{target}'\n",
    ):
        with pytest.raises(MediaError, match="is no video that can be read"):
            Clip(io.BytesIO(text.encode()), DEFAULT_VIDEO_LIMITS)


def test_thumbnails_of_key_frames_and_of_any() -> None:
    with opened(clip(40, gop=10, has_b_frames=False)) as video:
        for indices in ([0, 10, 20, 30], [1, 13, 38]):
            found = list(video.thumbnails(indices, 10))
            assert [time_s for time_s, _ in found] == [index / 25 for index in indices]
            for (_, levels), index in zip(found, indices, strict=True):
                assert number_of(Image.frombytes("L", (10, 10), levels)) == index
