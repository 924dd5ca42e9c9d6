"""One file over HTTP: resumed after a cut, checked against size and hash, never half there under its own name.

The body goes to a partial file with a journal beside it (`partial_body.py`). Only when length and hash are right
is it renamed to its destination. Nothing here knows about models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import httpx2

from fastvlm.checkpoint.partial_body import (
    FileRecord,
    PartialBody,
    RemoteFile,
    StaleError,
    announced_length,
)
from fastvlm.errors import DownloadError

BytesListener = Callable[[int], None]
"""Told how many bytes of the current file are on disk; falls back to 0 when a file starts afresh."""

_METADATA_LIMIT_BYTES: Final = 16 << 20
_LONGEST_WAIT_S: Final = 60.0
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_T = TypeVar("_T")
_RETRIED_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class _Cut(Exception):
    """The connection ended early or the server is busy; what is on disk stays and the rest is asked for."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Downloader:
    """An HTTP client with the patience and the checks that large files need.

    Args:
        user_agent: what servers are told of this program.
        timeout_s: longest silence of a connection.
        attempts: how often in a row an attempt may bring nothing new before it is an error.
        first_wait_s: pause after the first attempt that brought nothing; doubles, up to one minute.
    """

    def __init__(
        self,
        *,
        user_agent: str = "fastvlm",
        timeout_s: float = 30.0,
        attempts: int = 5,
        first_wait_s: float = 1.0,
    ) -> None:
        # identity: lengths, ranges and hashes are those of the stored bytes.
        self._client = httpx2.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": user_agent},
            timeout=httpx2.Timeout(timeout_s, connect=10.0),
            follow_redirects=True,
        )
        self._attempts = attempts
        self._first_wait_s = first_wait_s

    def __enter__(self) -> Downloader:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch_json(self, url: str, *, headers: Mapping[str, str] = _NO_HEADERS) -> Any:
        """Read a JSON document of at most 16 MiB.

        Raises:
            DownloadError: not reachable, refused, too long, or not JSON.
        """

        def read(response: httpx2.Response) -> Any:
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > _METADATA_LIMIT_BYTES:
                    raise DownloadError(
                        f"{url} sent more than {_METADATA_LIMIT_BYTES} bytes of JSON"
                    )
            try:
                return json.loads(body)
            except (ValueError, RecursionError) as error:
                raise DownloadError(f"{url} did not answer with JSON: {error}") from error

        return self._ask(url, headers, read)

    def fetch_size(self, url: str) -> int:
        """Ask how many bytes a file has, without its body.

        Raises:
            DownloadError: not reachable, refused, or the server does not say.
        """
        return self._ask(url, _NO_HEADERS, lambda response: announced_length(url, response))

    def _ask(
        self, url: str, headers: Mapping[str, str], read: Callable[[httpx2.Response], _T]
    ) -> _T:
        failures = 0
        while True:
            try:
                with self._open(url, headers) as response:
                    return read(response)
            except _Cut as cut:
                failures += 1
                self._wait_or_give_up(url, cut, failures)

    def fetch(
        self,
        remote: RemoteFile,
        destination: Path,
        *,
        partial: Path,
        headers: Mapping[str, str] = _NO_HEADERS,
        on_bytes: BytesListener = lambda _: None,
    ) -> FileRecord:
        """Bring one file to `destination`, or raise and leave nothing there.

        Args:
            remote: what to fetch.
            destination: final path; if an earlier call already finished this version, nothing is fetched.
            partial: where the unfinished body lies; its journal is beside it with `.json` added. Both survive
                an interruption, so that the next call goes on from there.
            headers: sent with the request; Authorization is dropped when a redirect leaves the host.
            on_bytes: progress.

        Raises:
            DownloadError: gave up, refused by the server, or the content is not what was announced.
            OSError: the disk failed; what arrived is kept.
        """
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        body = PartialBody(partial, remote)
        finished = body.finished_record(destination)
        if finished is not None:
            on_bytes(finished.size)
            return finished
        destination.unlink(missing_ok=True)  # another version; must not be taken for this one later
        record = self._fetch_until_right(body, headers, on_bytes)
        body.mark_finished(record)
        partial.replace(destination)
        return record

    def _fetch_until_right(
        self, body: PartialBody, headers: Mapping[str, str], on_bytes: BytesListener
    ) -> FileRecord:
        """Retry cuts while bytes keep coming; start afresh once if what was on disk turns out stale."""
        failures, furthest, has_restarted = 0, body.size, False
        while True:
            has_resumed = body.size > 0
            try:
                self._transfer(body, headers, on_bytes)
                problem = body.problem()
                if problem is None:
                    return body.record()
                body.discard()
                if not has_resumed:
                    raise DownloadError(problem)
                raise StaleError(problem)
            except _Cut as cut:
                failures = 0 if body.size > furthest else failures + 1
                furthest = max(furthest, body.size)
                self._wait_or_give_up(body.remote.path, cut, failures)
            except StaleError as stale:
                body.discard()
                if has_restarted:
                    raise DownloadError(str(stale)) from stale
                has_restarted = True

    def _transfer(
        self, body: PartialBody, headers: Mapping[str, str], on_bytes: BytesListener
    ) -> None:
        """Ask for what is missing and append it; returns when the announced length is on disk."""
        if body.is_complete:
            return
        with self._open(body.remote.url, {**headers, **body.resume_headers()}) as response:
            total = body.accept(response)
            on_bytes(body.size)
            with body.opened() as file:
                for chunk in response.iter_raw():
                    body.append(file, chunk)
                    if body.size > total:
                        body.discard()
                        raise DownloadError(
                            f"{body.remote.path}: the server sends more than the announced {total} bytes"
                        )
                    on_bytes(body.size)
        if body.size < total:
            raise _Cut(f"got {body.size} of {total} bytes")

    def _wait_or_give_up(self, what: str, cut: _Cut, failures: int) -> None:
        if failures >= self._attempts:
            raise DownloadError(
                f"{what}: {cut} after {failures} attempts without progress; "
                "what arrived is kept, run the same command again to resume"
            ) from cut
        if failures:
            wait_s = self._first_wait_s * 2 ** (failures - 1) if cut.wait_s is None else cut.wait_s
            time.sleep(min(wait_s, _LONGEST_WAIT_S))

    @contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """A response whose status is 200 or 206; the one place where the client's errors are translated."""
        try:
            with self._client.stream("GET", url, headers=dict(headers)) as response:
                _check_status(url, response)
                yield response
        except (httpx2.TransportError, httpx2.StreamError) as error:
            raise _Cut(f"{type(error).__name__}: {error}".rstrip(": ")) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise DownloadError(f"{url} cannot be fetched: {error}") from error


def _check_status(url: str, response: httpx2.Response) -> None:
    if url.startswith("https:") and response.url.scheme != "https":
        raise DownloadError(f"{url} was redirected to unencrypted {response.url}; refused")
    status = response.status_code
    if status in (200, 206):
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(
                f"{url} was sent with Content-Encoding {response.headers['Content-Encoding']!r} although "
                "identity was asked for; lengths cannot be checked"
            )
        return
    if status in _RETRIED_STATUS:
        after = response.headers.get("Retry-After", "")
        raise _Cut(f"HTTP status {status}", wait_s=float(after) if after.isdigit() else None)
    if status == 416 and "Range" in response.request.headers:
        raise StaleError(f"{url}: the server's file is shorter than what it announced before")
    if status in (401, 403):
        raise DownloadError(
            f"{url} refused access (HTTP status {status}); if the model asks for consent, accept its licence "
            "on its page and log in with `hf auth login` or set HF_TOKEN"
        )
    if status == 404:
        raise DownloadError(f"{url} does not exist (HTTP status 404); check the name of the model")
    raise DownloadError(f"{url} answered with HTTP status {status}, expected 200 or 206")
