"""Downloads against a local server that redirects, lies, drips and never ends."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import picture_files as files
import pytest

from fastvlm.errors import MediaError
from fastvlm.processing.image_file import ImageLimits, open_image
from fastvlm.processing.image_url import fetch_image

PICTURE = files.encoded(files.gradient(), "PNG")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path; what a client sent is kept in `server.seen`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        path, _, target = self.path.partition("?to=")
        if path == "/redirect":
            self.answer(302, b"elsewhere", Location=target)
        elif path == "/loop":
            self.answer(301, b"", Location="/loop")
        elif path == "/nowhere":
            self.answer(302, b"")
        elif path == "/announces-much":
            self.answer(200, b"x", **{"Content-Length": "999999999"})
        elif path == "/announces-more":
            self.answer(200, PICTURE, **{"Content-Length": str(len(PICTURE) + 10)})
        elif path in ("/endless", "/drips", "/silent"):
            getattr(self, path[1:])()
        elif path in ("/picture.png", "/sch%C3%B6n%20hier.png"):
            self.answer(200, PICTURE, **{"Content-Type": "text/html"})
        elif path == "/broken":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
        else:
            self.answer(404, b"no")
        self.close_connection = True

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while not self.server.closing.is_set():
                self.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n")
        except OSError:
            self.server.cut.set()

    def drips(self) -> None:
        """A byte every 20 ms, so that no single read ever times out."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        try:
            while not self.server.closing.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            self.server.cut.set()

    def silent(self) -> None:
        self.server.closing.wait()

    def log_message(self, format: str, *args: object) -> None:
        """Keep stderr clean."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.closing = threading.Event()
        self.cut = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def test_a_picture_is_fetched_whatever_type_the_server_claims(server: Server) -> None:
    data = fetch_image(f"{server.url}/picture.png")
    assert data == PICTURE
    assert open_image(data).size == (48, 32)


def test_letters_outside_ascii_are_escaped(server: Server) -> None:
    assert fetch_image(f"{server.url}/schön hier.png#top") == PICTURE


def test_redirects_are_followed_without_anything_secret(server: Server) -> None:
    url = f"{server.url}/redirect?to={server.url}/picture.png"
    assert fetch_image(url) == PICTURE
    assert [path for path, _ in server.seen][1:] == ["/picture.png"]
    for _, headers in server.seen:
        assert set(headers) == {"Accept", "Accept-Encoding", "Host", "User-Agent", "Connection"}


def test_three_redirects_are_enough(server: Server) -> None:
    url = f"{server.url}/picture.png"
    for _ in range(3):
        url = f"{server.url}/redirect?to={url}"
    assert fetch_image(url) == PICTURE
    with pytest.raises(MediaError, match="/redirect: redirected more than 3 times"):
        fetch_image(f"{server.url}/redirect?to={url}")
    with pytest.raises(MediaError, match="redirected more than 3 times"):
        fetch_image(f"{server.url}/loop")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AA=="]
)
def test_redirects_lead_to_nothing_but_http(server: Server, target: str) -> None:
    with pytest.raises(MediaError, match="expected an address that starts with http"):
        fetch_image(f"{server.url}/redirect?to={target}")


def test_a_redirect_cannot_bring_a_password(server: Server) -> None:
    target = f"http://user:secret@127.0.0.1:{server.server_port}/picture.png"
    with pytest.raises(MediaError, match="user name or password") as caught:
        fetch_image(f"{server.url}/redirect?to={target}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["/announces-much", "/endless"])
def test_the_size_limit_holds_while_reading(server: Server, path: str) -> None:
    with pytest.raises(MediaError, match=f"{path}: .*the limit of 100000"):
        fetch_image(server.url + path, limits=ImageLimits(max_bytes=100_000))
    if path == "/endless":
        assert server.cut.wait(10)  # the connection was closed, not read to the end


@pytest.mark.parametrize("path", ["/drips", "/silent"])
def test_slow_servers_are_given_up(server: Server, path: str) -> None:
    with pytest.raises(MediaError, match=r"no answer in time|takes too long"):
        fetch_image(server.url + path, timeout_s=0.3)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing?key=secret", r"/missing: the server answered 404 Not Found"),
        ("/announces-more", r"the connection ended after \d+ of \d+ bytes; try again"),
        ("/broken", "cannot be fetched"),
        ("/nowhere", "redirected more than 3 times"),
    ],
)
def test_failures_are_told_in_one_line(server: Server, path: str, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        fetch_image(server.url + path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.org/a.png", "expected an address that starts with http"),
        ("/tmp/a.png", "expected an address that starts with http"),
        ("http://", "expected an address that starts with http"),
        ("http://user:secret@example.org/a.png", "user name or password"),
        ("http://exa..mple/a.png", "is no valid host name"),
        ("http://[1::2/a.png", "is no valid address"),
        ("http://example.org:99999/", "is no valid address"),
    ],
)
def test_bad_addresses_are_refused_before_connecting(url: str, message: str) -> None:
    with pytest.raises(MediaError, match=message) as caught:
        fetch_image(url)
    assert "secret" not in str(caught.value)


def test_nobody_listening(server: Server) -> None:
    with pytest.raises(MediaError, match="cannot be fetched"):
        fetch_image("http://127.0.0.1:9/a.png", timeout_s=2)
