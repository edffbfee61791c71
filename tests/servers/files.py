"""A loopback web server for files, with the faults that real ones have.

Each path has a list of faults; a request takes the next one, and none are left means health.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from servers.loopback import running


class FileServer(ThreadingHTTPServer):
    """Serves `content` by path.

    Attributes:
        content: Bytes by path (`/mnist/x.gz`).
        faults: By path, what goes wrong with the coming requests, in order: `cut` (the connection
            ends half-way), `no_range` (Range is ignored), `no_range_cut` (both), `503`, `404`,
            `wrong` (other bytes), `longer` and `shorter` (the length announced is a lie),
            `shifted` (another range than asked for), `>ADDRESS` (redirect), `stall` (silence).
        requests: Path and Range header of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        faults = self.server.faults.get(self.path, [])
        fault = faults.pop(0) if faults else ""
        content = self.server.content.get(self.path)
        if fault.startswith(">"):
            self._answer(302, b"", {"Location": fault[1:]})
        elif fault.isdecimal() or content is None:
            self._answer(int(fault or 404), b"")
        elif fault == "stall":
            self.server.released.wait(10)
        else:
            self._send(content, asked, fault)

    def _send(self, content: bytes, asked: str | None, fault: str) -> None:
        if fault == "wrong":
            content = bytes(255 - byte for byte in content)
        start, headers, status = 0, {}, 200
        if asked and not fault.startswith("no_range"):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status = 206
            start += fault == "shifted"
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        headers["Content-Length"] = str(len(body) + {"longer": 10, "shorter": -10}.get(fault, 0))
        if fault == "shorter":
            body = body[:-10]
        self._answer(status, body[: len(body) // 2] if fault.endswith("cut") else body, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@contextmanager
def serve_files() -> Iterator[FileServer]:
    """A server that runs as long as the block."""
    with running(FileServer()) as server:
        try:
            yield server
        finally:
            server.released.set()
