"""What was fetched, written down: a manifest in each pulled folder, and a lock file for Apple's archives.

Apple publishes no checksums for its archives. The first complete download is therefore recorded in the lock
file, and any later one, from any mirror, must be the same.
"""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from filelock import FileLock

from fastvlm.checkpoint.partial_body import FileRecord
from fastvlm.errors import CheckpointError

MANIFEST_NAME: Final = "fastvlm-manifest.json"
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Where a pulled folder came from and what must be in it."""

    name: str
    """Model name."""
    source: str
    """Address it was fetched from."""
    revision: str | None
    """Commit of the Hub repository, or SHA-256 of the archive."""
    licence: str
    """Licence line shown before the download."""
    files: dict[str, FileRecord]
    """File name -> size and hash as verified."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest into a folder that is not in use yet."""
    text = json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=2) + "\n"
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a pulled folder; None for a folder that was not pulled.

    Raises:
        CheckpointError: there is one, but it cannot be understood.
    """
    path = folder / MANIFEST_NAME
    document = _read_document(path)
    if document is None:
        return None
    try:
        files = {name: FileRecord(**record) for name, record in document["files"].items()}
        return Manifest(
            name=document["name"],
            source=document["source"],
            revision=document["revision"],
            licence=document["licence"],
            files=files,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is no manifest of this program ({error!r}); pull the model again"
        ) from error


class ArchiveLock:
    """The lock file: name of an archive -> size and hash of the first complete download."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def expected(self, name: str) -> FileRecord | None:
        """What the archive must be, None if it was never fetched before."""
        entry = self._read().get(name)
        if entry is None:
            return None
        try:
            return FileRecord(size=entry["size"], sha256=entry["sha256"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: bad entry of {name!r} ({error!r}); remove it"
            ) from error

    def record(self, name: str, record: FileRecord, *, source: str) -> None:
        """Write down a first download; an entry that is there already stays."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            entries = self._read()
            if name in entries:
                return
            first_seen = datetime.datetime.now(datetime.UTC).date().isoformat()
            entries[name] = {**asdict(record), "source": source, "first_seen": first_seen}
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
            text = json.dumps({"format": _FORMAT, "archives": entries}, indent=2) + "\n"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(self.path)

    def _read(self) -> dict[str, Any]:
        document = _read_document(self.path)
        entries = {} if document is None else document.get("archives")
        if not isinstance(entries, dict):
            raise CheckpointError(
                f"{self.path} is no lock file of this program; move it away and pull again"
            )
        return entries


def _read_document(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; move it away and pull again"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} holds {type(document).__name__}, expected a JSON object")
    return document
