"""Real photographs, charts and receipts are answered; damaged and hostile files are one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(os.environ.get("FASTVLM_TEST_DATA", "")) / "real"
PICTURES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif", ".mpo"}

pytestmark = pytest.mark.skipif(
    not os.environ.get("FASTVLM_TEST_DATA"),
    reason="set FASTVLM_TEST_DATA to a folder with real/images, real/charts, real/receipts and real/odd",
)

# Runs the program and ends with its peak memory in KiB on stderr.
MEASURED = """
import resource, sys
from fastvlm.cli.app import main
try:
    main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.parametrize("folder", ["images", "charts", "receipts"])
def test_every_real_picture_is_answered(
    fastvlm: Callable[..., object], tiny_folder: Path, folder: str
) -> None:
    result = fastvlm(
        "predict", DATA / folder, "--model", tiny_folder, "--jsonl", "--max-new-tokens", 2
    )
    records = [json.loads(line) for line in result.out.splitlines()]
    files = [path for path in (DATA / folder).iterdir() if path.suffix.lower() in PICTURES]
    assert len(records) == len(files) > 0
    assert [record["error"] for record in records] == [None] * len(files)
    assert result.code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read by resource, POSIX only")
def test_every_odd_file_is_a_picture_or_one_clear_line(tiny_folder: Path) -> None:
    files = sorted(path for path in (DATA / "odd").iterdir() if path.suffix != ".json")
    command = [sys.executable, "-c", MEASURED, "predict", "--model", str(tiny_folder), "--jsonl"]
    command += ["--max-new-tokens", "1"]
    plain = run([*command, str(DATA / "odd" / "gen_1x1.png")])
    done = run([*command, *map(str, files)])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == len(files) > 40
    for path, record in zip(files, records, strict=True):
        assert record["input"] == str(path)
        if record["error"] is not None:
            assert path.name in record["error"]
            assert "\n" not in record["error"]
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert peak_bytes(done) - peak_bytes(plain) < 1.5e9


@pytest.mark.parametrize(
    "name", ["gen_zero_byte.jpg", "gen_vector.svg", "gen_minimal.pdf", "gen_bomb_900mp.png"]
)
def test_one_bad_file_is_exit_code_2(
    fastvlm: Callable[..., object], tiny_folder: Path, name: str
) -> None:
    result = fastvlm("predict", DATA / "odd" / name, "--model", tiny_folder)
    assert (result.code, result.out) == (2, "")
    assert name in result.err
    assert len(result.err.splitlines()) == 1


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def peak_bytes(done: subprocess.CompletedProcess[str]) -> int:
    kibibytes = int(done.stderr.rsplit("peak ", 1)[1])
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024  # macOS counts bytes
