r"""Where the records of a JSON file lie, found without parsing them: 8 bytes a record, however large the file.

A list is scanned for quotes, backslashes and brackets with numpy, some hundred MB a second; what lies between is
parsed (and found to be broken) only when a record is asked for. That works on bytes because UTF-8 never uses
the bytes of these characters for anything else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fastvlm.errors import DataError

_CHUNK_BYTES: Final = 4 * 1024 * 1024
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_OPENING, _CLOSING = b"[{", b"]}"
_IS_EVENT: Final = bytes(byte in b'"\\' + _OPENING + _CLOSING for byte in range(256))
"""For `bytes.translate`, several times faster here than indexing with an array."""
_DEPTH_CHANGE: Final = np.isin(np.arange(256), list(_OPENING)).astype(np.int8) - np.isin(
    np.arange(256), list(_CLOSING)
).astype(np.int8)


def index_lines(path: Path) -> NDArray[np.uint64]:
    """First byte of every line that is not empty, then the length of the file.

    Raises:
        OSError: the file cannot be read.
    """
    found = []
    start, size = 0, 0  # of the line that a chunk begins in; of what was read
    before = b""  # the last byte of the chunk before
    for base, chunk in _chunks(path):
        size = base + len(chunk)
        ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n"))
        if len(ends):
            starts = np.concatenate(([start], base + ends[:-1] + 1))
            lengths = base + ends - starts
            bytes_before = np.frombuffer((before or b"\n") + chunk, np.uint8)[ends]
            is_blank = (lengths == 0) | ((lengths == 1) & (bytes_before == ord("\r")))
            found.append(starts[~is_blank])
            start = base + int(ends[-1]) + 1
        before = chunk[-1:]
    is_last_blank = size == start or (size == start + 1 and before == b"\r")
    last = [size] if is_last_blank else [start, size]
    return np.concatenate((*found, last)).astype(np.uint64)


def index_list(path: Path) -> NDArray[np.uint64]:
    """First byte of every object of a JSON list, then the place of the bracket that closes it.

    Whatever else stands between two objects (nothing but a comma may) belongs to the first of them.

    Raises:
        DataError: the list is not closed, or something follows it.
        OSError: the file cannot be read.
    """
    scan = _ListScan()
    found = []
    for base, chunk in _chunks(path):
        places, rest = scan.read(chunk)
        found.append(base + places)
        if rest.strip():
            raise DataError(f"{path}: text follows the list; expected one JSON list alone")
    boundaries = np.concatenate(found).astype(np.uint64) if found else np.empty(0, np.uint64)
    if not scan.is_closed:
        number = _first_broken(path, boundaries)
        raise DataError(
            f"{path}: its list is not closed: the file is cut short, or a quote or bracket is missing in or "
            f"before record {number}, at byte {boundaries[number] if len(boundaries) else 0}"
        )
    with path.open("rb") as file:
        before = file.read(int(boundaries[0])).lstrip(b"\xef\xbb\xbf \t\r\n")
    if len(boundaries) > 1 and before[1:].strip():
        raise DataError(
            f"{path}: its list begins with {before[1:].strip()[:20]!r}; expected objects alone"
        )
    return boundaries


def _first_broken(path: Path, starts: NDArray[np.uint64]) -> int:
    """The first record that is no JSON, or the last of all."""
    with path.open("rb") as file:
        for number, (start, end) in enumerate(pairwise(starts.tolist())):
            file.seek(start)
            try:
                json.loads(file.read(end - start).strip().removesuffix(b","))
            except ValueError:
                return number
    return max(len(starts) - 1, 0)


@dataclass(slots=True)
class _ListScan:
    """State between chunks."""

    depth: int = 0
    is_in_string: bool = False
    is_closed: bool = False

    def read(self, chunk: bytes) -> tuple[NDArray[np.int64], bytes]:
        """Places where elements of the list begin, and where it ends if it does; and what follows it."""
        if self.is_closed:
            return np.empty(0, np.int64), chunk
        places = np.flatnonzero(np.frombuffer(chunk.translate(_IS_EVENT), np.bool_))
        bytes_there = np.frombuffer(chunk, np.uint8)[places]
        places, bytes_there = _without_escapes(places, bytes_there)
        quotes = bytes_there == _QUOTE
        # Before an event: an odd number of quotes so far means inside a string.
        is_inside = (np.cumsum(quotes) + self.is_in_string) % 2 == 1
        self.is_in_string = bool((int(quotes.sum()) + self.is_in_string) % 2)
        is_bracket = ~quotes & ~is_inside
        places = places[is_bracket]
        changes = _DEPTH_CHANGE[bytes_there[is_bracket]]
        depths = self.depth + np.cumsum(changes, dtype=np.int64)
        ends = np.flatnonzero(depths <= 0)
        if len(ends):
            self.is_closed = True
            first = ends[0]
            begins = (changes[:first] == 1) & (depths[:first] == 2)
            return np.append(places[:first][begins], places[first]), chunk[places[first] + 1 :]
        if len(depths):
            self.depth = int(depths[-1])
        return places[(changes == 1) & (depths == 2)], b""


def _without_escapes(
    places: NDArray[np.int64], bytes_there: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    r"""Drop backslashes, and quotes that one escapes: those right after an odd run of them."""
    is_backslash = bytes_there == _BACKSLASH
    if not is_backslash.any():
        return places, bytes_there
    # A run of backslashes is a run of neighbouring places; other events between them end it.
    is_joined = (np.diff(places) == 1) & is_backslash[1:] & is_backslash[:-1]
    is_first = is_backslash & np.append(True, ~is_joined)
    is_last = is_backslash & np.append(~is_joined, True)
    run_ends = places[is_last] + 1
    is_odd = (run_ends - places[is_first]) % 2 == 1
    is_escaped = np.zeros(int(places[-1]) + 2, np.bool_)  # by place in the chunk
    is_escaped[run_ends[is_odd]] = True
    keep = ~is_backslash & ~((bytes_there == _QUOTE) & is_escaped[places])
    return places[keep], bytes_there[keep]


def _chunks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file with their place. None ends in a backslash, so that no escape is cut in two."""
    with path.open("rb") as file:
        base, kept = 0, b""
        while data := file.read(_CHUNK_BYTES):
            data = kept + data
            end = len(data.rstrip(b"\\"))
            kept = data[end:]
            if end:
                yield base, data[:end]
                base += end
        if kept:
            yield base, kept
