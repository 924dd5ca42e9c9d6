from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fastvlm import load

Run = Callable[..., "object"]


@pytest.fixture
def chat(fastvlm: Run, tiny_folder: Path) -> Run:
    return partial(fastvlm, "chat", "--model", tiny_folder, "--max-new-tokens", 6)


def test_piped_lines_are_turns_of_one_conversation(
    chat: Run, tiny_folder: Path, pictures: Path
) -> None:
    result = chat(pictures / "a.png", stdin="What color?\n\nAnd now?\n")
    talk = load(tiny_folder).chat(max_new_tokens=6)
    expected = [talk.ask("What color?", [pictures / "a.png"]).text, talk.ask("And now?").text]
    assert result.out == "".join(f"{text}\n" for text in expected)
    assert result.code == 0


def test_picture_is_added_and_forgotten(chat: Run, tiny_folder: Path, pictures: Path) -> None:
    result = chat(stdin=f"/image {pictures / 'a.png'}\nHi\n/reset\nHi\n")
    model = load(tiny_folder)
    with_picture = model.ask("Hi", [pictures / "a.png"], max_new_tokens=6).text
    assert result.out == f"{with_picture}\n{model.ask('Hi', max_new_tokens=6).text}\n"


def test_mistakes_do_not_end_the_conversation(chat: Run, tmp_path: Path) -> None:
    result = chat(stdin="/image nowhere.png\n/dance\n/save\nHi\n/quit\nnever read\n")
    assert result.code == 0
    assert "nowhere.png" in result.err
    assert "'/dance' is no command" in result.err
    assert "'/save' is no command" in result.err
    assert len(result.out.splitlines()) >= 1


def test_picture_waits_for_a_question_that_fits(
    chat: Run, tiny_folder: Path, pictures: Path
) -> None:
    result = chat(stdin=f"/image {pictures / 'a.png'}\n{'word ' * 3000}\nHi\n")
    assert "exceeds max_length" in result.err
    answer = load(tiny_folder).ask("Hi", [pictures / "a.png"], max_new_tokens=6)
    assert result.out == f"{answer.text}\n"


def test_standard_input_is_no_picture_here(chat: Run) -> None:
    result = chat("-", stdin="Hi\n")
    assert result.code == 2
    assert "standard input is the conversation" in result.err


def test_conversation_is_saved_but_never_over_a_file(chat: Run, tmp_path: Path) -> None:
    target = tmp_path / "talk.txt"
    result = chat(stdin=f"Hi\n/stats\n/save {target}\n/save {target}\n")
    saved = target.read_text(encoding="utf-8")
    assert saved.startswith("user: Hi\nassistant: ")
    assert "ttft" in result.err
    assert "exists already" in result.err
