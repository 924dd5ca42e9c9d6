from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from drawn_clips import circle, write_circles, write_sound
from PIL import Image

from fastvlm import load
from fastvlm.cli.clips import parse_time
from fastvlm.errors import ConfigError
from fastvlm.messages import VideoOptions
from interruptible import INTERRUPTIBLE

Run = Callable[..., "object"]

QUESTION = "What color is the circle?"
ONE_WORD = f"{QUESTION} Answer in one word."


@pytest.fixture(scope="session")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight seconds: red, four of blue, green."""
    folder = tmp_path_factory.mktemp("clips")
    return write_circles(folder / "circles.mp4", ["red", "blue", "blue", "green"])


@pytest.fixture
def video(fastvlm: Run) -> Run:
    return partial(fastvlm, "video", "--trust")


def record_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_joint_answer_alone_stands_on_stdout(video: Run, circles: Path) -> None:
    result = video(circles, "-p", QUESTION, "--frames", 4)
    expected = load("nano").ask(QUESTION, videos=circles, num_frames=4).text
    assert (result.code, result.out, result.err) == (0, f"{expected}\n", "")
    assert video(circles, "-p", QUESTION, "--frames", 4, "--stream").out == result.out


def test_each_frame_has_its_time_and_answer(video: Run, circles: Path) -> None:
    result = video(circles, "-p", ONE_WORD, "--mode", "per-frame", "--fps", 0.5)
    assert result.code == 0
    assert result.out.splitlines() == [
        "00:00:00.0  Red",
        "00:00:02.0  Blue",
        "00:00:04.0  Blue",
        "00:00:06.0  Green",
    ]


def test_process_of_its_own_and_batches_give_the_same(fastvlm: Run, circles: Path) -> None:
    arguments = ("video", circles, "-p", QUESTION, "--mode", "per-frame", "--fps", 0.5)
    alone = fastvlm(*arguments, "--trust")
    assert fastvlm(*arguments, "--batch-size", 3).out == alone.out


def test_windows_are_answered_one_by_one(video: Run, circles: Path) -> None:
    result = video(circles, "-p", QUESTION, "--window", 2, "--frames", 1)
    assert result.out.splitlines() == [
        "00:00:00.0 - 00:00:02.0  The circle is red.",
        "00:00:02.0 - 00:00:04.0  The circle is blue.",
        "00:00:04.0 - 00:00:06.0  The circle is blue.",
        "00:00:06.0 - 00:00:08.0  The circle is green.",
    ]


def test_frames_of_windows_come_once(video: Run, circles: Path) -> None:
    arguments = ("-p", ONE_WORD, "--mode", "per-frame", "--frames", 64)
    whole = video(circles, *arguments).out.splitlines()
    assert len(whole) == 32
    assert video(circles, *arguments, "--window", "0:02").out.splitlines() == whole


def test_frame_at_the_end_is_not_answered(video: Run, circles: Path) -> None:
    result = video(
        *(circles, "-p", ONE_WORD, "--mode", "per-frame", "--fps", 1, "--srt", "-"),
        *("--start", 4, "--end", "0:06"),
    )
    times = re.findall(r"^.* --> .*$", result.out, re.M)
    assert times == ["00:00:04,000 --> 00:00:05,000", "00:00:05,000 --> 00:00:06,000"]


def test_equal_answers_are_merged(video: Run, circles: Path, tmp_path: Path) -> None:
    srt, vtt = tmp_path / "a.srt", tmp_path / "a.vtt"
    result = video(
        *(circles, "-p", QUESTION, "--mode", "per-frame", "--fps", 0.5, "--merge"),
        *("--srt", srt, "--vtt", vtt),
    )
    assert result.out.splitlines() == [
        "00:00:00.0  The circle is red.",
        "00:00:02.0  The circle is blue.",
        "00:00:06.0  The circle is green.",
    ]
    assert srt.read_bytes() == (
        b"1\n00:00:00,000 --> 00:00:02,000\nThe circle is red.\n\n"
        b"2\n00:00:02,000 --> 00:00:06,000\nThe circle is blue.\n\n"
        b"3\n00:00:06,000 --> 00:00:08,000\nThe circle is green.\n"
    )
    assert vtt.read_text(encoding="utf-8").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.srt", "a.vtt"]
    assert f"{srt}: 3 cues" in result.err


def test_records_hold_times_tokens_timings_and_options(video: Run, circles: Path) -> None:
    result = video(
        *(circles, "-p", QUESTION, "--window", 5, "--stride", 3, "--frames", 2, "--jsonl", "-"),
    )
    first, second = record_lines(result.out)
    assert first["input"] == str(circles)
    assert (first["start_s"], first["end_s"]) == (0.0, 3.0)
    assert first["frame_times_s"] == [0.0, 5.0]
    assert (second["start_s"], second["end_s"]) == (3.0, 8.0)
    assert first["usage"]["image_tokens"] == 2 * 9
    timings = first["timings"]
    assert timings["ttft_ms"] >= timings["preprocess_ms"] + timings["vision_ms"] > 0
    assert first["options"]["prompt"] == QUESTION
    assert first["options"]["window_s"] == 5
    assert first["options"]["num_frames"] == 2
    assert first["error"] is None


def test_key_frames_leave_duplicates_out(video: Run, circles: Path) -> None:
    result = video(circles, "-p", ONE_WORD, "--mode", "per-frame", "--keyframes", "--frames", 12)
    answers = [line.split("  ")[1] for line in result.out.splitlines()]
    assert answers == ["Red", "Blue", "Green"]
    assert re.search(r"12 frames looked at, 9 left out", result.err)


@pytest.mark.parametrize(
    ("arguments", "times_s"),
    [
        (["--timestamps", "6.5,0:00,2"], [0.0, 2.0, 6.5]),
        (["--sampling", "segment", "--frames", 2], [2.0, 6.0]),
        (["--start", "0:04", "--end", "6", "--fps", 1], [4.0, 5.0, 6.0]),
        (["--frames", 1], [0.0]),
    ],
)
def test_frames_are_those_that_were_asked_for(
    video: Run, circles: Path, arguments: list[object], times_s: list[float]
) -> None:
    (record,) = record_lines(video(circles, "--jsonl", "-", *arguments).out)
    assert record["frame_times_s"] == times_s


def test_rate_that_gives_too_many_frames_is_said(video: Run, circles: Path) -> None:
    result = video(circles, "-p", QUESTION, "--fps", 4, "--frames", 8)
    assert "--fps 4 gives more than 8 frames" in result.err


def test_tokens_are_shown_and_the_frame_size_counts(video: Run, circles: Path) -> None:
    result = video(circles, "-p", QUESTION, "--frames", 3, "--frame-size", 64, "--stats")
    assert re.match(r"3 frames x 1 tokens \+ \d+ of text = \d+ of max_length 2048; ", result.err)


def test_frames_that_do_not_fit_are_one_line_in_words_of_the_command(
    video: Run, circles: Path
) -> None:
    result = video(circles, "--frames", 32, "--frame-size", 1024)
    assert (result.code, result.out) == (2, "")
    assert len(result.err.splitlines()) == 1
    assert str(circles) in result.err
    assert "32 frames x 256 tokens = 8192 exceeds" in result.err
    assert "lower --frames to 7 or lower --frame-size to 448" in result.err


def test_standard_input_is_a_clip(video: Run, circles: Path) -> None:
    result = video("-", "-p", QUESTION, stdin=circles.read_bytes())
    assert result.out == video(circles, "-p", QUESTION).out
    assert "standard input is empty" in video("-").err


def test_animation_is_a_clip_here_and_a_picture_for_predict(
    video: Run, fastvlm: Run, tmp_path: Path
) -> None:
    path = tmp_path / "circles.gif"
    first, second = (Image.fromarray(circle(colour)) for colour in ("red", "blue"))
    first.save(path, save_all=True, append_images=[second], duration=1000)
    frames = video(path, "-p", ONE_WORD, "--mode", "per-frame")
    assert frames.out.splitlines() == ["00:00:00.0  Red", "00:00:01.0  Blue"]
    assert fastvlm("predict", path, "-p", ONE_WORD).out == "Red\n"


def test_several_clips_and_one_that_is_broken(video: Run, circles: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(circles.read_bytes()[:500])
    result = video(broken, circles, "-p", QUESTION, "--jsonl", "-")
    first, second = record_lines(result.out)
    assert "broken.mp4" in first["error"]
    assert second["error"] is None
    assert result.code == 3


def test_files_that_are_no_clip_are_one_clear_line(
    video: Run, circles: Path, tmp_path: Path
) -> None:
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "notes.mp4").write_text("no clip", encoding="utf-8")
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    write_sound(tmp_path / "sound.mp4")
    for name, message in (
        ("missing.mp4", "there is no such file"),
        ("zero.mp4", "is empty"),
        ("notes.mp4", "is no video"),
        ("sound.mp4", "no video track"),
        ("picture.png", "`fastvlm predict`"),
    ):
        result = video(tmp_path / name)
        assert (result.code, result.out) == (2, ""), name
        assert name in result.err
        assert message in result.err
        assert len(result.err.splitlines()) == 1


def test_wrong_extension_and_one_frame_do_not_matter(video: Run, tmp_path: Path) -> None:
    clip = write_circles(tmp_path / "circle.mp4", ["green"]).rename(tmp_path / "circle.txt")
    assert video(clip, "-p", QUESTION, "--frames", 1).out == "The circle is green.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "0"], "--frames is 0"),
        (["--frames", "65"], "--frames is 65"),
        (["--fps", "0"], "fps is 0"),
        (["--sampling", "fps"], "sampling is 'fps' but fps is not given"),
        (["--sampling", "random"], "--sampling"),
        (["--start", "5", "--end", "3"], "is empty"),
        (["--start", "1:99"], "--start is '1:99'"),
        (["--timestamps", "1,x"], "--timestamps is 'x'"),
        (["--keyframes", "--fps", "1"], "--keyframes chooses the frames"),
        (["--stride", "1"], "--stride goes with --window"),
        (["--window", "0"], "--window is 0 s"),
        (["--window", "1", "--timestamps", "1"], "exclude each other"),
        (["--mode", "per-frame", "--time-marks"], "--time-marks"),
        (["--batch-size", "2"], "--batch-size goes with"),
        (["--mode", "per-frame", "--batch-size", "2", "--num-beams", "2"], "--num-beams"),
        (["--srt", "clip.mp4"], "ends in .srt"),
        (["--vtt", "nowhere/a.vtt"], "no folder nowhere"),
        (["--srt", "-", "--jsonl", "-"], "only one of"),
        (["--prompt", " "], "the prompt is empty"),
        (["--max-duration", "soon"], "--max-duration is 'soon'"),
        (["--frame-size", "16"], "--frame-size"),
        (["other.mp4", "--srt", "a.srt"], "for one clip, but there are 2"),
        (["--start", "99"], "--start is 99, but the clip is 8.000 s long"),
        (["--window", "2", "--start", "99"], "--start is 99, but the clip is 8.000 s long"),
        (["--timestamps", "99"], "timestamp 99 s lies outside"),
        (["--max-pixels", "100"], "--max-pixels"),
        (["--max-duration", "0:05"], "--max-duration"),
    ],
)
def test_wrong_use_is_one_clear_line_and_exit_code_2(
    video: Run, circles: Path, arguments: list[str], message: str
) -> None:
    result = video(circles, *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12.5", 12.5), ("0:12", 12), ("90:00", 5400), ("1:02:03.5", 3723.5), (".5", 0.5), ("7.", 7)],
)
def test_times_are_seconds_or_clock_times(text: str, seconds: float) -> None:
    assert parse_time(text, "--start") == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:2:3:4", "1:60", "1:60:00", "1e3", "nan", "1,5"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--end is"):
        parse_time(text, "--end")


def test_earlier_file_stays_when_nothing_was_answered(
    video: Run, circles: Path, tmp_path: Path
) -> None:
    srt = tmp_path / "a.srt"
    srt.write_text("kept", encoding="utf-8")
    assert video(tmp_path / "missing.mp4", "--srt", srt).code == 2
    assert srt.read_text(encoding="utf-8") == "kept"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt_keeps_what_is_finished(tmp_path: Path) -> None:
    clip = write_circles(tmp_path / "long.mp4", ["red", "blue", "green"] * 40)
    srt, jsonl = tmp_path / "a.srt", tmp_path / "a.jsonl"
    arguments = [clip, "-p", QUESTION, "--window", "0.5", "--frames", "1"]
    arguments += ["--srt", srt, "--jsonl", jsonl, "--threads", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "video", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    lines += rest.splitlines()
    assert 3 <= len(lines) < 480
    records = record_lines(jsonl.read_text(encoding="utf-8"))
    assert len(lines) <= len(records) <= len(lines) + 1
    blocks = srt.read_text(encoding="utf-8").split("\n\n")
    assert [block.splitlines()[2] for block in blocks] == [record["text"] for record in records]
    assert records[0]["text"] == "The circle is red."


def test_bar_is_drawn_on_a_terminal_and_answers_stay_out_of_it(circles: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fastvlm", "video", str(circles), "-p", QUESTION]
    with subprocess.Popen(
        [*command, "--window", "2", "--frames", "1", "--threads", "1"],
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "50"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        seen = b""
        while chunk := _read_terminal(ours):
            seen += chunk
        stdout, _ = process.communicate(timeout=60)
    os.close(ours)
    assert len(stdout.splitlines()) == 4
    assert b"\x1b" not in stdout
    assert "━".encode() in seen
    assert b"of 00:00:08.0" in seen
    assert b"circle is" not in seen


def _read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""  # Linux: nobody has the other end open any more


REAL_VIDEOS = Path(os.environ.get("FASTVLM_TEST_DATA", "")) / "real" / "videos"


@pytest.mark.skipif(
    "FASTVLM_TEST_DATA" not in os.environ or not REAL_VIDEOS.is_dir(),
    reason="FASTVLM_TEST_DATA names no folder with real/videos",
)
def test_every_real_clip_is_answered(fastvlm: Run) -> None:
    clips = sorted(path for path in REAL_VIDEOS.iterdir() if path.suffix in (".mp4", ".mkv"))
    result = fastvlm("video", *clips, "--frames", 2, "--max-new-tokens", 2, "--jsonl", "-")
    records = record_lines(result.out)
    assert [record["error"] for record in records] == [None] * len(clips)
    assert all(len(record["frame_times_s"]) == 2 for record in records)
    assert result.code == 0


def test_predict_takes_clips_among_pictures(
    fastvlm: Run, circles: Path, pictures: Path, tiny_folder: Path
) -> None:
    ask = partial(fastvlm, "predict", "--model", tiny_folder, "--max-new-tokens", 4, "-p", "Hi")
    lines = record_lines(ask(circles, pictures / "a.png", "--frames", 3, "--jsonl").out)
    assert [line["usage"]["image_tokens"] for line in lines] == [3 * 16, 16]
    together = ask(pictures / "a.png", circles, "--together", "--json", "--frames", 2)
    assert json.loads(together.out)["usage"]["image_tokens"] == 3 * 16
    piped = ask("-", "--json", stdin=circles.read_bytes())
    assert json.loads(piped.out)["usage"]["image_tokens"] == 8 * 16
    refused = ask(circles, "--frames", 64, "--image-size", 1024)
    assert refused.code == 2
    assert "lower --frames to" in refused.err


def test_folder_stands_for_its_pictures_only(
    fastvlm: Run, circles: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").write_bytes(circles.read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    ask = partial(fastvlm, "predict", "--model", tiny_folder, "--max-new-tokens", 2, "--jsonl")
    assert [Path(line["input"]).name for line in record_lines(ask(tmp_path).out)] == ["a.png"]
    assert len(record_lines(ask(tmp_path / "*").out)) == 2


def test_chat_shows_a_clip_once(fastvlm: Run, circles: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.txt"
    lines = [f"/video {circles}", "What color is the circle?", "How many shapes are there?"]
    result = fastvlm("chat", "--frames", 3, stdin="\n".join([*lines, "/stats", f"/save {saved}"]))
    talk = load("nano").chat(max_new_tokens=512)
    options = VideoOptions(num_frames=3)
    expected = [
        talk.ask(lines[1], videos=circles, video_options=options).text,
        talk.ask(lines[2]).text,
    ]
    assert result.out.splitlines() == expected
    assert "vision 0," in result.err
    assert "(27 image)" in result.err
    assert saved.read_text(encoding="utf-8").startswith("user: [clip] What color")


def test_chat_says_at_once_that_a_clip_does_not_fit(fastvlm: Run, circles: Path) -> None:
    result = fastvlm("chat", "--frames", 32, "--image-size", 1024, stdin=f"/video {circles}\n")
    assert "lower --frames to 8" in result.err
    assert result.code == 0
