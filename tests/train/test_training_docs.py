"""The tables of docs/training.md are those of the code. To write them anew, run this file with python."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from fastvlm.train.llava_arguments import translate
from fastvlm.train.llava_table import ARGUMENTS
from fastvlm.train.settings import list_recipes, list_settings, read_recipe, settings_from

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def recipes_table() -> Iterator[str]:
    yield "| preset | what it does |"
    yield "|---|---|"
    for name, about in list_recipes().items():
        yield f"| `{name}` | {about} |"


def settings_table() -> Iterator[str]:
    for group, settings in groupby(list_settings(), key=lambda one: one.doc.group):
        yield from (f"**{group}**", "", "| setting | default | what it does |", "|---|---|---|")
        for one in settings:
            shown = one.default
            if isinstance(shown, bool):
                shown = "on" if shown else "off"
            elif shown in (None, (), ""):
                shown = ""
            yield f"| `{one.name}` | {shown} | {one.doc.text} |"
        yield ""


def arguments_table() -> Iterator[str]:
    yield "| argument | becomes |"
    yield "|---|---|"
    for one in ARGUMENTS:
        yield f"| `{one.name}` | {one.becomes} |"


TABLES = {"recipes": recipes_table, "settings": settings_table, "arguments": arguments_table}


def block(name: str) -> str:
    lines = "\n".join(TABLES[name]()).strip()
    return f"<!-- {name}, written by tests/train/test_training_docs.py -->\n{lines}\n<!-- end -->"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_the_code(name: str) -> None:
    assert block(name) in PAGE.read_text("utf-8")


def test_recipes_on_the_page_can_be_read(tmp_path: Path) -> None:
    found = re.findall(r"```toml\n(about.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(found) == 2
    for text in found:
        (tmp_path / "own.toml").write_text(text, "utf-8")
        assert read_recipe(str(tmp_path / "own.toml"))


def test_the_line_of_apples_script_on_the_page_is_understood() -> None:
    (line,) = re.findall(r'--llava-args "(.*?)"', PAGE.read_text("utf-8"), re.DOTALL)
    translated = translate(shlex.split(line.replace("\\\n", " ")))
    assert settings_from(translated.settings, where="the page").data == ("a.json",)


def rewrite() -> None:
    text = PAGE.read_text("utf-8")
    for name in TABLES:
        before, _, rest = text.partition(f"<!-- {name}, ")
        text = before + block(name) + rest.partition("<!-- end -->")[2]
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    rewrite()
