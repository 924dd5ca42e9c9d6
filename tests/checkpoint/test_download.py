import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvlm.checkpoint.download import Downloader
from fastvlm.checkpoint.partial_body import FileRecord, RemoteFile
from fastvlm.errors import DownloadError
from model_server import Behaviour, ModelServer, running_server

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "/weights"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as running:
        running.files[PATH] = CONTENT
        yield running


class Fetch:
    """Fetches into one folder, as often as a test likes."""

    def __init__(self, server: ModelServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.destination, self.partial = folder / "weights", folder / "parts" / "weights"
        self.progress: list[int] = []

    def __call__(self, **known: object) -> FileRecord:
        remote = RemoteFile(path="weights", url=self.server.url + PATH, **known)
        with Downloader(attempts=3, first_wait_s=0) as downloader:
            return downloader.fetch(
                remote, self.destination, partial=self.partial, on_bytes=self.progress.append
            )

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for headers in self.server.asked_for(PATH)]


@pytest.fixture
def fetch(server: ModelServer, tmp_path: Path) -> Fetch:
    return Fetch(server, tmp_path)


def test_file_arrives_with_its_hash(fetch: Fetch) -> None:
    record = fetch(size=len(CONTENT), sha256=SHA256)

    assert record == FileRecord(size=len(CONTENT), sha256=SHA256)
    assert fetch.destination.read_bytes() == CONTENT
    assert not fetch.partial.exists()
    assert fetch.progress == sorted(fetch.progress)
    assert fetch.progress[-1] == len(CONTENT)


def test_cut_connections_are_resumed_where_they_broke(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000), Behaviour(cut_after=50_000)]

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.destination.read_bytes() == CONTENT
    assert fetch.ranges == [None, "bytes=100000-", "bytes=150000-"]
    etag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert [h.get("if-range") for h in server.asked_for(PATH)] == [None, etag, etag]


def test_a_later_call_resumes_what_an_earlier_one_left(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=120_000), *[Behaviour(status=503)] * 3]
    with pytest.raises(DownloadError, match=r"HTTP status 503 after 3 attempts .* resume"):
        fetch(size=len(CONTENT), sha256=SHA256)
    assert not fetch.destination.exists()

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.ranges[-1] == "bytes=120000-"
    assert fetch.destination.read_bytes() == CONTENT


def test_a_finished_file_is_not_fetched_again(server: ModelServer, fetch: Fetch) -> None:
    first = fetch(size=len(CONTENT), sha256=SHA256)
    num_requests = len(server.requests)

    assert fetch(size=len(CONTENT), sha256=SHA256) == first
    assert len(server.requests) == num_requests


def test_a_finished_file_that_shrank_is_fetched_again(server: ModelServer, fetch: Fetch) -> None:
    fetch(size=len(CONTENT), sha256=SHA256)
    fetch.destination.write_bytes(CONTENT[:-1])

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.destination.read_bytes() == CONTENT


def test_another_version_replaces_a_finished_file(server: ModelServer, fetch: Fetch) -> None:
    fetch(size=len(CONTENT), sha256=SHA256)
    server.files[PATH] = OTHER

    fetch(size=len(OTHER), sha256=hashlib.sha256(OTHER).hexdigest())

    assert fetch.destination.read_bytes() == OTHER


def test_server_without_ranges_starts_afresh(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000), Behaviour(ignores_range=True)]

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.destination.read_bytes() == CONTENT


def test_server_without_ranges_that_always_cuts_is_given_up(
    server: ModelServer, fetch: Fetch
) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000, ignores_range=True)] * 50

    with pytest.raises(DownloadError, match="after 3 attempts without progress"):
        fetch(size=len(CONTENT), sha256=SHA256)

    assert len(server.requests) == 4
    assert not fetch.destination.exists()


def test_versions_are_never_glued_together(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000), Behaviour(body=OTHER)]

    fetch()

    assert fetch.destination.read_bytes() == OTHER


def test_server_that_ignores_if_range_is_found_out_by_its_etag(
    server: ModelServer, fetch: Fetch
) -> None:
    new_etag = {"ETag": '"new"'}
    server.script[PATH] = [
        Behaviour(cut_after=100_000),
        Behaviour(wrong_body=OTHER, headers=new_etag),
        Behaviour(wrong_body=OTHER, headers=new_etag),
    ]

    fetch()

    assert fetch.destination.read_bytes() == OTHER


def test_another_range_than_asked_for_is_not_appended(server: ModelServer, fetch: Fetch) -> None:
    shifted = {"Content-Range": "bytes 100001-299999/300000"}
    server.script[PATH] = [Behaviour(cut_after=100_000), Behaviour(headers=shifted)]

    fetch(size=len(CONTENT))

    assert fetch.destination.read_bytes() == CONTENT
    assert fetch.ranges == [None, "bytes=100000-", None]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"weak"'}])
def test_nothing_is_resumed_without_strong_etag_or_hash(
    server: ModelServer, fetch: Fetch, headers: dict[str, str]
) -> None:
    server.sends_etags = False
    server.script[PATH] = [Behaviour(cut_after=100_000, headers=headers)]
    server.script[PATH] += [Behaviour(status=503)] * 3
    with pytest.raises(DownloadError, match="503"):
        fetch()

    fetch()

    assert fetch.ranges[-1] is None
    assert fetch.destination.read_bytes() == CONTENT


def test_wrong_hash_after_resuming_is_fetched_again(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000), Behaviour(wrong_body=OTHER)]

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.destination.read_bytes() == CONTENT
    assert fetch.ranges == [None, "bytes=100000-", None]


def test_wrong_hash_is_an_error_and_leaves_nothing(server: ModelServer, fetch: Fetch) -> None:
    server.files[PATH] = OTHER

    with pytest.raises(DownloadError, match=rf"SHA-256 is .* expected {SHA256}"):
        fetch(size=len(CONTENT), sha256=SHA256)

    assert not fetch.destination.exists()
    assert not fetch.partial.exists()


def test_wrong_git_id_is_an_error(fetch: Fetch) -> None:
    right = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    fetch(size=len(CONTENT), git_sha1=right)

    with pytest.raises(DownloadError, match="git id is"):
        fetch(size=len(CONTENT), git_sha1="0" * 40)
    assert not fetch.destination.exists()


@pytest.mark.parametrize("extra", [-1000, 1000])
def test_announced_length_must_be_the_known_one(
    server: ModelServer, fetch: Fetch, extra: int
) -> None:
    server.script[PATH] = [Behaviour(announce_extra=extra)] * 9

    with pytest.raises(DownloadError, match=f"announces {300_000 + extra} bytes, expected 300000"):
        fetch(size=len(CONTENT), sha256=SHA256)
    assert not fetch.destination.exists()


def test_length_that_is_announced_too_long_is_given_up(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(announce_extra=5000)] * 50

    with pytest.raises(DownloadError, match="shorter than what it announced"):
        fetch()
    assert not fetch.destination.exists()


def test_length_that_is_announced_too_short_fails_the_hash(
    server: ModelServer, fetch: Fetch
) -> None:
    server.script[PATH] = [Behaviour(announce_extra=-5000)] * 9

    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(sha256=SHA256)
    assert not fetch.destination.exists()


def test_length_must_be_known_from_somewhere(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(announces_length=False)]
    with pytest.raises(DownloadError, match="announces no length"):
        fetch(sha256=SHA256)

    server.script[PATH] = [Behaviour(announces_length=False, cut_after=100_000)]
    fetch(size=len(CONTENT))
    assert fetch.destination.read_bytes() == CONTENT
    assert fetch.ranges[-1] == "bytes=100000-"


def test_more_bytes_than_known_are_refused(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(announces_length=False)]

    with pytest.raises(DownloadError, match="sends more than the announced 299999 bytes"):
        fetch(size=len(CONTENT) - 1)
    assert not fetch.partial.exists()


def test_compressed_body_is_refused(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(headers={"Content-Encoding": "gzip"})]

    with pytest.raises(DownloadError, match="Content-Encoding 'gzip'"):
        fetch(size=len(CONTENT))
    assert server.requests[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "hf auth login"), (403, "hf auth login"), (404, "check the name"), (416, "status 416")],
)
def test_refusals_are_not_retried(
    server: ModelServer, fetch: Fetch, status: int, message: str
) -> None:
    server.script[PATH] = [Behaviour(status=status)]

    with pytest.raises(DownloadError, match=message):
        fetch()
    assert len(server.requests) == 1


def test_busy_server_is_asked_again_after_the_pause_it_names(
    server: ModelServer, fetch: Fetch
) -> None:
    server.script[PATH] = [Behaviour(status=429, headers={"Retry-After": "0"})] * 2

    fetch()

    assert fetch.destination.read_bytes() == CONTENT


def test_server_that_is_not_there_is_one_clear_error(fetch: Fetch) -> None:
    fetch.server = ModelServer("http://127.0.0.1:9")  # the discard port: nobody listens

    with pytest.raises(DownloadError, match="weights: ConnectError"):
        fetch()


def test_authorization_stays_with_the_host_it_is_meant_for(
    server: ModelServer, tmp_path: Path
) -> None:
    with running_server() as storage:
        storage.files["/blob"] = CONTENT
        server.redirects[PATH] = f"{storage.url}/blob"
        remote = RemoteFile(path="weights", url=server.url + PATH, size=len(CONTENT))
        storage.script["/blob"] = [Behaviour(cut_after=100_000)]
        with Downloader(first_wait_s=0) as downloader:
            downloader.fetch(
                remote,
                tmp_path / "weights",
                partial=tmp_path / "parts" / "weights",
                headers={"Authorization": "Bearer secret"},
            )

        assert all(h["authorization"] == "Bearer secret" for h in server.asked_for(PATH))
        assert [h.get("authorization") for h in storage.asked_for("/blob")] == [None, None]
        assert storage.asked_for("/blob")[1]["range"] == "bytes=100000-"


def test_json_is_bounded_and_must_be_json(server: ModelServer) -> None:
    server.files["/long"] = b" " * (17 << 20)
    server.files["/text"] = b"<html>"
    with Downloader(first_wait_s=0) as downloader:
        with pytest.raises(DownloadError, match="more than"):
            downloader.fetch_json(f"{server.url}/long")
        with pytest.raises(DownloadError, match="did not answer with JSON"):
            downloader.fetch_json(f"{server.url}/text")


def test_a_torn_journal_means_a_fresh_start(server: ModelServer, fetch: Fetch) -> None:
    server.script[PATH] = [Behaviour(cut_after=100_000), *[Behaviour(status=503)] * 3]
    with pytest.raises(DownloadError):
        fetch(size=len(CONTENT), sha256=SHA256)
    fetch.partial.with_name("weights.json").write_text('{"identity": ', encoding="utf-8")

    fetch(size=len(CONTENT), sha256=SHA256)

    assert fetch.ranges[-1] is None
    assert fetch.destination.read_bytes() == CONTENT
