"""A loopback Hugging Face Hub that models can be downloaded from, or not."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from servers.loopback import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class ModelHub(ThreadingHTTPServer):
    """Serves `repositories`: the content of each file by path, by `owner/name`.

    Attributes:
        refusals: By `owner/name`: status and `X-Error-Code` of every answer.
        requests: Method and path of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        self.server.requests.append((self.command, path))
        is_api = path.startswith("api/models/")
        owner, name, *rest = path.removeprefix("api/models/").split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if f"{owner}/{name}" in self.server.refusals:
            status, code = self.server.refusals[f"{owner}/{name}"]
            self._answer(status, b"{}", {"X-Error-Code": code})
        elif files is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_api and rest[0] == "tree":
            tree = [
                {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for p, c in files.items()
            ]
            self._answer(200, json.dumps(tree).encode())
        elif is_api and rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif is_api:
            self._answer(200, json.dumps({"id": f"{owner}/{name}", "sha": COMMIT}).encode())
        else:
            self._send(files.get(re.sub(r"^resolve/[^/]+/", "", "/".join(rest))))

    def _send(self, content: bytes | None) -> None:
        if content is None:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._answer(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serve_models() -> Iterator[ModelHub]:
    """A Hub that runs as long as the block."""
    with running(ModelHub()) as server:
        yield server
