"""What comes from one source stays in one part, and stays there when records are added."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from record_files import llava, write_json

from fastvlm.data.split import split_records
from fastvlm.errors import ConfigError, DataError


def part_files(folder: Path, suffix: str = ".json") -> list[list[dict[str, Any]]]:
    texts = [
        (folder / f"all-{name}{suffix}").read_text("utf-8") for name in ("train", "val", "test")
    ]
    if suffix == ".json":
        return [json.loads(text) for text in texts]
    return [[json.loads(line) for line in text.splitlines()] for text in texts]


def questions(num_pictures: int, each: int = 3) -> list[dict[str, Any]]:
    records = [
        llava(
            f"<image>\nQuestion {q}é?", image=f"video{i // 5}/{i}.jpg", id=f"{i}-{q}", person=i % 40
        )
        for i in range(num_pictures)
        for q in range(each)
    ]
    random.Random(0).shuffle(records)
    return records


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("by", "source"),
    [
        ("media", lambda record: record["image"]),
        ("folder", lambda record: record["image"].partition("/")[0]),
        ("person", lambda record: record["person"]),
    ],
)
def test_sources_stay_together(by: str, source: Any, suffix: str, tmp_path: Path) -> None:
    records = questions(400)
    path = write_json(tmp_path / f"all{suffix}", records)
    parts = split_records(path, tmp_path / "out", by=by)
    written = part_files(tmp_path / "out", suffix)
    sources = [{source(record) for record in part} for part in written]
    assert not (sources[0] & sources[1] | sources[0] & sources[2] | sources[1] & sources[2])
    assert [len(part) for part in written] == [part.num_records for part in parts]
    assert [len(part) for part in sources] == [part.num_sources for part in parts]
    assert sorted(map(json.dumps, records)) == sorted(
        json.dumps(r) for part in written for r in part
    )
    assert [record for record in records if source(record) in sources[1]] == written[1]  # in order


def test_fractions_are_about_right(tmp_path: Path) -> None:
    path = write_json(tmp_path / "all.json", questions(2000, each=1))
    parts = split_records(path, tmp_path, fractions=(0.7, 0.2, 0.1))
    assert [part.num_sources / 2000 for part in parts] == pytest.approx([0.7, 0.2, 0.1], abs=0.03)


def test_added_records_do_not_move_old_sources(tmp_path: Path) -> None:
    records = questions(300)
    write_json(tmp_path / "all.json", records[:500])
    split_records(tmp_path / "all.json", tmp_path / "before")
    write_json(tmp_path / "elsewhere" / "all.json", records)
    split_records(tmp_path / "elsewhere" / "all.json", tmp_path / "after")
    for before, after in zip(
        part_files(tmp_path / "before"), part_files(tmp_path / "after"), strict=True
    ):
        assert {record["id"] for record in before} <= {record["id"] for record in after}


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    path = write_json(tmp_path / "all.json", questions(100))
    split_records(path, tmp_path / "a", seed=0)
    split_records(path, tmp_path / "b", seed=1)
    assert part_files(tmp_path / "a") != part_files(tmp_path / "b")


def test_pictures_that_a_record_shares_are_tied(tmp_path: Path) -> None:
    records = [
        llava("<image>\n<image>\nSame?", image=[f"{i}.jpg", f"{i + 1}.jpg"])
        for i in range(0, 300, 3)
    ] + [llava("<image>\nWhat?", image=f"{i}.jpg") for i in range(300)]
    path = write_json(tmp_path / "all.json", records)
    split_records(path, tmp_path)
    part_of: dict[str, int] = {}
    for number, part in enumerate(part_files(tmp_path)):
        for record in part:
            names = record["image"] if isinstance(record["image"], list) else [record["image"]]
            assert {part_of.setdefault(name, number) for name in names} == {number}


def test_records_without_media_go_by_id_or_words(tmp_path: Path) -> None:
    records = [llava(f"What is {i}?", id=f"s{i}") for i in range(60)]
    records += [llava(f"Who is {i % 60}?") for i in range(120)]
    path = write_json(tmp_path / "all.json", records)
    split_records(path, tmp_path)
    words = [{json.dumps(record) for record in part} for part in part_files(tmp_path)]
    assert not words[0] & (words[1] | words[2])
    assert not words[1] & words[2]


def test_what_cannot_be_split(tmp_path: Path) -> None:
    path = write_json(tmp_path / "all.json", questions(30))
    with pytest.raises(ConfigError, match=r"fractions are 0.5, 0.6; expected .* sum to 1"):
        split_records(path, tmp_path, fractions=(0.5, 0.6))
    with pytest.raises(ConfigError, match="4 fractions but the names none"):
        split_records(path, tmp_path, fractions=(0.25,) * 4)
    with pytest.raises(DataError, match="record 0: its field 'speaker' is None"):
        split_records(path, tmp_path, by="speaker")
    one = write_json(tmp_path / "one.json", questions(1))
    with pytest.raises(DataError, match="would get none of the 1 sources"):
        split_records(one, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    split_records(path, tmp_path)
    with pytest.raises(DataError, match=r"all-train.json exists already"):
        split_records(path, tmp_path)
    split_records(path, tmp_path, overwrite=True)
    broken = write_json(tmp_path / "broken.json", [*questions(30), {"id": "x"}])
    with pytest.raises(DataError, match="record 90: has the fields id"):
        split_records(broken, tmp_path)
