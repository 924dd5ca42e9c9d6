"""Shares are exact, the order follows from seed and epoch alone, and no record comes twice before all came once."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import llava, write_json

from fastvlm.data.mixture import Mixture, Place
from fastvlm.data.record import Record
from fastvlm.data.sources import read_sources
from fastvlm.errors import DataError


class Numbers:
    """A file of records without a file: an order only asks for lengths."""

    def __init__(self, size: int) -> None:
        self.name = f"{size} numbers"
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Record:
        return Record(str(index), (), f"{self.name}, record {index}")


files_and_weights = st.lists(
    st.tuples(
        st.integers(1, 12).map(Numbers),
        st.sampled_from([1, 2, 0.5, 0.1, 0.3, 1.5, Fraction(1, 3), Fraction(7, 3)]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(files_and_weights, st.integers(0, 2**32), st.integers(1, 7))
def test_counts_follow_the_weights_exactly(
    files: list[tuple[Numbers, Fraction]], seed: int, num_epochs: int
) -> None:
    mixture = Mixture(files, seed=seed)
    seen = Counter(place.file for epoch in range(num_epochs) for place in mixture.order(epoch))
    for number, (file, weight) in enumerate(files):
        exact = Fraction(str(weight)) * len(file) * num_epochs
        assert seen[number] == int(exact)


@settings(max_examples=60, deadline=None)
@given(files_and_weights, st.integers(0, 2**32))
def test_each_record_once_before_any_twice(
    files: list[tuple[Numbers, Fraction]], seed: int
) -> None:
    mixture = Mixture(files, seed=seed)
    places = [place for epoch in range(5) for place in mixture.order(epoch)]
    for number, (file, _) in enumerate(files):
        stream = [place.record for place in places if place.file == number]
        for start in range(0, len(stream), len(file)):
            one_pass = stream[start : start + len(file)]
            assert len(set(one_pass)) == len(one_pass)
            assert all(0 <= record < len(file) for record in one_pass)


def test_the_order_is_that_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[Place]:
        return list(Mixture([(Numbers(50), 1), (Numbers(30), 0.5)], seed=seed).order(epoch))

    assert order(1, 3) == order(1, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0)[:6] == [(1, 3), (1, 7), (1, 1), (0, 46), (0, 20), (0, 3)]  # for ever


def test_an_order_is_resumed_and_shared_by_place() -> None:
    order = Mixture([(Numbers(50), 1), (Numbers(30), 0.5)], seed=1).order(2)
    assert list(order[20:]) == list(order)[20:]
    shards = [list(order.shard(rank, 3)) for rank in range(3)]
    assert [len(shard) for shard in shards] == [22, 22, 21]
    assert sorted(place for shard in shards for place in shard) == sorted(order)
    assert shards[1] == list(order)[1::3]


def test_a_million_records_in_seconds() -> None:
    order = Mixture([(Numbers(1_000_000), 1), (Numbers(300_000), 0.5)]).order(4)
    assert len(order) == 1_150_000
    assert order.files.nbytes + order.indices.nbytes == 8 * len(order)


def test_files_lists_patterns_and_weights(tmp_path: Path) -> None:
    for name in ("a.json", "b.jsonl", "shards/1.jsonl", "shards/2.jsonl", "odd:0.5"):
        write_json(tmp_path / name, [llava("Hi?", id=name)])
    (tmp_path / "mix.toml").write_text(
        'files = ["a.json", "b.jsonl:0.25", {path = "shards/*.jsonl", weight = 2, media_folder = "m"}]',
        encoding="utf-8",
    )
    (tmp_path / "mix.json").write_text(json.dumps({"files": ["mix.toml:0.1"]}), encoding="utf-8")

    def found(*names: str) -> list[tuple[str, Fraction, Path | None]]:
        return [
            (source.path.relative_to(tmp_path).as_posix(), source.weight, source.media_folder)
            for source in read_sources([tmp_path / name for name in names])
        ]

    media = tmp_path / "m"
    assert found("a.json:3", "odd:0.5", "mix.toml") == [
        ("a.json", 3, None),
        ("odd:0.5", 1, None),
        ("a.json", 1, None),
        ("b.jsonl", Fraction(1, 4), None),
        ("shards/1.jsonl", 2, media),
        ("shards/2.jsonl", 2, media),
    ]
    assert found("mix.json")[0] == ("a.json", Fraction(1, 10), None)
    assert found("shards/*.jsonl:0.5")[1] == ("shards/2.jsonl", Fraction(1, 2), None)
    mixture = Mixture.open([tmp_path / "a.json", f"{tmp_path / 'b.jsonl'}:2"])
    assert mixture.num_records == 2
    assert Counter(mixture[place].id for place in mixture.order(0)) == {"a.json": 1, "b.jsonl": 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.toml", "files = [", "invalid TOML"),
        ("m.toml", "file = 'a.json'", "has no list of files"),
        ("m.toml", "files = [{path = 'a.json', wieght = 2}]", "a.json has wieght; expected path"),
        ("m.toml", "files = [{path = 'a.json', weight = 'x'}]", "weight of a.json is 'x'"),
        ("m.toml", "files = [{path = 'a.json', weight = -1}]", r"weight of .*a.json is -1.0"),
        ("m.toml", "files = [7]", "an entry of its files is 7"),
        ("m.toml", "files = ['*.parquet']", "no file matches"),
    ],
)
def test_lists_that_cannot_be_read(name: str, text: str, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [llava("Hi?")])
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        Mixture.open([tmp_path / name])


def test_no_files_and_no_weight() -> None:
    with pytest.raises(DataError, match="a mixture of no files"):
        Mixture([])
    with pytest.raises(DataError, match=r"weight of 3 numbers is 0.0"):
        Mixture([(Numbers(3), 0)])


def test_a_list_that_names_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('files = ["b.toml"]', encoding="utf-8")
    (tmp_path / "b.toml").write_text('files = ["a.toml"]', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.toml names itself as one of its files"):
        read_sources([tmp_path / "a.toml"])
