"""Records are found at the same places that a JSON parser finds them."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import llava, write_json

from fastvlm.data import json_index
from fastvlm.data.json_file import JsonFile
from fastvlm.data.media import MediaFolder
from fastvlm.errors import DataError

NASTY = (
    '"',
    "\\",
    '\\"',
    "{",
    "}",
    "[",
    "]",
    "],[",
    "}, {",
    "\n",
    "é",
    "你好",
    "👩‍👩‍👧",
    "\\\\",
    "\u2028",
    "a,b",
)


def json_file(path: Path) -> JsonFile:
    return JsonFile(
        path, "list" if path.suffix == ".json" else "lines", MediaFolder.of_file(path, None)
    )


def test_twenty_thousand_records_with_every_nasty_character(tmp_path: Path) -> None:
    rng = random.Random(0)
    records = [
        {
            "id": str(i),
            "nested": {"a": [{"b": "".join(rng.choices(NASTY, k=i % 9))}]},
            "n": [[], {}],
        }
        for i in range(20_000)
    ]
    compact = tmp_path / "compact.json"
    compact.write_text(json.dumps(records, ensure_ascii=False, separators=(",", ":")), "utf-8")
    spread = tmp_path / "spread.json"
    spread.write_bytes(b"\xef\xbb\xbf \r\n" + json.dumps(records, indent=2).encode() + b"\n\n")
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(r, ensure_ascii=False) + "\r\n" for r in records), "utf-8")
    for path in (compact, spread, lines):
        file = json_file(path)
        assert len(file) == len(records)
        assert [file.fields(i) for i in range(len(file))] == records


@pytest.mark.parametrize("chunk_bytes", [1, 3, 64])
@settings(max_examples=20, deadline=None)
@given(
    records=st.lists(
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.text(st.sampled_from('\\"{}[],a\né你'), max_size=9) | st.integers(0, 9),
                lambda inner: (
                    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner)
                ),
                max_leaves=4,
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=6,
    ),
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
)
def test_any_cut_into_chunks_finds_the_same_records(
    records: list[object],
    indent: int | None,
    is_ascii: bool,
    chunk_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("chunks")
    path = folder / "a.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=is_ascii), "utf-8")
    lines = folder / "a.jsonl"
    lines.write_text("\n".join(json.dumps(r, ensure_ascii=is_ascii) for r in records), "utf-8")
    usual = json_index._CHUNK_BYTES
    json_index._CHUNK_BYTES = chunk_bytes  # type: ignore[misc]
    try:
        for file in (json_file(path), json_file(lines)):
            assert [file.fields(i) for i in range(len(file))] == records
    finally:
        json_index._CHUNK_BYTES = usual  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"b": 2}', "not closed: .* in or before record 1, at byte 11"),
        ('[{"a": "1}, {"b": 2}]', "not closed: .* in or before record 0, at byte 1"),
        ('[{"a": 1}] [{"b": 2}]', "text follows the list"),
        ('["junk", {"a": 1}]', "list begins with"),
        ("[]", "holds no records"),
        ('["a", "b"]', "holds no records"),
    ],
)
def test_a_list_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        json_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1} {"b": 2}]', "record 0: no comma before the next record"),
        ('[{"a": 1}, 7, {"b": 2}]', "record 0: invalid JSON"),
        ('[{"a": 1,}, {"b": 2}]', "record 0: invalid JSON"),
    ],
)
def test_a_broken_record_is_named_and_leaves_the_others(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    file = json_file(path)
    with pytest.raises(DataError, match=message):
        file.fields(0)
    assert file.fields(1) == {"b": 2}


def test_a_missing_quote_is_found_among_many_records(tmp_path: Path) -> None:
    records = [json.dumps(llava(f"What is {i}?", id=i)) for i in range(1001)]
    records[700] = records[700].replace('cat."', "cat.")
    path = tmp_path / "a.json"
    path.write_text("[" + ",\n".join(records) + "]", encoding="utf-8")
    with pytest.raises(DataError, match="in or before record 700"):
        json_file(path)


def test_blank_lines_are_no_records_and_broken_ones_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(llava("Hi?")).encode()
    path.write_bytes(b"\n" + good + b"\n\r\n\n{broken\n" + good[:-1] + b"\xff}\n" + good)
    file = json_file(path)
    assert len(file) == 4
    assert file[0].source == f"{path}, record 0"
    with pytest.raises(DataError, match="record 1: invalid JSON, Expecting property name"):
        file[1]
    with pytest.raises(DataError, match=r"record 2: byte .* is not UTF-8"):
        file[2]
    assert file[3].messages[1].text == "A cat."


def test_a_line_of_one_sign_is_a_record_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\r\n7\n\n\r\n8\n9")
    assert [json_file(path).fields(i) for i in range(4)] == [{}, 7, 8, 9]


def test_only_an_index_is_kept(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [llava("Hi? " * 200, id=i) for i in range(2000)])
    file = json_file(path)
    assert file._boundaries.nbytes == 8 * 2001
    assert file[1999].id == "1999"
    with pytest.raises(IndexError):
        file[2000]
