"""Records to what the network takes: media opened, prompt rendered, labels born with the text.

A record that cannot be used becomes a `BrokenSample` with its reason; it is never replaced by another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fastvlm.data.records import Record
from fastvlm.errors import FastVLMError
from fastvlm.inputs import IGNORE_INDEX, ModelInputs
from fastvlm.processing.processor import Processor


@dataclass(frozen=True, slots=True)
class BrokenSample:
    """A record that cannot be used."""

    source: str
    reason: str


Sample: TypeAlias = ModelInputs | BrokenSample


class SampleSource:
    """Samples by position, as a torch DataLoader reads them.

    Args:
        read: gives the record at a position; may raise.
        length: how many positions there are.
        processor: of the model that is trained.
    """

    def __init__(self, read: Callable[[int], Record], length: int, processor: Processor) -> None:
        self._read, self._length, self._processor = read, length, processor

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        source = f"record {index}"
        try:
            record = self._read(index)
            source = record.source
            inputs = self._processor(record.messages, with_labels=True)
        except FastVLMError as error:
            return BrokenSample(source, str(error))
        assert inputs.labels is not None
        if not (inputs.labels != IGNORE_INDEX).any():
            return BrokenSample(
                source, "no answer to learn from; expected an assistant turn with text"
            )
        return inputs
