"""Records in a JSON list or in JSON Lines, found by their place in the file and parsed one at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from fastvlm.data.json_index import index_lines, index_list
from fastvlm.data.media import MediaFolder
from fastvlm.data.record import Record
from fastvlm.data.record_form import parse_json, record_of
from fastvlm.errors import DataError

JsonLayout: TypeAlias = Literal["list", "lines"]


class JsonFile:
    """The records of one .json or .jsonl file.

    Only their places are held, and no file is kept open, so that worker processes can share it.

    Args:
        path: the file.
        layout: one list, or one object a line.
        folder: where its media are.

    Raises:
        DataError: no complete list, or no record in it.
    """

    def __init__(self, path: Path, layout: JsonLayout, folder: MediaFolder) -> None:
        self.path = path
        self.layout = layout
        self.folder = folder
        self._boundaries = index_list(path) if layout == "list" else index_lines(path)
        if not len(self):
            raise DataError(f"{path} holds no records; expected at least one object")

    @property
    def name(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return max(len(self._boundaries) - 1, 0)

    def __getitem__(self, index: int) -> Record:
        return record_of(self.fields(index), source=self.source(index), folder=self.folder)

    def source(self, index: int) -> str:
        """What error messages call a record."""
        return f"{self.name}, record {index}"

    def fields(self, index: int) -> object:
        """The record as its JSON says.

        Raises:
            DataError: invalid JSON.
        """
        return parse_json(self.raw(index), source=self.source(index))

    def raw(self, index: int) -> bytes:
        """The bytes of a record, without the comma after it.

        Raises:
            DataError: records of a list that no comma separates.
            IndexError: there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} records, not one of number {index}")
        start, end = (int(place) for place in self._boundaries[index : index + 2])
        with self.path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start).strip()
        if self.layout == "lines" or index == len(self) - 1:
            return data
        if not data.endswith(b","):
            raise DataError(f"{self.source(index)}: no comma before the next record")
        return data[:-1].rstrip()
