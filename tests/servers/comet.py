"""A loopback Comet: keeps what the real comet_ml sends, experiment by experiment."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlparse

from servers.loopback import running

BEAT = {
    "is_alive_beat_duration_millis": 60_000,
    "gpu_monitor_interval_millis": 60_000,
    "cpu_monitor_interval_millis": 60_000,
    "parameter_update_interval_millis": 1000,
    "pending_rpcs": False,
}


@dataclass
class Asset:
    """A file that was sent: Comet's words about it, and its content."""

    about: dict[str, str]
    content: bytes

    @property
    def name(self) -> str:
        """What Comet shows it as."""
        return self.about.get("figName") or self.about.get("fileName", "")


@dataclass
class Experiment:
    """What the server holds of one experiment.

    Attributes:
        project: Project and workspace, as asked for.
        metrics: Name, value, step, epoch of each.
        parameters: By name.
        others: By name; the last one holds.
        tags: In the order that they came in.
        assets: All files, images and clips that it shows.
        uploads: How often each of them, by kind and name, was sent.
        errors: Errors that were reported, each with whether it is a crash.
    """

    project: tuple[str | None, str | None]
    metrics: list[tuple[str, float, int | None, float | None]] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    assets: list[Asset] = field(default_factory=list)
    uploads: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: list[tuple[str, bool]] = field(default_factory=list)

    def named(self, kind: str) -> dict[str, Asset]:
        """Assets of a kind by name: `image`, `audio`, `model-element`, `text-sample`, `asset`."""
        return {asset.name: asset for asset in self.assets if asset.about["kind"] == kind}


class CometServer(ThreadingHTTPServer):
    """Takes experiments.

    Attributes:
        experiments: By key.
        keys: API keys that are taken; empty takes any.
        workspaces: Workspaces that there are; empty takes any.
        is_down: Cuts every connection.
        is_silent: Takes every connection, and never answers.
        refused: Status by request, such as `batch/logger/experiment/metric`, that is not obeyed.
        portal: Status and page that stand in place of every answer, as a network's sign-in does.
        requests: Path and body of each request.
        queries: What stood after the path, of each.
        registered: Models that were registered, as asked for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.experiments: dict[str, Experiment] = {}
        self.keys: set[str] = set()
        self.workspaces: set[str] = set()
        self.is_down = False
        self.is_silent = False
        self.refused: dict[str, int] = {}
        self.portal: tuple[int, bytes] | None = None
        self.closing = threading.Event()
        self.requests: list[tuple[str, bytes]] = []
        self.queries: list[str] = []
        self.registered: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        """What COMET_URL_OVERRIDE is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}/clientlib/"

    @property
    def received(self) -> bytes:
        """All that came in, but for what opens an experiment."""
        bodies = (body for path, body in self.requests if "/logger/add/run" not in path)
        return b"\n".join([*(query.encode() for query in self.queries), *bodies])

    def server_close(self) -> None:
        """Lets go of those who still wait for an answer."""
        self.closing.set()
        super().server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: CometServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._take(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._take(gzip.decompress(body) if self.headers.get("Content-Encoding") else body)

    def _take(self, body: bytes) -> None:
        if self.server.is_silent:
            self.server.closing.wait()
        if self.server.is_down or self.server.is_silent:
            self.close_connection = True
            self.connection.close()
            return
        if self.server.portal is not None:
            status, page = self.server.portal
            self._send(status, "text/html", page)
            return
        url = urlparse(self.path)
        self.server.requests.append((url.path, body))
        self.server.queries.append(unquote_plus(url.query))
        verb = url.path.removeprefix("/clientlib/").removeprefix("/api/rest/v2/")
        query = dict(parse_qsl(url.query))
        if verb in self.server.refused:
            self._answer(
                {"msg": f"not for {' '.join(self.server.keys)}"}, self.server.refused[verb]
            )
            return
        if verb.endswith("/upload"):
            self._keep_asset(verb, query, body)
            self._answer({"msg": "ok"})
            return
        content = json.loads(body) if body[:1] == b"{" else {}
        handler = _VERBS.get(verb)
        status, answer = handler(self.server, content, query) if handler else (200, {"msg": "ok"})
        self._answer(answer, status)

    def _keep_asset(self, verb: str, query: dict[str, str], body: bytes) -> None:
        boundary = re.search(r"boundary=(\S+)", self.headers["Content-Type"])[1].encode()
        parts = body.split(b"--" + boundary)[1:-1]
        files = [part for part in parts if b'name="file"' in part.partition(b"\r\n\r\n")[0]]
        content = files[0].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        kind = "image" if verb.startswith("visualizations") else query.get("type", "asset")
        asset = Asset({**query, "kind": kind}, content)
        experiment = self.server.experiments[query["experimentId"]]
        experiment.uploads[kind, asset.name] += 1
        if query.get("overwrite", "").lower() == "true":
            kept = [a for a in experiment.assets if (a.about["kind"], a.name) != (kind, asset.name)]
            experiment.assets[:] = kept
        experiment.assets.append(asset)

    def _answer(self, content: Any, status: int = 200) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: int, kind: str, text: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


Answer = tuple[int, Any]


def _open(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    """`logger/add/run`: a new experiment, or a refusal where it is there already."""
    if server.keys and content["apiKey"] not in server.keys:
        return 400, {"msg": "unknown key", "sdk_error_code": 90212}
    if server.workspaces and content["teamName"] not in server.workspaces:
        return 400, {"msg": "no such workspace", "sdk_error_code": 90219}
    key = content["experimentKey"]
    if key in server.experiments and not content["getOrCreateEnabled"]:
        return 400, {"msg": "exists", "sdk_error_code": 90999}
    asked = (content["projectName"], content["teamName"])
    server.experiments.setdefault(key, Experiment(asked))
    return 200, _handshake(key)


def _reopen(_: CometServer, content: dict[str, Any], __: Any) -> Answer:
    """`logger/get/run`: an experiment that is there."""
    return 200, _handshake(content["previousExperiment"])


def _handshake(key: str) -> dict[str, Any]:
    return {
        "experimentKey": key,
        "runId": "run",
        "project_id": "project",
        "projectId": "project",
        "projectName": "digits",
        "workspaceName": "me",
        "focusUrl": "http://127.0.0.1/me/digits/",
    }


def _log_metrics(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    metrics = server.experiments[content["experimentKey"]].metrics
    metrics += [
        (v["metricName"], v["metricValue"], v["step"], v["epoch"]) for v in content["values"]
    ]
    return 200, {"msg": "ok"}


def _log_parameters(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    parameters = server.experiments[content["experimentKey"]].parameters
    parameters |= {v["parameterName"]: v["parameterValue"] for v in content["values"]}
    return 200, {"msg": "ok"}


def _log_other(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    server.experiments[content["experimentKey"]].others[content["key"]] = content["value"]
    return 200, {"msg": "ok"}


def _add_tags(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    server.experiments[content["experimentKey"]].tags += content["addedTags"]
    return 200, {"msg": "ok"}


def _update_status(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    errors = server.experiments[content["experimentKey"]].errors
    errors.append((content["error"], content["hasCrashed"]))
    return 200, {"msg": "ok"}


def _describe(server: CometServer, _: Any, query: dict[str, str]) -> Answer:
    key = query["experimentKey"]
    if key not in server.experiments:
        return 404, {"msg": "no such experiment"}
    return 200, {"experimentKey": key, "workspaceName": "me", "projectName": "digits"}


def _list_models(server: CometServer, _: Any, query: dict[str, str]) -> Answer:
    assets = server.experiments[query["experimentKey"]].assets
    names = {a.about["groupingName"] for a in assets if a.about["kind"] == "model-element"}
    return 200, {"models": [{"modelName": n, "experimentModelId": f"id of {n}"} for n in names]}


def _register(server: CometServer, content: dict[str, Any], _: Any) -> Answer:
    server.registered.append(content)
    return 200, {"registryModelId": "1", "registryModelItemId": "1"}


_VERBS: dict[str, Any] = {
    "isAlive/ver": lambda *_: (200, {"msg": "Healthy Server", "version": "3.4.0"}),
    "logger/add/run": _open,
    "logger/get/run": _reopen,
    "status-report/update": lambda *_: (200, BEAT),
    "batch/logger/experiment/metric": _log_metrics,
    "batch/logger/experiment/parameter": _log_parameters,
    "write/experiment/log-other": _log_other,
    "tags/add-tags-to-experiment": _add_tags,
    "write/experiment/update-status": _update_status,
    "experiment/metadata": _describe,
    "experiment/model": _list_models,
    "registry-model": lambda *_: (200, {"registryModels": []}),
    "write/registry-model": _register,
    "write/registry-model/item": _register,
}


@contextmanager
def serve_comet() -> Iterator[CometServer]:
    """A server that runs as long as the block."""
    with running(CometServer()) as server:
        yield server
