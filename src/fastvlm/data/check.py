"""Look through files of records before a run: what is broken, how long, twice there, or in two splits.

Of each record a few numbers are kept, never the record: a million of them take some 50 MB.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fastvlm.data.media_probe import MediaFacts, MediaProbe, hash_64
from fastvlm.data.record import Record, RecordFile
from fastvlm.data.token_count import count_tokens
from fastvlm.errors import DataError, FastVLMError
from fastvlm.messages import TextPart, VideoPart
from fastvlm.processing.processor import Processor

NUM_EXAMPLES: Final = 5
_BIN_EDGES: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_FILE_SHIFT: Final = 40

Progress = Callable[[int], None]
"""Told how many records are done."""


@dataclass(slots=True)
class Findings:
    """Records of one kind of trouble: how many, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the records of the first split."""

    mean: float
    median: int
    longest: int
    max_length: int
    """Of the model."""
    bins: tuple[tuple[int, int], ...]
    """Upper end in tokens, and records up to it that the bin before does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check found.

    Attributes:
        files: name, records, and records looked at, of each file; those of the other split last.
        num_pictures: pictures named by the records of the first split.
        num_clips: clips.
        num_text_only: records without either.
        problems: by kind, records that cannot be trained on as they are, or that stand in both splits.
        notes: by kind, what is worth a look.
        lengths: None without a processor.
        is_complete: all records were looked at, and their media opened.
    """

    files: tuple[tuple[str, int, int], ...]
    num_pictures: int
    num_clips: int
    num_text_only: int
    problems: dict[str, Findings]
    notes: dict[str, Findings]
    lengths: Lengths | None
    is_complete: bool

    @property
    def num_problems(self) -> int:
        return sum(found.count for found in self.problems.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def check_files(
    files: Sequence[RecordFile],
    *,
    other_split: Sequence[RecordFile] = (),
    processor: Processor | None = None,
    opens_media: bool = True,
    max_records: int | None = None,
    on_progress: Progress = lambda _: None,
) -> CheckReport:
    """Look at every record, its media, and whether it is there twice.

    Args:
        files: of one split.
        other_split: files that must not share media or conversations with `files`; checked likewise.
        processor: of the model to be trained, for lengths in tokens.
        opens_media: decode every picture and read every clip. Otherwise they only have to exist, and are the
            same if their paths are.
        max_records: look only at so many of each file, evenly taken.
        on_progress: told after each record.
    """
    probe = MediaProbe(
        opens=opens_media, trusts_videos=processor is not None and processor.trusts_videos
    )
    checker = _Checker(probe, processor, [*files, *other_split])
    done = 0
    looked_at = []
    for number, file in enumerate(checker.files):
        indices = evenly(len(file), max_records)
        looked_at.append(len(indices))
        for index in indices:
            checker.look(number, index, is_other=number >= len(files))
            done += 1
            on_progress(done)
    checker.compare_splits()
    checker.find_duplicates()
    totals = checker.totals
    return CheckReport(
        files=tuple(
            (file.name, len(file), count)
            for file, count in zip(checker.files, looked_at, strict=True)
        ),
        num_pictures=totals["pictures"],
        num_clips=totals["clips"],
        num_text_only=totals["text only"],
        problems=checker.problems,
        notes=checker.notes,
        lengths=checker.lengths(),
        is_complete=opens_media and looked_at == [len(file) for file in checker.files],
    )


def evenly(total: int, count: int | None) -> range | list[int]:
    """Up to `count` of the numbers 0 to `total` - 1, evenly spaced; all of them for None."""
    if count is None or count >= total:
        return range(total)
    return [number * total // count for number in range(count)]


class _Hashes:
    """Hashes, each with the place of the record that it belongs to: file and number in one integer."""

    def __init__(self) -> None:
        self._values, self._places = array("Q"), array("Q")

    def add(self, value: int, place: int) -> None:
        self._values.append(value)
        self._places.append(place)

    @property
    def values(self) -> NDArray[np.uint64]:
        return np.asarray(self._values)

    @property
    def places(self) -> NDArray[np.uint64]:
        return np.asarray(self._places)


class _Split:
    """What is kept of the good records of one split."""

    def __init__(self) -> None:
        self.records, self.media, self.ids = _Hashes(), _Hashes(), _Hashes()


class _Checker:
    def __init__(
        self, probe: MediaProbe, processor: Processor | None, files: Sequence[RecordFile]
    ) -> None:
        self.files = files
        self.problems: dict[str, Findings] = {}
        self.notes: dict[str, Findings] = {}
        self.totals: Counter[str] = Counter()
        self._probe = probe
        self._processor = processor
        self._splits = (_Split(), _Split())
        self._lengths = array("I")

    def look(self, number: int, index: int, *, is_other: bool) -> None:
        """Check one record and keep its hashes."""
        try:
            record = self.files[number][index]
        except DataError as err:
            self._add(self.problems, err.kind, str(err))
            return
        facts = []
        for part in record.media:
            try:
                facts.append(self._probe(part))
            except DataError as err:
                self._add(self.problems, err.kind, f"{record.source}: {err}")
                return
        self._measure(record, facts, is_other=is_other)
        self._remember(record, facts, self._splits[is_other], number << _FILE_SHIFT | index)

    def _measure(self, record: Record, facts: Sequence[MediaFacts], *, is_other: bool) -> None:
        if not is_other:
            num_clips = sum(isinstance(part, VideoPart) for part in record.media)
            self.totals["clips"] += num_clips
            self.totals["pictures"] += len(record.media) - num_clips
            self.totals["text only"] += not record.media
        if self._processor is None:
            return
        try:
            length = count_tokens(record, facts, self._processor)
        except FastVLMError as err:
            self._add(self.problems, "schema", f"{record.source}: {err}")
            return
        if not is_other:
            self._lengths.append(length)
        if length > (max_length := self._processor.config.max_length):
            self._add(
                self.problems,
                "too long",
                f"{record.source}: {length} tokens exceed max_length {max_length}",
            )

    def _remember(
        self, record: Record, facts: Sequence[MediaFacts], split: _Split, place: int
    ) -> None:
        media = [fact.identity for fact in facts]
        split.records.add(
            hash_64(*(identity.to_bytes(8, "little") for identity in media), *_words(record)), place
        )
        for identity in set(media):
            split.media.add(identity, place)
        if record.id != record.source:
            split.ids.add(hash_64(record.id.encode("utf-8", "replace")), place)

    def compare_splits(self) -> None:
        """Find records of the first split whose media, words or id are in the other one."""
        mine, other = self._splits
        for kind, target, ours, others in (
            ("in both splits", self.problems, mine.records, other.records),
            ("media in both splits", self.problems, mine.media, other.media),
            ("id in both splits", self.notes, mine.ids, other.ids),
        ):
            theirs, first = np.unique(others.values, return_index=True)
            if not len(theirs):
                continue
            at = np.minimum(np.searchsorted(theirs, ours.values), len(theirs) - 1)
            is_shared = theirs[at] == ours.values
            # A record counts once, however many pictures it shares.
            seen, kept = np.unique(ours.places[is_shared], return_index=True)
            twins = others.places[first[at[is_shared][kept]]]
            self._add_pairs(target, kind, seen, twins, "also in")

    def find_duplicates(self) -> None:
        """Find records of the first split with the same media and words as one before."""
        hashes, places = self._splits[0].records.values, self._splits[0].records.places
        order = np.argsort(hashes, kind="stable")
        is_again = np.append(False, hashes[order][1:] == hashes[order][:-1])
        # Of a group of equal records, the first is the one that the others are compared with.
        group_starts = np.maximum.accumulate(np.where(is_again, 0, np.arange(len(order))))
        again = np.flatnonzero(is_again)
        again = again[np.argsort(order[again], kind="stable")]
        self._add_pairs(
            self.notes, "duplicate", places[order[again]], places[order[group_starts[again]]], "as"
        )

    def _add_pairs(
        self,
        target: dict[str, Findings],
        kind: str,
        places: NDArray[np.uint64],
        twins: NDArray[np.uint64],
        word: str,
    ) -> None:
        if not len(places):
            return
        found = target.setdefault(kind, Findings())
        found.count += len(places)
        found.examples += [
            f"{self._name(int(place))}: {word} {self._name(int(twin))}"
            for place, twin in zip(places[:NUM_EXAMPLES], twins[:NUM_EXAMPLES], strict=True)
        ]

    def _name(self, place: int) -> str:
        file, index = place >> _FILE_SHIFT, place & ((1 << _FILE_SHIFT) - 1)
        return f"{self.files[file].name}, record {index}"

    @staticmethod
    def _add(target: dict[str, Findings], kind: str, example: str) -> None:
        target.setdefault(kind, Findings()).add(example)

    def lengths(self) -> Lengths | None:
        """Tokens of the records of the first split."""
        if self._processor is None or not self._lengths:
            return None
        lengths = np.asarray(self._lengths)
        max_length = self._processor.config.max_length
        edges = sorted({*_BIN_EDGES, max_length})
        last = int(np.searchsorted(edges, lengths.max()))
        edges = edges[: last + 1] if last < len(edges) else [*edges, int(lengths.max())]
        counts, _ = np.histogram(lengths, bins=[0, *(edge + 1 for edge in edges)])
        return Lengths(
            mean=float(lengths.mean()),
            median=int(np.median(lengths)),
            longest=int(lengths.max()),
            max_length=max_length,
            bins=tuple(zip(edges, counts.tolist(), strict=True)),
        )


def _words(record: Record) -> Iterator[bytes]:
    for message in record.messages:
        yield message.role.encode()
        for part in message.content:
            yield part.text.encode("utf-8", "replace") if isinstance(part, TextPart) else b""
