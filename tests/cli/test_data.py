"""`fastvlm data` as a user runs it: tables, exit codes, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fastvlm.cli.data import app
from fastvlm.errors import ConfigError, DataError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def record(answer: str = "Red.", **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat color?"}, {"from": "gpt", "value": answer}]
    return {**fields, "conversations": turns}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """train.json with a missing picture and an empty answer, clean.json without, val.jsonl that leaks."""
    for i in range(20):
        Image.new("RGB", (40, 30), (i * 12, 0, 0)).save(tmp_path / f"{i}.png")
    clean = [record(image=f"{i}.png", id=str(i)) for i in range(20)]
    broken = [*clean, record(image="gone.png"), record("", image="3.png")]
    (tmp_path / "clean.json").write_text(json.dumps(clean), encoding="utf-8")
    (tmp_path / "train.json").write_text(json.dumps(broken), encoding="utf-8")
    (tmp_path / "val.jsonl").write_text(
        json.dumps(record("Blue.", image="4.png")), encoding="utf-8"
    )
    return tmp_path


def test_a_clean_file_leaves_with_0(folder: Path) -> None:
    result = run("check", folder / "clean.json")
    assert result.exit_code == 0
    assert "20 pictures, 0 clips, 0 records of text only" in result.stdout
    assert "longest 36, max_length 2,048" in result.stdout
    assert result.stdout.endswith("nothing wrong\n")


def test_broken_records_leave_with_3_and_are_named(folder: Path) -> None:
    result = run("check", folder / "train.json")
    assert result.exit_code == 3
    assert f"train.json, record 20: {folder / 'gone.png'}: there is no such file" in result.stdout
    assert "record 21: turn 1 (assistant) is an empty answer" in result.stdout
    assert result.stdout.endswith("2 problems\n")


def test_a_leak_is_a_problem(folder: Path) -> None:
    result = run("check", folder / "clean.json", "--other-split", folder / "val.jsonl")
    assert result.exit_code == 3
    assert "media in both splits" in result.stdout
    assert f"clean.json, record 4: also in {folder / 'val.jsonl'}, record 0" in result.stdout


def test_the_report_as_json(folder: Path) -> None:
    result = run("check", folder / "train.json", "--json", "--max-length", 20)
    report = json.loads(result.stdout)
    assert {kind: found["count"] for kind, found in report["problems"].items()} == {
        "too long": 20,
        "missing media": 1,
        "empty answer": 1,
    }
    assert report["lengths"]["max_length"] == 20
    assert report["files"] == [[str(folder / "train.json"), 22, 22]]


def test_fast_and_sample_say_that_they_did_not_see_all(folder: Path) -> None:
    (folder / "5.png").write_bytes(b"no picture")
    assert run("check", folder / "clean.json").exit_code == 3
    for options in (("--fast",), ("--sample", 3)):
        result = run("check", folder / "clean.json", *options)
        assert result.exit_code == 0
        assert "nothing wrong, but not everything was looked at" in result.stdout


def test_the_contact_sheet_is_written(folder: Path) -> None:
    sheet = folder / "sheet.png"
    assert run("check", folder / "train.json", "--contact-sheet", sheet).exit_code == 3
    with Image.open(sheet) as image:
        assert image.size[0] == 4 * 312 + 12
    assert sorted(path.name for path in folder.glob(".*")) == []


def test_lists_of_files(folder: Path) -> None:
    (folder / "mix.toml").write_text('files = ["clean.json", "val.jsonl:0.5"]', encoding="utf-8")
    result = run("check", folder / "mix.toml", "--fast")
    assert result.exit_code == 0
    assert "21 pictures" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["check", "gone.json"], DataError, "gone.json: there is no such file"),
        (["check", "0.png"], DataError, "expected a JSON list or JSON Lines"),
        (["check", "clean.json", "--sample", "0"], ConfigError, "--sample is 0"),
        (["check", "clean.json", "--frames", "0"], ConfigError, "num_frames is 0"),
        (["check", "clean.json", "--contact-sheet", "a.jpg"], DataError, "contact sheet a.jpg"),
        (["check", "clean.json", "--media-folder", "gone"], DataError, "media folder gone"),
        (["split", "clean.json", "--fractions", "a,b"], ConfigError, "fractions are 'a,b'"),
        (["split", "0.png"], DataError, "expected a JSON list or JSON Lines"),
    ],
)
def test_what_cannot_work_is_one_line(
    arguments: list[str],
    error: type[Exception],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_split_prints_sources_and_records(folder: Path) -> None:
    result = run("split", folder / "clean.json", "--fractions", "0.5,0.5", "--names", "a,b")
    assert result.exit_code == 0
    parts = [json.loads((folder / f"clean-{name}.json").read_text("utf-8")) for name in "ab"]
    assert sum(map(len, parts)) == 20
    for name, part in zip("ab", parts, strict=True):
        line = next(line for line in result.stdout.splitlines() if f"clean-{name}.json" in line)
        assert line.split()[-2:] == [str(len(part)), str(len(part))]
    assert (
        run("check", folder / "clean-a.json", "--other-split", folder / "clean-b.json").exit_code
        == 0
    )


def test_split_elsewhere_says_where_media_are(folder: Path) -> None:
    result = run("split", folder / "clean.json", "--output", folder / "out", "--seed", 5)
    assert f"paths in them are still relative to {folder}" in result.stdout
    train = folder / "out" / "clean-train.json"
    assert run("check", train).exit_code == 3
    assert run("check", train, "--media-folder", folder).exit_code == 0
