"""`fastvlm train` and `fastvlm eval nano` as people run them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastvlm.data.synthetic.fonts import training_fonts
from fastvlm.errors import ConfigError
from fastvlm.train.scratch.recipe import recipe
from interruptible import INTERRUPTIBLE


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastvlm", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def has_training_fonts() -> bool:
    try:
        training_fonts()
    except ConfigError:
        return False
    return True


needs_fonts = pytest.mark.skipif(
    not has_training_fonts(), reason="the training fonts are not installed on this machine"
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--recipe", "mini"), "no recipe named 'mini'"),
        (("--resume",), "holds no training run"),
        (("--recipe", "nano", "--steps-scale", "0"), "expected a number above 0"),
        (("--recipe", "nano", "--device", "toaster"), "device 'toaster' is not known"),
        (("--recipe", "nano", "--lora-rank", "8"), "--lora-rank: recipe nano trains from nothing"),
        ((), "no recipe; give --recipe NAME"),
        (("--recipe", "lora"), "no training data; give --data FILE"),
        (("--recipe", "lora", "--data", "nope.json"), "nope.json cannot be read"),
    ],
)
def test_wrong_use_of_train_is_one_line(
    fastvlm, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = fastvlm("train", "--output", tmp_path / "run", *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_wrong_use_of_eval_is_one_line(fastvlm, tmp_path: Path) -> None:
    done = fastvlm("eval", "nano", "--photographs", tmp_path)
    assert done.code == 2
    assert "no pictures in" in done.err


@needs_fonts
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")
def test_a_run_can_be_stopped_resumed_and_asked(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            INTERRUPTIBLE,
            "train",
            "--recipe",
            "nano",
            "--output",
            str(folder),
            "--steps-scale",
            "0.003",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (folder / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.5)  # the run is another program; its file is the only sign of life
    # A terminal sends Ctrl-C to all processes of the run.
    os.killpg(run.pid, signal.SIGINT)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 130
    assert f"fastvlm train --resume --output {folder}" in stderr
    again = program("train", "--recipe", "nano", "--output", str(folder))
    assert again.returncode == 2
    assert "--resume" in again.stderr
    done = program("train", "--resume", "--output", str(folder), "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "model")
    log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    stages = {json.loads(line)["stage"] for line in log}
    assert stages == {stage.name for stage in recipe("nano").stages}
    report = tmp_path / "report.json"
    asked = program(
        "eval", "nano", "--model", str(folder / "model"), "--n", "2", "--json", str(report), "-q"
    )
    assert asked.returncode == 0, asked.stderr
    assert len(json.loads(report.read_text())["results"]) >= 17


def test_eval_says_at_once_that_the_report_has_no_place(fastvlm, tmp_path: Path) -> None:
    done = fastvlm("eval", "nano", "--json", tmp_path / "nowhere" / "report.json")
    assert done.code == 2
    assert "nowhere is not a folder" in done.err


def test_eval_reads_photographs_before_it_asks(fastvlm, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    done = fastvlm("eval", "nano", "--n", 1, "--photographs", tmp_path)
    assert done.code == 2
    assert "broken.jpg" in done.err
