"""A loopback Hugging Face Hub that models are pushed to and opened from, and that can fail.

Tokens, rights, branches, commits, large files and model cards are checked as the Hub does; what is
refused has the Hub's own status and code. `model_hub` serves repositories that nobody writes to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import yaml
from servers.loopback import running

Files = dict[str, bytes]
TOKEN = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"  # of the right form, and nobody's


@dataclass
class Repository:
    """One repository: the files of each commit, and the commit of each branch."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str) -> str:
        text = "".join(f"{path}{hashlib.sha1(files[path]).hexdigest()}" for path in sorted(files))
        sha = hashlib.sha1(f"{len(self.commits)}{text}".encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.messages.append(message)
        return sha

    def files(self, revision: str = "main") -> Files | None:
        return self.commits.get(self.branches.get(revision, revision))


@dataclass
class Fault:
    """What goes wrong, as often as `times`, with requests that match."""

    method: str
    path: str  # a regular expression
    status: int = 0  # 0: the connection is cut
    times: int = 1
    after: bool = False  # cut only once the request has been obeyed
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class User:
    """Who a token belongs to."""

    name: str
    role: str = "write"


class WritableHub(ThreadingHTTPServer):
    """Attributes: repositories by name, users by token, faults to come, every request, blobs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, User] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.blobs: Files = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo_id: str, revision: str = "main") -> Files:
        files = self.repositories[repo_id].files(revision)
        assert files is not None
        return files


class _RefusalError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class _Handler(BaseHTTPRequestHandler):
    server: WritableHub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(self.path.partition("?")[0].removeprefix("/"))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.requests.append((self.command, path))
            self.server.bodies.append(body)
            fault = self._find_fault(path)
            if fault is not None and not fault.after:
                return self._fail(fault)
            try:
                answer = self._obey(path, body)
            except _RefusalError as refusal:
                code = {"X-Error-Code": refusal.code} if refusal.code else {}
                text = json.dumps({"error": refusal.message, "url": refusal.url})
                return self._answer(refusal.status, text.encode(), code)
        if fault is not None:
            return self._fail(fault)
        if isinstance(answer, bytes):
            return self._send(answer, path)
        return self._answer(200, json.dumps(answer).encode())

    def _find_fault(self, path: str) -> Fault | None:
        for fault in self.server.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def _fail(self, fault: Fault) -> None:
        if fault.status:
            self._answer(fault.status, b"{}", fault.headers)
        else:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _obey(self, path: str, body: bytes) -> Any:
        if self.command == "PUT" and path.startswith("blobs/"):
            if hashlib.sha256(body).hexdigest() != path.removeprefix("blobs/"):
                raise _RefusalError(400)
            self.server.blobs[path.removeprefix("blobs/")] = body
            return {}
        if path == "api/whoami-v2":
            user = self._user()
            return {"name": user.name, "orgs": [], "auth": {"accessToken": {"role": user.role}}}
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return check_card(json.loads(body)["content"])
        if match := re.fullmatch(r"([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(match[1], json.loads(body))
        if match := re.fullmatch(r"api/models/([^/]+/[^/]+)(?:/(.+))?", path):
            return self._model(match[1], match[2] or "", body)
        if match := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        raise _RefusalError(404)

    def _user(self) -> User:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in self.server.users:
            raise _RefusalError(401, message="Invalid username or password.")
        return self.server.users[token]

    def _writer(self, repo_id: str) -> User:
        user = self._user()
        if user.role == "read" or repo_id.partition("/")[0] != user.name:
            raise _RefusalError(403, message="You don't have the rights to write here.")
        return user

    def _create(self, wish: dict[str, Any]) -> dict[str, str]:
        repo_id = f"{wish.get('organization') or self._user().name}/{wish['name']}"
        self._writer(repo_id)
        if repo_id in self.server.repositories:
            url = f"{self.server.address}/{repo_id}"
            raise _RefusalError(409, message="You already created this model repo", url=url)
        made = Repository(private=wish.get("visibility") == "private")
        made.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        self.server.repositories[repo_id] = made
        return {"url": f"{self.server.address}/{repo_id}", "name": repo_id}

    def _repository(self, repo_id: str) -> Repository:
        found = self.server.repositories.get(repo_id)
        if found is None or (found.private and self._user().name != repo_id.partition("/")[0]):
            raise _RefusalError(404, "RepoNotFound")
        return found

    def _model(self, repo_id: str, rest: str, body: bytes) -> Any:
        repository = self._repository(repo_id)
        verb, _, revision = rest.partition("/")
        if verb == "auth-check":
            if revision == "write":
                self._writer(repo_id)
            return {}
        if verb == "branch":
            self._writer(repo_id)
            if revision in repository.branches:
                raise _RefusalError(409, message="Reference already exists")
            repository.branches[revision] = repository.branches["main"]
            return {}
        revision = revision or "main"
        files = repository.files(revision)
        if files is None:
            raise _RefusalError(404, "RevisionNotFound")
        if verb == "preupload":
            self._writer(repo_id)
            return {"files": [_upload_mode(f["path"], files) for f in json.loads(body)["files"]]}
        if verb == "commit":
            self._writer(repo_id)
            return self._commit(repo_id, revision, [json.loads(line) for line in body.splitlines()])
        if verb == "tree":
            return [
                {"type": "file", "path": p, "size": len(c), "oid": _git_oid(c)}
                for p, c in files.items()
            ]
        if verb not in ("", "revision"):
            raise _RefusalError(404)
        sha = repository.branches.get(revision, revision)
        return {"id": repo_id, "sha": sha, "siblings": [{"rfilename": p} for p in files]}

    def _commit(self, repo_id: str, branch: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        repository = self.server.repositories[repo_id]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repository.branches.get(branch):
            raise _RefusalError(412, message="A commit has happened since. Please refresh.")
        files = dict(repository.files(branch) or {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(branch, files, lines[0]["value"]["summary"])
        address = f"{self.server.address}/{repo_id}/commit/{sha}"
        return {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""}

    def _batch(self, repo_id: str, wish: dict[str, Any]) -> dict[str, Any]:
        self._writer(repo_id)
        objects = []
        for item in wish["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.blobs:
                href = f"{self.server.address}/blobs/{item['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _resolve(self, repo_id: str, revision: str, path: str) -> bytes:
        repository = self._repository(repo_id)
        files = repository.files(revision)
        if files is None:
            raise _RefusalError(404, "RevisionNotFound")
        self.commit_of_answer = repository.branches.get(revision, revision)
        if path not in files:
            raise _RefusalError(404, "EntryNotFound")
        return files[path]

    def _send(self, content: bytes, path: str) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": self.commit_of_answer,
        }
        self._answer(200, content, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _upload_mode(path: str, files: Files) -> dict[str, Any]:
    large = path.endswith((".safetensors", ".parquet"))
    known = files.get(path)
    oid = hashlib.sha256 if large else lambda c: hashlib.sha1(b"blob %d\0" % len(c) + c)
    return {
        "path": path,
        "uploadMode": "lfs" if large else "regular",
        "shouldIgnore": False,
        "oid": None if known is None else oid(known).hexdigest(),
    }


def check_card(content: str) -> dict[str, Any]:
    """What the Hub demands of a card's metadata, as far as our cards use it."""
    match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
    if match is None:
        return {"warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
    data = yaml.safe_load(match[1])
    wrong = [key for key in ("license", "pipeline_tag", "library_name") if key in data]
    wrong = [key for key in wrong if not isinstance(data[key], str)]
    wrong += [
        key
        for key in ("tags", "datasets", "metrics", "language")
        if key in data and not all(isinstance(item, str) for item in data[key])
    ]
    for model in data.get("model-index", []):
        for result in model["results"]:
            good = (
                result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
            )
            if not good or not all(m["type"] and "value" in m for m in result["metrics"]):
                wrong.append("model-index")
    if wrong:
        raise _RefusalError(400, message=f"Invalid metadata: {', '.join(wrong)}")
    return {"errors": [], "warnings": []}


@contextmanager
def serve_writable_hub() -> Iterator[WritableHub]:
    """A Hub that runs as long as the block."""
    with running(WritableHub()) as server:
        yield server
