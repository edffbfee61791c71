"""A loopback Hugging Face Hub that data sets are pushed to and read from.

`writable_hub` with the routes that the datasets library asks for; all repositories are data sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from servers import writable_hub
from servers.loopback import running
from servers.writable_hub import Files, WritableHub

_REPO = r"api/models/([^/]+/[^/]+)"


class DatasetHub(WritableHub):
    """Attributes: as WritableHub; and `gated`, the repositories that nobody has access to."""

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Handler
        self.gated: set[str] = set()


class _Handler(writable_hub._Handler):
    server: DatasetHub

    def _obey(self, path: str, body: bytes) -> Any:
        path = re.sub("^api/datasets/", "api/models/", path).removeprefix("datasets/")
        if any(name in path for name in self.server.gated):
            raise writable_hub._RefusalError(403, "GatedRepo")
        if match := re.fullmatch(_REPO + r"/tree/([^/]+)(?:/(.+))?", path):
            files = self._files(match[1], match[2])
            return [item for item in _items(files) if _is_below(item["path"], match[3])]
        if match := re.fullmatch(_REPO + r"/paths-info/([^/]+)", path):
            wanted = parse_qs(body.decode())["paths"]
            files = self._files(match[1], match[2])
            return [item for item in _items(files) if item["path"] in wanted]
        return super()._obey(path, body)

    def _files(self, repo_id: str, revision: str) -> Files:
        files = self._repository(repo_id).files(revision)
        if files is None:
            raise writable_hub._RefusalError(404, "RevisionNotFound")
        return files


def _items(files: Files) -> list[dict[str, Any]]:
    """Files and folders, as the Hub lists them."""
    folders = sorted({path.rpartition("/")[0] for path in files if "/" in path})
    items = [
        {"type": "file", "path": p, "size": len(c), "oid": writable_hub._git_oid(c)}
        for p, c in files.items()
    ]
    return [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in folders] + items


def _is_below(path: str, folder: str | None) -> bool:
    return folder is None or path.startswith(f"{folder}/")


@contextmanager
def serve_data_sets() -> Iterator[DatasetHub]:
    """A Hub that runs as long as the block."""
    with running(DatasetHub()) as server:
        yield server
