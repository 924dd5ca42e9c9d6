"""A real HTTP server on this machine that serves tiny models like the Hub and like Apple, and can misbehave.

Misbehaviour is scripted per path: each request takes the next `Behaviour` of the list, honest ones follow.
"""

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from safetensors.numpy import save

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How one request is answered."""

    cut_after: int | None = None
    """Close the connection after so many bytes of the body."""
    announce_extra: int = 0
    """Bytes that Content-Length says too much (or too little, if negative)."""
    announces_length: bool = True
    ignores_range: bool = False
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Another content from now on, with another ETag."""
    wrong_body: bytes | None = None
    """Another content for this request only, under the same ETag."""
    wait_for: threading.Event | None = None
    """Hold the second half of the body until this is set."""


class ModelServer:
    """What is served, what was asked, and how to misbehave."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.script: dict[str, list[Behaviour]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sends_etags = True
        self.half_sent = threading.Event()

    def add_repository(self, name: str, files: dict[str, bytes], **overrides: object) -> None:
        """Serve a Hub repository; `overrides` replace fields of its description."""
        siblings = []
        for path, content in files.items():
            self.files[f"/{name}/resolve/{REVISION}/{path}"] = content
            entry: dict[str, object] = {"rfilename": path, "size": len(content)}
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry["blobId"] = blob
            if path.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        description = {"id": name, "sha": REVISION, "siblings": siblings, **overrides}
        self.files[f"/api/models/{name}"] = json.dumps(description).encode()

    def description(self, name: str) -> dict[str, object]:
        return json.loads(self.files[f"/api/models/{name}"])

    def describe(self, name: str, description: dict[str, object]) -> None:
        self.files[f"/api/models/{name}"] = json.dumps(description).encode()

    def asked_for(self, end: str) -> list[dict[str, str]]:
        """Headers of each request for a path that ends so."""
        return [headers for path, headers in self.requests if path.endswith(end)]

    def next_behaviour(self, path: str) -> Behaviour:
        script = self.script.get(path)
        return script.pop(0) if script else Behaviour()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model_server: ModelServer

    def do_GET(self) -> None:
        server, path = self.model_server, self.path.partition("?")[0]
        server.requests.append((path, {k.lower(): v for k, v in self.headers.items()}))
        if path in server.redirects:
            self._answer(302, {"Location": server.redirects[path], "Content-Length": "0"})
            return
        behaviour = server.next_behaviour(path)
        if behaviour.body is not None:
            server.files[path] = behaviour.body
        if behaviour.status is not None or path not in server.files:
            status = behaviour.status or 404
            self._answer(status, {"Content-Length": "0", **behaviour.headers})
            return
        self._send_file(path, behaviour)

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_file(self, path: str, behaviour: Behaviour) -> None:
        server = self.model_server
        stored = server.files[path]
        etag = f'"{hashlib.md5(stored).hexdigest()}"'
        content = behaviour.wrong_body if behaviour.wrong_body is not None else stored
        headers = {"Connection": "close"}
        if server.sends_etags:
            headers["ETag"] = etag
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        is_same = self.headers.get("If-Range", etag) == etag
        if asked and is_same and not behaviour.ignores_range:
            start, status = int(asked[1]), 206
            if start >= len(content):
                self._answer(
                    416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
                )
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
        if behaviour.announces_length:
            headers["Content-Length"] = str(max(0, len(content) + behaviour.announce_extra))
        self._answer(status, {**headers, **behaviour.headers})
        self.close_connection = True
        if behaviour.wait_for is not None:
            half = len(content) // 2
            self.wfile.write(content[:half])
            self.wfile.flush()
            server.half_sent.set()
            behaviour.wait_for.wait(60)
            content = content[half:]
        self.wfile.write(content[: behaviour.cut_after])

    def log_message(self, *args: object) -> None:
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # the client went away, which is what several tests are about


@contextmanager
def running_server() -> Iterator[ModelServer]:
    """A server on a free port of this machine."""
    handler = type("Handler", (_Handler,), {})
    with _Quiet(("127.0.0.1", 0), handler) as http:
        server = ModelServer(f"http://127.0.0.1:{http.server_port}")
        handler.model_server = server
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


def tiny_checkpoint(seed: int = 0) -> dict[str, bytes]:
    """Files of a whole checkpoint in Apple's layout with two shards; the tensors are noise."""
    rng = np.random.default_rng(seed)
    shards = {
        f"model-0000{n}-of-00002.safetensors": {
            f"layer{n}.weight": rng.standard_normal((160, 240), dtype=np.float32),
            f"layer{n}.bias": rng.standard_normal(240, dtype=np.float32),
        }
        for n in (1, 2)
    }
    weight_map = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    config = {"model_type": "llava_qwen2", "architectures": ["LlavaQwen2ForCausalLM"]}
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
        **{shard: save(tensors) for shard, tensors in shards.items()},
    }


def zip_of(files: dict[str, bytes], *, folder: str = "llava-fastvithd_0.5b_stage3/") -> bytes:
    """A zip file as Apple makes them: one folder, and what the Finder adds."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        if folder:
            archive.mkdir(folder)
        for name, content in files.items():
            archive.writestr(folder + name, content)
        archive.writestr(f"__MACOSX/{folder}._config.json", b"finder")
    return buffer.getvalue()
