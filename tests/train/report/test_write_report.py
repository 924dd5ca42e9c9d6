"""The page and its plots, of whole and of broken runs."""

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from fastvlm.errors import ConfigError, MissingExtraError
from fastvlm.train.report import write_report

_PLOTS = ["grad_norm", "learning_rate", "loss", "memory", "metrics", "throughput"]
_VOID = {"meta", "img", "source", "br"}


class _Checker(HTMLParser):
    """Tags that close in order, and every address that the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        if tag not in _VOID:
            self.open.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "srcset", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def _read(page: Path) -> tuple[str, list[str]]:
    checker = _Checker()
    checker.feed(page.read_text("utf-8"))
    checker.close()
    assert checker.open == []
    return re.sub(r"\s+", " ", " ".join(checker.text)), checker.addresses


def test_a_whole_run(make_run: Callable[[], Path]) -> None:
    folder = make_run()
    page = write_report(folder)
    assert page == folder / "report" / "index.html"
    assert sorted(path.stem for path in page.parent.glob("*.png")) == _PLOTS
    assert not list(page.parent.glob(".*"))
    with Image.open(page.parent / "loss.png") as plot:
        assert plot.width == 840
    text, addresses = _read(page)
    assert len(addresses) == 2 * len(_PLOTS) + 5  # five of six examples have their thumbnail
    assert all(address.startswith("data:image/") for address in addresses)
    assert "Validation: exact match 25.0 % before, 79.0 % after, +54.0 points" in text
    assert "Images: exact match 81.2 % before, 80.9 % after, -0.3 points (95 % interval" in text
    assert "no difference shown" in text
    assert "The training loss was not finite at 2 step(s): 50, 51." in text
    assert "resumed from an earlier step 1 time(s)" in text
    assert "1 of 137 lines of log.jsonl are damaged" in text
    assert "120 steps, 3 phases" in text
    assert "3.11 M 67.8 % of 4.59 M" in text
    assert "thumbnails/4.png" in text  # the missing picture is named


def test_markup_in_names_stays_text(make_run: Callable[[], Path]) -> None:
    text, _ = _read(write_report(make_run()))
    assert "Which <b>colour</b> has $x$?" in text
    assert "data/<photos>.json" in text


@pytest.mark.parametrize("kept", ["log.jsonl", "run.json", "comparison.json"])
def test_one_file_is_enough(make_run: Callable[[], Path], kept: str) -> None:
    folder = make_run()
    for name in {"log.jsonl", "run.json", "comparison.json"} - {kept}:
        (folder / name).unlink()
    text, _ = _read(write_report(folder))
    assert ("log.jsonl is missing: no curves." in text) == (kept != "log.jsonl")
    assert ("run.json is missing." in text) == (kept != "run.json")
    assert ("has not measured the model before" in text) == (kept != "comparison.json")


_ODD_LOGS = {
    "empty": "",
    "garbage": "\x00\xff\nnot json\n[1]\n3\n",
    "no numbers": '{"step": 1}\n{"step": 2, "loss": "high", "eval": 5, "learning_rates": [1]}\n',
    "all nan": '{"step": 1, "loss": NaN, "grad_norm": Infinity, "eval": {"loss": NaN, "bleu": NaN}}\n',
    "one step": '{"step": 0, "loss": 2.5, "time": 1}\n',
    "huge": '{"step": 1, "loss": 1e308, "time": 1e308}\n{"step": 2, "loss": -1e308, "time": NaN}\n',
    "all zero": '{"step": 1, "loss": 0, "grad_norm": 0}\n{"step": 2, "loss": 0, "grad_norm": 0}\n',
    "digits": '{"step": 1, "loss": ' + "9" * 400 + "}\n",
    "odd names": '{"step": 1, "phase": "$\\\\frac<b>", "eval": {"\u6307\u6807_$": 1, "<i>": 0.5}}\n'
    '{"step": 2, "phase": "\u76f8", "loss": 1}\n',
}  # fmt: skip


@pytest.mark.parametrize("name", list(_ODD_LOGS))
def test_odd_logs_never_fail(tmp_path: Path, name: str) -> None:
    (tmp_path / "log.jsonl").write_text(_ODD_LOGS[name], "utf-8")
    text, _ = _read(write_report(tmp_path))
    assert "Curves" in text


def test_zero_gradients_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(_ODD_LOGS["all zero"], "utf-8")
    assert "All gradient norms are 0" in _read(write_report(tmp_path))[0]


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"sets": [], "examples": {}},
        {"sets": {"images": None, "validation": {"base": 3}}, "examples": [1, {}, {"media": 5}]},
        {"sets": {"images": {"base": {"exact_match": float("nan")}, "tuned": {"exact_match": 2}, "n": 0}}},
        {"sets": {"images": {"base": {"exact_match": 1}, "tuned": {"exact_match": 1}, "n": 3, "pairs": [9, 0, 0, 0]}}},
        {"examples": [{"thumbnail": "../log.jsonl", "media": "a.mp4", "reference": ["a", "b"]}]},
    ],
)  # fmt: skip
def test_odd_comparisons_never_fail(tmp_path: Path, document: object) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "log.jsonl").write_text("secret", "utf-8")
    (folder / "comparison.json").write_text(json.dumps(document), "utf-8")
    text, _ = _read(write_report(folder))
    assert "secret" not in text


def test_plots_of_an_older_report_go(make_run: Callable[[], Path]) -> None:
    folder = make_run()
    report = write_report(folder).parent
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 1}\n', "utf-8")
    write_report(folder)
    assert [path.name for path in report.glob("*.png")] == ["loss.png"]


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds none of log\.jsonl, run\.json"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        write_report(tmp_path / "nothing")
    (tmp_path / "log.jsonl").touch()
    (tmp_path / "report").touch()
    with pytest.raises(ConfigError, match="report cannot be written"):
        write_report(tmp_path)


def test_a_missing_package_is_named(
    make_run: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"fastvlm\[train\]"):
        write_report(folder)
    assert not (folder / "report").exists()
