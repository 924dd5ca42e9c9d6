"""Records in a parquet file: the columns of LLaVA or messages records, pictures as bytes or paths.

Pictures may be columns of the Hugging Face kind `Image`, a struct of `bytes` and `path`. One row group is held
at a time, the last one read: reading at random reads a group for every record, so write groups of about a
hundred rows where they hold pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvlm.data.media import MediaFolder
from fastvlm.data.record import Record
from fastvlm.data.record_form import record_of
from fastvlm.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("id", "messages", "conversations", "system", "image", "images", "video", "videos")


class ParquetFile:
    """The records of one .parquet file.

    Args:
        path: the file.
        folder: where media are that it names by path.

    Raises:
        DataError: no parquet file, no records, or none of the known columns.
        MissingExtraError: pyarrow is not installed.
    """

    def __init__(self, path: Path, folder: MediaFolder) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as err:
            raise MissingExtraError(
                f"reading {path} needs the package pyarrow; run: pip install 'fastvlm[train]'"
            ) from err
        self.path = path
        self._folder = folder
        self._group: tuple[int, pa.Table] | None = None
        try:
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                groups = [
                    file.metadata.row_group(number).num_rows
                    for number in range(file.metadata.num_row_groups)
                ]
        except pa.ArrowException as err:
            raise DataError(f"{path}: no parquet file that can be read ({_line(err)})") from err
        if "messages" not in names and "conversations" not in names:
            raise DataError(
                f"{path} has the columns {', '.join(names)}; expected messages or conversations"
            )
        self._columns = [name for name in _COLUMNS if name in names]
        self._group_ends = np.cumsum(groups, dtype=np.int64)
        if not len(self):
            raise DataError(f"{path} holds no records; expected at least one row")

    @property
    def name(self) -> str:
        return str(self.path)

    def __len__(self) -> int:
        return int(self._group_ends[-1]) if len(self._group_ends) else 0

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} records, not one of number {index}")
        number = int(np.searchsorted(self._group_ends, index, side="right"))
        source = f"{self.name}, record {index}"
        table = self._read_group(number, source)
        row = table.slice(index - int(self._group_ends[number]) + table.num_rows, 1).to_pylist()[0]
        return record_of(row, source=source, folder=self._folder)

    def _read_group(self, number: int, source: str) -> pa.Table:
        if self._group is None or self._group[0] != number:
            import pyarrow as pa
            import pyarrow.parquet as pq

            self._group = None  # never two at once
            try:
                # Without threads: pyarrow's do not survive the fork that data loaders start workers with.
                with pq.ParquetFile(self.path, pre_buffer=False) as file:
                    table = file.read_row_group(number, columns=self._columns, use_threads=False)
            except (pa.ArrowException, OSError) as err:
                raise DataError(f"{source}: its row group cannot be read ({_line(err)})") from err
            self._group = number, table
        return self._group[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": None}


def _line(err: Exception) -> str:
    return " ".join(str(err).split())[:120]
