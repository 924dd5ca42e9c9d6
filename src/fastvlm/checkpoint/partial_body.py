"""An unfinished download on disk: what is there, what it belongs to, and whether it can be continued.

The journal beside the body names one version of one file: a changed ETag, size or hash starts afresh.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx2

from fastvlm.errors import DownloadError

_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """What is to be fetched, and all that is known of it beforehand."""

    path: str
    """Name within the model, for messages."""
    url: str
    """Where it is."""
    size: int | None = None
    """Bytes; None leaves it to the server's Content-Length."""
    sha256: str | None = None
    """Expected hash of the content."""
    git_sha1: str | None = None
    """Expected git object id, which is what the Hub knows of files outside its large-file storage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size and hash of a file that arrived whole."""

    size: int
    sha256: str


class StaleError(Exception):
    """What is on disk does not belong to what the server has now; it has to go."""


class PartialBody:
    """The unfinished file on disk, its running hashes, and the journal that says what it belongs to."""

    def __init__(self, path: Path, remote: RemoteFile) -> None:
        self.remote = remote
        self.size = 0
        self._path = path
        self._journal_path = path.with_name(path.name + ".json")
        self._journal = self._read_journal()
        self._start_hashes()
        if path.exists():
            if self._journal.get("identity") == self._identity() and self._can_be_continued():
                self._hash_what_is_there()
            if self.size == 0 or self.size > (remote.size or self.size):
                self.discard()

    @property
    def is_complete(self) -> bool:
        """Whether every byte is on disk, as far as the length is known."""
        return self.size > 0 and self.size == (self.remote.size or self._journal.get("total"))

    def _identity(self) -> str:
        # A hash names the content wherever it lies, so that a model that moved on keeps its unchanged files.
        return self.remote.sha256 or self.remote.git_sha1 or self.remote.url

    def _can_be_continued(self) -> bool:
        # Without a hash to expect or a validator to send, two versions could be glued together unnoticed.
        return bool(self.remote.sha256 or self.remote.git_sha1 or self._journal.get("validator"))

    def _read_journal(self) -> dict[str, Any]:
        try:
            journal = json.loads(self._journal_path.read_bytes())
        except (OSError, ValueError):
            return {}  # none yet, or cut while it was written: the body is then fetched afresh
        return journal if isinstance(journal, dict) else {}

    def _write_journal(self, **entries: Any) -> None:
        self._journal = {**entries, "identity": self._identity()}
        self._journal_path.write_text(json.dumps(self._journal), encoding="utf-8")

    def _start_hashes(self) -> None:
        self._sha256 = hashlib.sha256()
        self._git_sha1 = hashlib.sha1(usedforsecurity=False)
        self._git_sha1.update(b"blob %d\0" % (self.remote.size or 0))

    def _hash_what_is_there(self) -> None:
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self._update(chunk)

    def _update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if self.remote.git_sha1:
            self._git_sha1.update(chunk)
        self.size += len(chunk)

    def finished_record(self, destination: Path) -> FileRecord | None:
        """What an earlier call wrote down when it finished this very version, if the file is still so."""
        entry = self._journal.get("finished")
        if not entry or self._journal["identity"] != self._identity() or not destination.is_file():
            return None
        record = FileRecord(**entry)
        return record if destination.stat().st_size == record.size else None

    def mark_finished(self, record: FileRecord) -> None:
        self._write_journal(**{**self._journal, "finished": asdict(record)})

    def discard(self) -> None:
        """Forget what is on disk."""
        self._path.unlink(missing_ok=True)
        self.size = 0
        self._start_hashes()

    def resume_headers(self) -> dict[str, str]:
        if not self.size:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        if validator := self._journal.get("validator"):
            headers["If-Range"] = validator
        return headers

    def accept(self, response: httpx2.Response) -> int:
        """Check that the response continues what is on disk, or make room for a whole one.

        Returns:
            Bytes of the whole file as announced.
        """
        validator = _validator(response)
        if response.status_code == 206:
            total = self._check_continuation(response, validator)
        else:
            self.discard()  # the server does not resume, or has another version now
            if self.remote.size is not None and "Content-Length" not in response.headers:
                total = self.remote.size  # a chunked answer; what comes is counted
            else:
                total = announced_length(self.remote.path, response)
        if self.remote.size is not None and total != self.remote.size:
            raise DownloadError(
                f"{self.remote.path}: the server announces {total} bytes, expected {self.remote.size}"
            )
        if response.status_code == 200:
            self._write_journal(validator=validator, total=total)
        return total

    def _check_continuation(self, response: httpx2.Response, validator: str | None) -> int:
        """Bytes of the whole file, if this response goes on where the body on disk ends."""
        content_range = response.headers.get("Content-Range", "")
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", content_range)
        if match is None or int(match[1]) != self.size or not self.size:
            raise StaleError(
                f"{self.remote.path}: asked for bytes from {self.size}, the server sent {content_range!r}"
            )
        before = self._journal.get("validator")
        if before and validator and before != validator:
            raise StaleError(
                f"{self.remote.path}: the file changed on the server while it was fetched"
            )
        return int(match[3])

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        with self._path.open("ab") as file:
            try:
                yield file
            finally:
                file.flush()
                os.fsync(file.fileno())

    def append(self, file: BinaryIO, chunk: bytes) -> None:
        file.write(chunk)
        self._update(chunk)

    def record(self) -> FileRecord:
        return FileRecord(size=self.size, sha256=self._sha256.hexdigest())

    def problem(self) -> str | None:
        """What is wrong with the content, None if nothing."""
        expected, found = self.remote.sha256, self._sha256.hexdigest()
        if expected and expected != found:
            return f"{self.remote.path}: SHA-256 is {found}, expected {expected}; the content is not as published"
        expected, found = self.remote.git_sha1, self._git_sha1.hexdigest()
        if expected and expected != found:
            return f"{self.remote.path}: git id is {found}, expected {expected}; the content is not as published"
        return None


def announced_length(name: str, response: httpx2.Response) -> int:
    """Content-Length of a response.

    Raises:
        DownloadError: there is none.
    """
    announced = response.headers.get("Content-Length", "")
    if not announced.isdigit():
        raise DownloadError(
            f"{name}: the server announces no length, so that a cut could not be noticed"
        )
    return int(announced)


def _validator(response: httpx2.Response) -> str | None:
    """What If-Range can hold: a strong ETag or a date (RFC 9110 section 13.1.5)."""
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified") or None
