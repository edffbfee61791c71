"""The loopback Comet's other side: what `comet_ml.API` asks for, from what `comet_ml` sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlparse

from servers.comet import Experiment
from servers.loopback import running

WORKSPACE, PROJECT = "me", "digits"


class CometApiServer(ThreadingHTTPServer):
    """Shows experiments.

    Attributes:
        experiments: By key.
        running: Keys of those that go on.
        keys: API keys that are taken; empty takes any.
        broken: Keys of experiments that the server fails at.
        requests: Path and query of each request.
    """

    daemon_threads = True

    def __init__(self, experiments: Mapping[str, Experiment]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.experiments = experiments
        self.running: set[str] = set()
        self.keys: set[str] = set()
        self.broken: set[str] = set()
        self.requests: list[tuple[str, dict[str, str]]] = []

    @property
    def address(self) -> str:
        """What COMET_URL_OVERRIDE is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}/clientlib/"


class _Handler(BaseHTTPRequestHandler):
    server: CometApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = dict(parse_qsl(url.query))
        self.server.requests.append((url.path, query))
        status, content = self._find(url.path, query)
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _find(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        if path.endswith("isAlive/ver"):
            return 200, {"msg": "Healthy Server", "version": "5.0.0"}
        if self.server.keys and self.headers.get("Authorization") not in self.server.keys:
            return 401, {"msg": "unknown key"}
        verb = path.removeprefix("/api/rest/v2/")
        if verb == "experiments":
            if (query["workspaceName"], query["projectName"]) != (WORKSPACE, PROJECT):
                return 404, {"msg": "no such project"}
            return 200, {"experiments": [self._describe(key) for key in self.server.experiments]}
        key = query.get("experimentKey", "")
        if key not in self.server.experiments or key in self.server.broken:
            return 400, {"msg": "no such experiment"}
        return 200, self._show(verb, key)

    def _show(self, verb: str, key: str) -> Any:
        experiment = self.server.experiments[key]
        if verb == "experiment/metadata":
            return self._describe(key)
        if verb == "experiment/tags":
            return {"tags": experiment.tags}
        if verb == "experiment/parameters":
            return {"values": _summarise(experiment.parameters)}
        if verb == "experiment/log-other":
            return {"values": _summarise(experiment.others)}
        if verb == "experiment/metrics/get-all":
            return {
                "metrics": [
                    {"metricName": name, "metricValue": str(value), "step": step, "epoch": epoch}
                    for name, value, step, epoch in experiment.metrics
                ]
            }
        raise AssertionError(f"comet_ml asks for {verb}, which this server doesn't know")

    def _describe(self, key: str) -> dict[str, Any]:
        experiment = self.server.experiments[key]
        return {
            "experimentKey": key,
            "experimentName": experiment.others.get("Name"),
            "workspaceName": WORKSPACE,
            "projectName": PROJECT,
            "startTimeMillis": 1_700_000_000_000,
            "running": key in self.server.running,
            "hasCrashed": any(crashed for _, crashed in experiment.errors),
        }


def _summarise(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As Comet keeps them: everything is text."""
    texts = {
        name: json.dumps(value) if isinstance(value, bool) else str(value)
        for name, value in values.items()
    }
    return [{"name": name, "valueCurrent": text} for name, text in texts.items()]


@contextmanager
def serve_comet_api(experiments: Mapping[str, Experiment]) -> Iterator[CometApiServer]:
    """A server that runs as long as the block."""
    with running(CometApiServer(experiments)) as server:
        yield server
