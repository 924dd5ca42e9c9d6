"""Records to what the network takes: media opened, prompt rendered, labels born with the text.

A record that cannot be used becomes a `BrokenSample` with its reason; it is never replaced by another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from fastvlm.data.mixture import Mixture, Place
from fastvlm.data.record import Record
from fastvlm.errors import FastVLMError
from fastvlm.inputs import IGNORE_INDEX, ModelInputs
from fastvlm.processing.processor import Processor


@dataclass(frozen=True, slots=True)
class BrokenSample:
    """A record that cannot be used."""

    source: str
    reason: str


Sample: TypeAlias = ModelInputs | BrokenSample


class TrainingSamples:
    """Samples of a mixture by their place, as a torch DataLoader reads them.

    Args:
        mixture: the files.
        processor: of the model that is trained.
    """

    def __init__(self, mixture: Mixture, processor: Processor) -> None:
        self._mixture, self._processor = mixture, processor

    def __len__(self) -> int:
        return self._mixture.num_records

    def __getitem__(self, place: Place) -> Sample:
        source = f"{self._mixture.files[place.file].name}, record {place.record}"
        try:
            record = self._mixture[place]
            inputs = self._processor(record.messages, with_labels=True)
        except FastVLMError as error:
            return BrokenSample(source, str(error))
        assert inputs.labels is not None
        if not (inputs.labels != IGNORE_INDEX).any():
            return BrokenSample(source, "there is no answer to learn from; expected text in it")
        return inputs


class ValidationSamples(TrainingSamples):
    """The same by number, 0 to the number of records, each file after the other."""

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # a number is its place
        return super().__getitem__(place_of(self._mixture, index))


def place_of(mixture: Mixture, index: int) -> Place:
    """The place of a record that is counted over all files."""
    for number, file in enumerate(mixture.files):
        if index < len(file):
            return Place(number, index)
        index -= len(file)
    raise IndexError(index)


def first_records(mixture: Mixture, count: int) -> Iterator[Record]:
    """Up to `count` records, evenly taken from all there are; those that cannot be read are left out."""
    total = mixture.num_records
    count = min(count, total)
    for i in range(count):
        try:
            yield mixture[place_of(mixture, i * total // count)]
        except FastVLMError:
            continue  # counted and named where the record is trained on or measured
