"""The two places models are fetched from: repositories of the Hugging Face Hub and Apple's zip files.

Both fill `files` in a staging folder and leave it verified, with a manifest; nothing here touches the final
place. The Hub is asked through its two public addresses (`/api/models/...` and `/resolve/...`) with our own
client, so that archives and repositories share one way of resuming and checking, and nothing but the model is
asked for.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from fastvlm.checkpoint.archive import is_model_file, plan_unpacking, safe_parts, unpack
from fastvlm.checkpoint.catalogue import ARCHIVE_ENDPOINT, ModelEntry
from fastvlm.checkpoint.download import Downloader
from fastvlm.checkpoint.manifest import ArchiveLock, Manifest, write_manifest
from fastvlm.checkpoint.partial_body import FileRecord, RemoteFile
from fastvlm.checkpoint.verify import verify_folder
from fastvlm.errors import CheckpointError, DownloadError

_HUB_ENDPOINT: Final = "https://huggingface.co"
_DISK_MARGIN_BYTES: Final = 64 << 20


class PullListener(Protocol):
    """Who watches a pull."""

    def on_note(self, line: str) -> None:
        """A line for people: licence, what is left out, that another process is at work."""

    def on_progress(self, name: str, done: int, total: int) -> None:
        """Bytes of the whole step that are on disk; `name` is the file at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Repository:
    """What the Hub says of a model."""

    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    left_out: tuple[str, ...]


def fill_from_repository(
    entry: ModelEntry, staging: Path, *, listener: PullListener, downloader: Downloader
) -> None:
    """Fetch a Hub repository at its newest commit into `staging/files`.

    Raises:
        CheckpointError: it is no whole FastVLM checkpoint.
        DownloadError: the network or the server failed, or a size or hash is wrong.
        OSError: the disk failed.
    """
    if entry.licence:
        listener.on_note(f"licence: {entry.licence}")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB_ENDPOINT
    headers = _hub_authorization()
    url = f"{endpoint}/api/models/{entry.name}?blobs=true"
    repository = _read_repository(downloader.fetch_json(url, headers=headers), entry, endpoint)
    if not entry.licence:
        listener.on_note(f"licence: {repository.licence}")
    _note_left_out(repository.left_out, listener)

    total = sum(file.size or 0 for file in repository.files)
    _check_space(staging, total - _bytes_below(staging))
    records: dict[str, FileRecord] = {}
    for file in repository.files:
        records[file.path] = downloader.fetch(
            file,
            staging / "files" / file.path,
            partial=staging / "parts" / file.path,
            headers=headers,
            on_bytes=_progress(listener, file.path, total, records),
        )
    manifest = Manifest(
        name=entry.name,
        source=f"{endpoint}/{entry.name}",
        revision=repository.revision,
        licence=repository.licence,
        files=records,
    )
    _finish(staging, manifest)


def _progress(
    listener: PullListener, name: str, total: int, before: dict[str, FileRecord]
) -> Callable[[int], None]:
    base = sum(record.size for record in before.values())
    return lambda done: listener.on_progress(name, base + done, total)


def _read_repository(document: Any, entry: ModelEntry, endpoint: str) -> _Repository:
    try:
        revision = str(document["sha"])
        siblings = [_remote_file(item, entry, endpoint, revision) for item in document["siblings"]]
        card = document.get("cardData") or {}
        licence = card.get("license_name") or card.get("license") or "not stated on its page"
    except (KeyError, TypeError, AttributeError) as error:
        raise DownloadError(
            f"{endpoint} described {entry.name} in a form that is not understood ({error!r})"
        ) from error
    wanted = tuple(file for file in siblings if "/" not in file.path and is_model_file(file.path))
    if not any(file.path.endswith(".safetensors") for file in wanted):
        raise CheckpointError(
            f"{entry.name} has no safetensors file at its top ({len(siblings)} files there); "
            "expected a FastVLM checkpoint"
        )
    return _Repository(
        revision=revision,
        licence=entry.licence or _printable(f"{licence} ({endpoint}/{entry.name})"),
        files=wanted,
        left_out=tuple(file.path for file in siblings if file not in wanted),
    )


def _remote_file(
    item: dict[str, Any], entry: ModelEntry, endpoint: str, revision: str
) -> RemoteFile:
    path, size, large = item["rfilename"], item.get("size"), item.get("lfs")
    if is_model_file(path):
        safe_parts(path)
    if large:
        size, sha256 = large["size"], large["sha256"]
    else:
        sha256 = None
    if size is not None and (type(size) is not int or size < 0):
        raise TypeError(f"size {size!r} of {path!r}")
    return RemoteFile(
        path=path,
        url=f"{endpoint}/{entry.name}/resolve/{quote(revision, safe='')}/{quote(path)}",
        size=size,
        sha256=_hex(sha256, 64),
        git_sha1=None if large or size is None else _hex(item.get("blobId"), 40),
    )


def _hex(digest: object, length: int) -> str | None:
    if digest is not None and not re.fullmatch(f"[0-9a-f]{{{length}}}", str(digest)):
        raise TypeError(f"hash {digest!r}")
    return None if digest is None else str(digest)


def _hub_authorization() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def fill_from_archive(
    entry: ModelEntry,
    staging: Path,
    *,
    lock: ArchiveLock,
    listener: PullListener,
    downloader: Downloader,
) -> None:
    """Fetch one of Apple's zip files and unpack it into `staging/files`.

    Raises:
        CheckpointError: it is no whole FastVLM checkpoint.
        DownloadError: the network or the server failed, the archive is unsafe or damaged, or it is another one
            than the lock file says.
        OSError: the disk failed.
    """
    licence = entry.licence or "not stated"
    listener.on_note(f"licence: {licence}")
    endpoint = os.environ.get("FASTVLM_ARCHIVE_ENDPOINT", "").rstrip("/") or ARCHIVE_ENDPOINT
    url = f"{endpoint}/{entry.name}.zip"
    archive = staging / f"{entry.name}.zip"
    record = _fetch_archive(entry, url, archive, lock, listener=listener, downloader=downloader)
    try:
        files = _unpack_archive(archive, staging / "files", listener)
    except DownloadError:
        shutil.rmtree(
            staging, ignore_errors=True
        )  # fetching the same bytes again is the only way on
        raise
    manifest = Manifest(
        name=entry.name, source=url, revision=record.sha256, licence=licence, files=files
    )
    _finish(staging, manifest)
    lock.record(entry.name, record, source=url)


def _fetch_archive(
    entry: ModelEntry,
    url: str,
    archive: Path,
    lock: ArchiveLock,
    *,
    listener: PullListener,
    downloader: Downloader,
) -> FileRecord:
    expected = lock.expected(entry.name)
    size = downloader.fetch_size(url)
    # Weights hardly compress: what comes out of the archive is about as large as the archive.
    _check_space(archive.parent, 2 * size - _bytes_below(archive.parent))
    remote = RemoteFile(
        path=archive.name,
        url=url,
        size=expected.size if expected else size,
        sha256=expected.sha256 if expected else None,
    )
    try:
        return downloader.fetch(
            remote,
            archive,
            partial=archive.parent / "parts" / archive.name,
            on_bytes=_progress(listener, archive.name, size, {}),
        )
    except DownloadError as error:
        if expected is None:
            raise
        raise DownloadError(
            f"{error} (size and SHA-256 were recorded when it was fetched first; if Apple changed the archive "
            f"and you trust it, remove its entry in {lock.path})"
        ) from error


def _unpack_archive(
    archive: Path, destination: Path, listener: PullListener
) -> dict[str, FileRecord]:
    plan = plan_unpacking(archive)
    _note_left_out(plan.left_out, listener)
    shutil.rmtree(destination, ignore_errors=True)  # of an attempt that was interrupted
    _check_space(archive.parent, plan.total_bytes)
    destination.mkdir()
    on_bytes = _progress(listener, f"unpacking {archive.name}", plan.total_bytes, {})
    return unpack(archive, plan, destination, on_bytes=on_bytes)


def _finish(staging: Path, manifest: Manifest) -> None:
    """Verify what was fetched and write its manifest; hashes were checked while it arrived."""
    files = staging / "files"
    report = verify_folder(files, with_hashes=False)
    if not report.is_whole:
        shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(
            f"{manifest.name} as published is not a whole FastVLM checkpoint: {'; '.join(report.problems)}"
        )
    for stray in files.iterdir():
        if stray.name not in manifest.files:
            stray.unlink()  # of an earlier revision, whose pull was interrupted
    write_manifest(files, manifest)


def _note_left_out(names: tuple[str, ...], listener: PullListener) -> None:
    if names:
        listener.on_note(
            f"left out, not needed (code of models is never run): {_printable(', '.join(names))}"
        )


def _printable(text: str) -> str:
    """Text from a server without control characters, which a terminal might obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _check_space(staging: Path, needed: int) -> None:
    staging.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(staging).free
    if needed + _DISK_MARGIN_BYTES > free:
        raise DownloadError(
            f"{needed / 1e9:.2f} GB more are needed in {staging.parent}, {free / 1e9:.2f} GB are free; "
            "make room or set FASTVLM_HOME to a folder on another disk"
        )
