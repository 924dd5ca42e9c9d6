"""The nano task: counting, its table, and the embedded model on it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm.engine import Engine
from fastvlm.errors import ConfigError
from fastvlm.evaluate.nano import (
    KindResult,
    NanoReport,
    evaluate_nano,
    false_declines,
    is_right,
    markdown_table,
)


@pytest.fixture(scope="module")
def nano() -> Engine:
    return Engine.load("nano", dtype="float32")


@pytest.mark.parametrize(
    ("answer", "expected", "verdict"),
    [
        ("Red", "red", True),
        ("The circle is red.", "the circle is red", True),
        (" 3 ", "3", True),
        ("The circle is red. It", "The circle is red.", False),
        ("Top", "Top left", False),
        ("", "No", False),
    ],
)
def test_answers_count_but_for_case_space_and_period(
    answer: str, expected: str, verdict: bool
) -> None:
    assert is_right(answer, expected) is verdict


def result(kind: str, right: int, declined: int) -> KindResult:
    return KindResult(
        kind=kind, title=f"about {kind}", num_questions=10, num_correct=right, num_declined=declined
    )


REPORT = NanoReport(
    model="nano",
    seed=0,
    fonts=("/somewhere/One.ttf",),
    results=(result("colour", 9, 1), result("count", 10, 0), result("decline", 8, 8)),
)


def test_false_declines_leave_out_what_should_be_declined() -> None:
    assert false_declines(REPORT) == (1, 20)


def test_the_table_shows_counts_and_intervals() -> None:
    lines = markdown_table(json.loads(json.dumps(REPORT.as_json()))).splitlines()
    assert lines[2] == "| about colour | 9 | 10 | 0.900 | 0.596 to 0.982 |"
    assert "| 1 | 20 | 0.050 |" in lines[-1]
    assert all(line.count("|") == 6 for line in lines)
    assert REPORT.as_json()["fonts"] == ["One.ttf"]


def test_the_embedded_model_is_asked_about_everything(nano: Engine, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="the second renderer is in the extra `eval`")
    photograph = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photograph)
    seen: list[str] = []
    report = evaluate_nano(
        nano,
        num_questions=4,
        photographs=[photograph],
        on_progress=lambda title, done, total: seen.append(f"{title} {done}/{total}"),
    )
    by_kind = {one.kind: one for one in report.results}
    assert len(by_kind) == len(report.results) == len(seen)
    assert by_kind["second_renderer"].num_questions == 8
    assert by_kind["photographs"].num_questions == 5
    assert by_kind["background"].num_correct >= 3
    assert by_kind["decline"].num_correct >= 3
    again = evaluate_nano(nano, num_questions=4, photographs=[photograph])
    assert again == report


def test_no_questions_is_an_error(nano: Engine) -> None:
    with pytest.raises(ConfigError, match="n is 0"):
        evaluate_nano(nano, num_questions=0)
