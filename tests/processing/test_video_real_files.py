"""Real clips. They lie outside the repository, in FASTVLM_TEST_DATA/real/videos."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.video import is_video_file, keyframe_times, read_frames

ROOT = Path(os.environ.get("FASTVLM_TEST_DATA", "")) / "real"
VIDEOS = ROOT / "videos"
pytestmark = pytest.mark.skipif(
    "FASTVLM_TEST_DATA" not in os.environ or not VIDEOS.is_dir(),
    reason="FASTVLM_TEST_DATA names no folder with real/videos",
)

CLIPS = {
    "bottles.mp4": (1189, 640, 360, "h264", True),
    "corrupted.mp4": (50, 1280, 720, "h264", True),
    "cups_shuffle.mp4": (300, 1280, 720, "h264", True),
    "frame_numbers_h265.mp4": (10, 128, 128, "hevc", True),
    "nasa_13013.mp4": (325, 320, 180, "h264", True),
    "pour_coffee.mp4": (287, 1280, 720, "h264", True),
    "squats_portrait.mp4": (65, 720, 1280, "h264", True),
    "timer_av1.mkv": (125, 640, 360, "av1", False),
}


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_eight_frames_from_first_to_last(name: str) -> None:
    num_frames, width, height, codec, is_header_trusted = CLIPS[name]
    reader = read_frames(VIDEOS / name, VideoOptions())
    info = reader.info
    assert (info.num_frames, info.width, info.height, info.codec, info.is_header_trusted) == (
        num_frames,
        width,
        height,
        codec,
        is_header_trusted,
    )
    frames = list(reader)
    assert len(frames) == 8
    assert frames[0].time_s == 0
    assert frames[-1].time_s == pytest.approx(info.duration_s - 1 / (info.fps or 1), abs=0.01)
    assert all(frame.image.size == (width, height) for frame in frames)
    assert is_video_file(VIDEOS / name)


@pytest.mark.parametrize("name", ["nasa_13013.mp4", "timer_av1.mkv", "squats_portrait.mp4"])
def test_seeking_own_process_and_full_decoding_agree(name: str) -> None:
    from fastvlm.processing.video_decoder import Clip
    from fastvlm.processing.video_info import DEFAULT_VIDEO_LIMITS

    options = VideoOptions(num_frames=5, sampling="segment")
    with (VIDEOS / name).open("rb") as file:
        clip = Clip(file, DEFAULT_VIDEO_LIMITS)
        slow = list(clip.frames(clip.plan(options), may_seek=False))
        clip.close()
    for is_trusted in (True, False):
        fast = list(read_frames(VIDEOS / name, options, is_trusted=is_trusted))
        assert [frame.time_s for frame in fast] == [frame.time_s for frame in slow]
        assert all(
            one.image.tobytes() == other.image.tobytes()
            for one, other in zip(fast, slow, strict=True)
        )


def test_times_are_those_of_another_reader() -> None:
    listed = json.loads((VIDEOS / "nasa_13013.stream0.frames.json").read_text(encoding="utf-8"))
    expected = [float(entry["pts_time"]) for entry in listed]
    options = VideoOptions(num_frames=64)
    frames = list(read_frames(VIDEOS / "nasa_13013.mp4", options, is_trusted=True))
    wanted = [expected[i * (len(expected) - 1) // 63] for i in range(64)]
    assert [frame.time_s for frame in frames] == pytest.approx(wanted, abs=1e-6)


def test_damaged_packet_in_the_middle_is_left_out() -> None:
    options = VideoOptions(sampling="timestamps", timestamps_s=(2.9, 3.0, 3.1), num_frames=3)
    frames = list(read_frames(VIDEOS / "corrupted.mp4", options))
    assert [frame.time_s for frame in frames] == [2.9, 3.1]
    alone = VideoOptions(sampling="timestamps", timestamps_s=(3.0,))
    assert [f.time_s for f in read_frames(VIDEOS / "corrupted.mp4", alone)] == [2.9]


def complaint(path: Path) -> str | None:
    """What is wrong with a file, if anything."""
    try:
        assert list(read_frames(path, VideoOptions(), is_trusted=True))
    except MediaError as err:
        return str(err)
    return None


@pytest.mark.parametrize("name", ["pour_coffee.mp4", "timer_av1.mkv"])
def test_cut_and_emptied_clips_give_one_line(name: str, tmp_path: Path) -> None:
    data = (VIDEOS / name).read_bytes()
    broken = tmp_path / "broken.mp4"
    for part in (data[:100], bytes(len(data)), data[:40] + bytes(len(data) - 40)):
        broken.write_bytes(part)
        line = complaint(broken)
        assert line is not None
        assert line.startswith(f"{broken}: ")
        assert "\n" not in line


def test_scenes_of_a_news_clip() -> None:
    assert len(keyframe_times(VIDEOS / "nasa_13013.mp4")) == 2
    assert len(keyframe_times(VIDEOS / "pour_coffee.mp4")) == 1


def test_pictures_and_documents_are_no_clips() -> None:
    for path in [*(ROOT / "images").iterdir(), *(ROOT / "odd").iterdir()]:
        assert not is_video_file(path), path.name


def test_odd_pictures_give_one_line_or_their_frames() -> None:
    lines = {path.name: complaint(path) for path in (ROOT / "odd").iterdir()}
    assert all(line is None or "\n" not in line for line in lines.values())
    assert all(name.endswith((".gif", ".avif")) for name, line in lines.items() if line is None), (
        lines
    )
