"""Fetch a picture from an address that the user typed.

Nothing else in the package opens a network connection for a picture, and nothing here decides that an
address may be fetched: the caller does. It is made for a person's own command line, so addresses of the
local network are allowed.
"""

from __future__ import annotations

import http
import http.client
import time
import urllib.error
import urllib.request
from typing import Final
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from fastvlm.errors import MediaError
from fastvlm.processing.image_file import DEFAULT_LIMITS, ImageLimits

MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_CHUNK_BYTES: Final = 64 * 1024
_HEADERS: Final = {
    "User-Agent": "fastvlm",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # so that the bytes counted are the bytes kept
}


def fetch_image(
    url: str, *, limits: ImageLimits = DEFAULT_LIMITS, timeout_s: float = 10.0
) -> bytes:
    """Download the bytes of a picture; whether they are one is for `open_image` to say.

    Args:
        url: http or https, without user name and password. Proxies from the environment are used.
        limits: `max_bytes` is enforced while reading, whatever length the server announces.
        timeout_s: seconds for connecting, for each answer, and for the whole body.

    Raises:
        MediaError: no such address, refused, too slow, too large, or redirected more than three times.
    """
    opener = _opener()
    deadline = time.monotonic() + timeout_s
    target = _checked(url)
    for _ in range(MAX_REDIRECTS + 1):
        # A fresh request each time: nothing but the three headers above ever reaches another host.
        request = urllib.request.Request(target, headers=_HEADERS)  # noqa: S310 - scheme is checked
        try:
            with opener.open(request, timeout=timeout_s) as response:
                if response.status == http.HTTPStatus.OK:
                    return _read(response, target, limits, deadline)
                if response.status not in _REDIRECTS:
                    raise MediaError(
                        f"{_shown(target)}: the server answered {response.status} {response.reason}"
                    )
                location = response.headers.get("Location", "")
        except MediaError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as err:
            raise MediaError(f"{_shown(target)}: cannot be fetched ({_reason(err)})") from err
        target = _checked(urljoin(target, location))
    raise MediaError(f"{_shown(url)}: redirected more than {MAX_REDIRECTS} times")


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS with the proxies of the environment, without urllib's own redirects (and its ftp, file)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _checked(url: str) -> str:
    """The address with everything outside ASCII escaped.

    Raises:
        MediaError: no http(s) address, or one that carries a password.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise MediaError(f"{url.partition('?')[0]}: is no valid address ({err})") from err
    if parts.scheme not in ("http", "https") or not host:
        raise MediaError(f"{_shown(url)}: expected an address that starts with http:// or https://")
    if "@" in parts.netloc:
        raise MediaError(f"{_shown(url)}: addresses with a user name or password are not fetched")
    try:
        ascii_host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError as err:
        raise MediaError(f"{_shown(url)}: {host!r} is no valid host name") from err
    netloc = ascii_host if port is None else f"{ascii_host}:{port}"
    return urlunsplit(
        (
            parts.scheme,
            netloc,
            quote(parts.path, "/%:@!$&'()*+,;=~"),
            quote(parts.query, "/?%:@!$&'()*+,;=~[]"),
            "",
        )
    )


def _read(
    response: http.client.HTTPResponse, url: str, limits: ImageLimits, deadline: float
) -> bytes:
    announced = response.headers.get("Content-Length", "")
    if announced.isdigit() and int(announced) > limits.max_bytes:
        raise MediaError(
            f"{_shown(url)}: {announced} bytes exceed the limit of {limits.max_bytes}; raise max_bytes"
        )
    data = bytearray()
    while chunk := response.read1(_CHUNK_BYTES):
        data += chunk
        if len(data) > limits.max_bytes:
            raise MediaError(
                f"{_shown(url)}: more than the limit of {limits.max_bytes} bytes; raise max_bytes"
            )
        if time.monotonic() > deadline:
            raise TimeoutError("the download takes too long")
    if announced.isdigit() and len(data) < int(announced):
        raise MediaError(
            f"{_shown(url)}: the connection ended after {len(data)} of {announced} bytes; try again"
        )
    return bytes(data)


def _shown(url: str) -> str:
    """The address without query (often a secret token), fragment and password."""
    scheme, mark, rest = url.partition("://")
    host_and_path = rest.partition("?")[0].partition("#")[0]
    host, slash, path = host_and_path.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"


def _reason(err: BaseException) -> str:
    reason = err.reason if isinstance(err, urllib.error.URLError) else err
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return " ".join(str(reason).split())[:100] or type(reason).__name__
