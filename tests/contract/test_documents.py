"""What README and docs show is what happens: code blocks run, console blocks print what stands under them,
tables equal the committed measurements."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[object]:
    """Every fenced block of this language in README and docs, named by file and number."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for number, block in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
        ):
            found.append(pytest.param(block, id=f"{document.stem}-{number + 1}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(code, "document", "exec"), {})


@pytest.mark.parametrize("session", blocks("console"))
def test_console_blocks_print_what_they_show(session: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.M):
        program, *arguments = shlex.split(command)
        assert program == "fastvlm"
        done = subprocess.run(
            [sys.executable, "-m", "fastvlm", *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        )
        assert done.stdout == shown


def render_nano() -> str:
    from fastvlm.evaluate.nano import markdown_table

    path = ROOT / "benchmarks" / "nano_eval.json"
    return markdown_table(json.loads(path.read_text(encoding="utf-8")))


def render_nano_video() -> str:
    from fastvlm.evaluate.nano_video import video_markdown_table

    path = ROOT / "benchmarks" / "nano_video_eval.json"
    return video_markdown_table(json.loads(path.read_text(encoding="utf-8")))


def render_latency() -> str:
    from fastvlm.bench.report import render_tables

    return render_tables(ROOT / "benchmarks")


@pytest.mark.parametrize(
    ("name", "render"),
    [("nano", render_nano), ("nano-video", render_nano_video), ("latency", render_latency)],
)
def test_readme_tables_equal_the_measurements(name: str, render: Callable[[], str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- table: {name} -->\n(.*?)\n?<!-- end -->", text, re.S)
    assert shown is not None
    assert shown[1].strip() == render().strip()
