"""From a file to frames as callers see it, in a process of its own and in this one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from picture_files import encoded, gradient
from video_files import HEIGHT, WIDTH, clip, number_of, numbered, sound, with_lies

from fastvlm.errors import ConfigError, MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.video import (
    DEFAULT_VIDEO_LIMITS,
    Frame,
    TooManyFramesError,
    VideoLimits,
    is_video_file,
    keyframe_times,
    probe_video,
    read_frames,
)

EIGHT_OF_20 = [0, 2, 5, 8, 10, 13, 16, 19]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    file.write_bytes(clip(20))
    return file


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(frame.image) for frame in frames]


def workers() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_frames_of_a_path(path: Path, is_trusted: bool) -> None:
    reader = read_frames(path, VideoOptions(), is_trusted=is_trusted)
    assert (reader.info.num_frames, reader.info.fps, reader.info.codec) == (20, 25.0, "h264")
    assert (reader.info.width, reader.info.height) == (WIDTH, HEIGHT)
    assert reader.num_planned == 8
    frames = list(reader)
    assert numbers(frames) == EIGHT_OF_20
    assert [frame.time_s for frame in frames] == [index / 25 for index in EIGHT_OF_20]
    assert all(frame.image.mode == "RGB" for frame in frames)
    assert not workers()


def test_own_process_and_this_one_give_the_same(path: Path) -> None:
    options = VideoOptions(num_frames=5, sampling="segment")
    ours, theirs = (read_frames(path, options, is_trusted=trust) for trust in (True, False))
    assert ours.info == theirs.info == probe_video(path) == probe_video(path, is_trusted=True)
    for one, other in zip(ours, theirs, strict=True):
        assert one.time_s == other.time_s
        assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_bytes_are_taken_like_a_file(path: Path, is_trusted: bool) -> None:
    frames = list(read_frames(path.read_bytes(), VideoOptions(), is_trusted=is_trusted))
    assert numbers(frames) == EIGHT_OF_20


@pytest.mark.parametrize("is_trusted", [False, True])
def test_too_many_frames_are_refused_before_decoding(path: Path, is_trusted: bool) -> None:
    with pytest.raises(
        TooManyFramesError, match="8 frames are planned, but there is room for 5"
    ) as e:
        read_frames(path, VideoOptions(), max_frames=5, is_trusted=is_trusted)
    assert (e.value.num_planned, e.value.max_frames) == (8, 5)
    assert numbers(
        list(read_frames(path, VideoOptions(), max_frames=8, is_trusted=is_trusted))
    ) == (EIGHT_OF_20)


def test_name_of_the_file_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_bytes(clip(20, container="matroska"))
    assert numbers(list(read_frames(str(file), VideoOptions()))) == EIGHT_OF_20


def test_odd_paths_are_read(tmp_path: Path) -> None:
    for name in ("concat:a|b", "ünïcode clip.mp4", "-i.mp4", "a;b'c.mp4"):
        if sys.platform == "win32" and ":" in name:
            continue
        file = tmp_path / name
        file.write_bytes(clip(3))
        assert numbers(list(read_frames(file, VideoOptions()))) == [0, 1, 2]


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"hello " * 100, "is no video that can be read"),
    "picture": (encoded(gradient(), "PNG"), "is no video that can be read"),
    "sound": (sound(), r"has no video track \(only audio\)"),
    "head only": (clip(20)[:200], "is no video that can be read, or its header is damaged"),
    "playlist": (b"#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", "is no video that can be read"),
    "concat list": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "is no video that can be read"),
    "session": (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "is no video that can"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_clip_gives_one_clear_line(kind: str, tmp_path: Path) -> None:
    data, message = REFUSED[kind]
    file = tmp_path / "clip.mp4"
    file.write_bytes(data)
    for is_trusted in (True, False) if kind in ("sound", "playlist") else (True,):
        with pytest.raises(MediaError, match=rf"clip\.mp4: {message}") as error:
            read_frames(file, VideoOptions(), is_trusted=is_trusted)
        assert "\n" not in str(error.value)


def test_missing_file_folder_pipe_and_address(tmp_path: Path) -> None:
    for source, message in (
        (tmp_path / "none.mp4", "none.mp4: there is no such file"),
        (tmp_path, "is a folder, expected a file"),
        ("https://example.org/a.mp4", "addresses are not fetched here; download the clip"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(MediaError, match=message):
            probe_video(source)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(MediaError, match="is no regular file"):
            probe_video(tmp_path / "pipe")


@pytest.mark.parametrize("is_trusted", [False, True])
def test_limits_name_themselves(path: Path, is_trusted: bool) -> None:
    for limit, message in (
        ({"max_bytes": 1000}, r"bytes exceed the limit of 1000; cut the clip or raise max_bytes"),
        ({"max_pixels": 5000}, r"160 x 48 = 0\.0 million pixels .* raise max_pixels"),
        ({"max_edge": 100}, "160 x 48 pixels exceed the longest side of 100; .* raise max_edge"),
        ({"max_duration_s": 0.5}, r"1 s exceed the limit of 0\.5 s; .* raise max_duration_s"),
    ):
        limits = replace(DEFAULT_VIDEO_LIMITS, **limit)  # type: ignore[arg-type]
        with pytest.raises(MediaError, match=message):
            read_frames(path, VideoOptions(), limits=limits, is_trusted=is_trusted)


def test_limits_must_make_sense() -> None:
    with pytest.raises(ConfigError, match="timeout_s is 0, expected more than 0 seconds"):
        VideoLimits(timeout_s=0)
    with pytest.raises(ConfigError, match="max_bytes is 0, expected at least 1"):
        VideoLimits(max_bytes=0)


def test_three_hours_in_the_header_are_not_believed() -> None:
    info = probe_video(with_lies(clip(20), hours=3))
    assert (info.duration_s, info.num_frames) == (0.8, 20)


@pytest.mark.parametrize("num_samples", [1000, 10**9])
def test_header_of_a_billion_frames_neither_hangs_nor_allocates(num_samples: int) -> None:
    started = time.monotonic()
    with pytest.raises(MediaError, match="the file is damaged"):
        probe_video(with_lies(clip(20), hours=3, num_samples=num_samples))
    assert time.monotonic() - started < 20


def test_time_is_limited(path: Path) -> None:
    limits = VideoLimits(timeout_s=0.001)
    with pytest.raises(MediaError, match=r"took more than 0\.001 s; .* raise timeout_s"):
        read_frames(path, VideoOptions(), limits=limits)
    assert not workers()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")
def test_memory_is_limited() -> None:
    picture = np.zeros((3000, 4000, 3), np.uint8)
    large = clip(2, container="mov", codec="png", pix_fmt="rgb24", picture=lambda _: picture)
    assert len(list(read_frames(large, VideoOptions()))) == 2
    limits = VideoLimits(memory_bytes=250 * 2**20)
    assert len(list(read_frames(clip(2), VideoOptions(), limits=limits))) == 2
    with pytest.raises(
        MediaError, match=r"needs more than 250 MiB of memory; .* raise memory_bytes"
    ):
        list(read_frames(large, VideoOptions(), limits=limits))


def _leave_loop(path: Path) -> None:
    for _ in read_frames(path, VideoOptions()):
        break


def _close(path: Path) -> None:
    with read_frames(path, VideoOptions()) as reader:
        next(reader)


def _drop_untouched(path: Path) -> None:
    read_frames(path, VideoOptions())


@pytest.mark.parametrize("way", [_leave_loop, _close, _drop_untouched])
def test_process_ends_when_nobody_wants_its_frames(way: Callable[[Path], None], path: Path) -> None:
    way(path)
    gc.collect()
    assert not workers()


INTERRUPTED = """
import signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from fastvlm.messages import VideoOptions
from fastvlm.processing.video import read_frames
reader = read_frames(sys.argv[1], VideoOptions())
next(reader)
try:
    print(reader.close.peek()[2][0].pid, flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is no signal on Windows")
def test_interrupt_ends_both_processes(path: Path) -> None:
    import signal

    program = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=30)
    assert (program.returncode, stderr) == (7, b"")
    assert not psutil.pid_exists(worker)


def test_package_loads_no_ffmpeg_and_the_worker_no_torch_or_numpy(path: Path) -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, fastvlm.processing.video as v; v.is_video_file(sys.argv[1]); "
            "v.probe_video(sys.argv[1]); assert 'av' not in sys.modules; "
            "import fastvlm.processing.video_worker; "
            "assert 'av' in sys.modules and 'torch' not in sys.modules",
            str(path),
        ],
        check=False,
        capture_output=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    alone = "import sys, fastvlm.processing.video_worker; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", alone], check=True)


def scenes(index: int) -> np.ndarray:
    """Two seconds of dark frames, two of bright ones, two of stripes."""
    if index < 50:
        return np.full((48, 160, 3), 20, np.uint8)
    if index < 100:
        return np.full((48, 160, 3), 220, np.uint8)
    return np.tile(np.array([0, 255], np.uint8).repeat(10), (48, 8))[:, :160, None].repeat(3, 2)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_one_time_for_each_scene(is_trusted: bool) -> None:
    data = clip(150, picture=scenes)
    found = keyframe_times(data, is_trusted=is_trusted)
    assert len(found) == 3
    assert [int(time_s // 2) for time_s in found] == [0, 1, 2]
    assert len(keyframe_times(data, max_frames=2, is_trusted=True)) == 2
    assert len(keyframe_times(data, max_frames=1, is_trusted=True)) == 1
    options = VideoOptions(sampling="timestamps", timestamps_s=tuple(found))
    assert [frame.time_s for frame in read_frames(data, options, is_trusted=True)] == found


def test_scenes_of_a_long_clip_come_from_its_key_frames() -> None:
    data = clip(1600, fps=25, picture=lambda i: scenes(i // 11), gop=50)
    found = keyframe_times(data, is_trusted=True)
    assert [int(time_s // 22) for time_s in found] == [0, 1, 2]


def test_duplicates_are_left_out_on_demand() -> None:
    data = clip(20, picture=lambda index: numbered(index // 7))
    every = list(read_frames(data, VideoOptions(num_frames=20), is_trusted=True))
    assert len(every) == 20
    options = VideoOptions(num_frames=20, skip_duplicates=True)
    kept = list(read_frames(data, options, is_trusted=True))
    assert numbers(kept) == [0, 1, 2]
    assert [frame.time_s for frame in kept] == [0, 7 / 25, 14 / 25]


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("matroska", "libx264"),
        ("webm", "libvpx"),
        ("avi", "mpeg4"),
        ("flv", "libx264"),
        ("mpeg", "mpeg2video"),
        ("mpegts", "libx264"),
        ("asf", "wmv2"),
        ("ogg", "libvpx"),
    ],
)
def test_clips_are_told_by_content(container: str, codec: str, tmp_path: Path) -> None:
    data = clip(20, container=container, codec=codec)
    assert is_video_file(data)
    (tmp_path / "a.png").write_bytes(data)
    assert is_video_file(tmp_path / "a.png")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_pictures_are_no_clips(image_format: str) -> None:
    assert not is_video_file(encoded(gradient(), image_format))


def test_other_things_are_no_clips(tmp_path: Path) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    for data in (b"", b"G" * 100, b"RIFF\0\0\0\0WAVE", heic, b"hello world"):
        assert not is_video_file(data)
    assert not is_video_file(tmp_path / "missing.mp4")
    assert not is_video_file(tmp_path)
