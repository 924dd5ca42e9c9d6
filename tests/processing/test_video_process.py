"""A decoding process that crashes, hangs or lies is a clear line, whatever it does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from video_files import clip

from fastvlm.errors import MediaError
from fastvlm.messages import VideoOptions
from fastvlm.processing.video import VideoLimits, read_frames

INFO = (
    '{"kind": "info", "num_bytes": 0, "num_planned": 1, "info": {"duration_s": 1.0, "num_frames": 1, "fps": '
    'null, "width": 4, "height": 4, "rotation_degrees": 0, "codec": "h264", "is_header_trusted": true}}'
)

CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
HANG = "import time; time.sleep(60)"
NONSENSE = "import sys; print('x' * 10**6, flush=True); sys.stdin.read()"
UNKNOWN = 'print("[1]")'
GIANT = f"""print('''{INFO}''')
print('{{"kind": "frame", "time_s": 0, "width": 100000, "height": 100000}}')"""
NEGATIVE = f"""print('''{INFO}''')
print('{{"kind": "frame", "time_s": 0, "width": -4, "height": 4}}')"""
SHORT = f"""print('''{INFO}''')
print('{{"kind": "frame", "time_s": 0, "width": 4, "height": 4}}' + chr(10) + 'abc')"""


@pytest.fixture
def answered_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Path:
    """A clip, and an interpreter that runs another program instead of the worker."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{request.param}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    file = tmp_path / "clip.mp4"
    file.write_bytes(clip(2))
    return file


@pytest.mark.skipif(os.name == "nt", reason="Windows runs no scripts as programs")
@pytest.mark.parametrize(
    ("answered_by", "message"),
    [
        (CRASH, r"clip\.mp4: the decoder ended without an answer \(code -11\)"),
        (KILLED, r"needs more than 4096 MiB of memory"),
        (HANG, r"decoding took more than 1 s"),
        (NONSENSE, r"answered with nonsense"),
        (UNKNOWN, r"ended without an answer \(code 0\)"),
        (GIANT, r"ended without an answer"),
        (NEGATIVE, r"ended without an answer"),
        (SHORT, r"ended without an answer"),
    ],
    indirect=["answered_by"],
    ids=["crash", "killed", "hang", "nonsense", "unknown", "giant", "negative", "short"],
)
def test_process_that_misbehaves_gives_one_line(answered_by: Path, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        list(read_frames(answered_by, VideoOptions(), limits=VideoLimits(timeout_s=1)))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_worker_can_open_nothing_once_it_decodes(tmp_path: Path) -> None:
    attempt = """
import errno, socket
import fastvlm.processing.video_worker as worker
from fastvlm.processing.video_info import DEFAULT_VIDEO_LIMITS
worker._limit_resources(DEFAULT_VIDEO_LIMITS, num_held=0)
for opening in (lambda: open("/dev/null"), socket.socket):
    try:
        opening()
    except OSError as err:
        assert err.errno == errno.EMFILE
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", attempt], check=True, cwd=tmp_path)
