"""A Comet of the test's own, and small configurations that use it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comet_records import KEY
from servers.comet import CometServer, serve_comet


@pytest.fixture
def comet_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no setting and no file of the machine's user; nobody listens."""
    for name in os.environ:
        if name.startswith("COMET"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "no_such_file"))
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")


@pytest.fixture
def server(comet_alone: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[CometServer]:
    """A Comet that takes the key in the environment, and no other."""
    with serve_comet() as comet:
        comet.keys.add(KEY)
        monkeypatch.setenv("COMET_URL_OVERRIDE", comet.address)
        monkeypatch.setenv("COMET_API_KEY", KEY)
        yield comet


@pytest.fixture
def tracked(make_config: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a small configuration with Comet; settings are those of `tracking.comet`."""

    def make(train: dict[str, Any] | None = None, *, pictures: bool = False, **comet: Any) -> Any:
        over = {f"train__{name}": value for name, value in (train or {}).items()}
        settings = {"examples": 4, "examples_per_cell": 1, **comet}
        over["run__pictures"] = pictures
        return make_config(trackers=["comet"], tracking__comet=settings, **over)

    return make
