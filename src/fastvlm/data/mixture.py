"""Several files of records as one data set: how often each is seen, in an order that a seed decides.

Every file is an endless stream of its records, shuffled anew at each pass. An epoch takes the next
weight x length records of each stream and mixes them, so that over the epochs shares are exact for any weight, and
no record of a file is seen twice before all of them were seen once. Nothing depends on what was drawn before:
any epoch, and any place in it, can be computed alone, which is what an exact resume needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastvlm.data.record import Record, RecordFile
from fastvlm.data.records import open_records
from fastvlm.data.sources import read_sources
from fastvlm.errors import DataError
from fastvlm.messages import VideoOptions


class Place(NamedTuple):
    """A record of a mixture."""

    file: int
    """Number of the file in the mixture."""
    record: int
    """Number of the record in the file."""


class Mixture:
    """Files with their weights.

    Args:
        files: open files, each with its weight.
        seed: another seed gives another order.

    Raises:
        DataError: no files, or a weight that is not above 0.

    Example:
        >>> mixture = Mixture.open(["photos.json", "clips.jsonl:0.5"], seed=0)  # doctest: +SKIP
        >>> [mixture[place] for place in mixture.order(epoch=0)[:4]]  # doctest: +SKIP
    """

    def __init__(
        self, files: Sequence[tuple[RecordFile, Fraction | float | int]], *, seed: int = 0
    ) -> None:
        if not files:
            raise DataError("a mixture of no files; expected at least one")
        self.files = tuple(file for file, _ in files)
        # By way of its decimal digits: 0.1 means a tenth, not the binary number next to it.
        self.weights = tuple(
            weight if isinstance(weight, Fraction) else Fraction(str(weight)) for _, weight in files
        )
        for file, weight in zip(self.files, self.weights, strict=True):
            if weight <= 0:
                raise DataError(
                    f"the weight of {file.name} is {float(weight)}; expected more than 0"
                )
        if seed < 0:
            raise DataError(f"the seed of a mixture is {seed}; expected 0 or more")
        self.seed = seed

    @classmethod
    def open(
        cls,
        names: Sequence[str | Path],
        *,
        seed: int = 0,
        media_folder: Path | None = None,
        video: VideoOptions | None = None,
    ) -> Mixture:
        """Open the files of a mixture.

        Args:
            names: files, patterns such as "shards/*.parquet", or lists of files (see `read_sources`); `:0.5` at
                the end of a name is its weight.
            seed: of the order.
            media_folder: for files that have none of their own.
            video: which frames of clips are taken.

        Raises:
            DataError: a file that cannot be opened, or a list that cannot be read.
        """
        return cls(
            [
                (
                    open_records(
                        source.path, media_folder=source.media_folder or media_folder, video=video
                    ),
                    source.weight,
                )
                for source in read_sources(names)
            ],
            seed=seed,
        )

    @property
    def num_records(self) -> int:
        """Records of all files, each counted once."""
        return sum(map(len, self.files))

    def __getitem__(self, place: Place | tuple[int, int]) -> Record:
        """A record by its place.

        Raises:
            DataError: it cannot be used.
        """
        file, record = place
        return self.files[file][record]

    def order(self, epoch: int) -> Order:
        """What an epoch sees, in order; 8 bytes a record, a second for some millions of them."""
        starts = [int(epoch * weight * len(file)) for file, weight in self._weighted()]
        ends = [int((epoch + 1) * weight * len(file)) for file, weight in self._weighted()]
        counts = [end - start for start, end in zip(starts, ends, strict=True)]
        turns = np.repeat(np.arange(len(self.files), dtype=np.uint32), counts)
        turns = turns[_shuffle(len(turns), self.seed, 0, epoch)]
        indices = np.empty(len(turns), np.uint32)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
            indices[turns == number] = self._stream(number, start, end)
        return Order(turns, indices)

    def _weighted(self) -> Iterator[tuple[RecordFile, Fraction]]:
        return zip(self.files, self.weights, strict=True)

    def _stream(self, number: int, start: int, end: int) -> NDArray[np.uint32]:
        """Records `start` to `end` of the endless stream of a file."""
        size = len(self.files[number])
        passes = [
            _shuffle(size, self.seed, number + 1, turn)[
                max(start - turn * size, 0) : end - turn * size
            ]
            for turn in range(start // size, -(-end // size))
        ]
        return np.concatenate([np.empty(0, np.uint32), *passes])


@dataclass(frozen=True, slots=True, eq=False)
class Order(Sequence[Place]):
    """Places of records in the order of an epoch. A slice is an order too: `order[position:]` resumes one."""

    files: NDArray[np.uint32]
    indices: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: Any) -> Any:
        """The place at a position, or the order of a slice."""
        if isinstance(position, slice):
            return Order(self.files[position], self.indices[position])
        return Place(int(self.files[position]), int(self.indices[position]))

    def shard(self, rank: int, world_size: int) -> Order:
        """What one of several processes sees; their shares differ by at most one record."""
        return Order(self.files[rank::world_size], self.indices[rank::world_size])


def _shuffle(size: int, *key: int) -> NDArray[np.uint32]:
    """Numbers 0 to `size` - 1 in an order that depends on the key alone.

    Sorting raw bits, since numpy promises these to stay the same in later versions, and `permutation` not.
    """
    bits = np.random.PCG64(np.random.SeedSequence([size, *key])).random_raw(size)
    return np.argsort(bits, kind="stable").astype(np.uint32)
