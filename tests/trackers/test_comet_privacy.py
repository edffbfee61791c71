"""What reaches Comet unasked, and what reaches it when it is asked for."""

from __future__ import annotations

import getpass
import json
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comet_records import HARMLESS, only
from servers.comet import CometServer

from hf_finetune.config import dump_config
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("comet_alone")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder of a user and a machine with names; data and runs lie in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for library in (socket, platform):
        for name in ("gethostname", "node"):
            monkeypatch.setattr(library, name, lambda: "0ur-machine", raising=False)
    monkeypatch.setattr(getpass, "getuser", lambda: "0ur-user")
    monkeypatch.setattr(sys, "argv", ["finetune.py", "0ur-w0rd"])
    return tmp_path


def _asked_for(server: CometServer) -> set[str]:
    return {re.sub("^/(clientlib|api/rest/v2)/", "", path) for path, _ in server.requests}


def test_nothing_of_the_person_or_the_machine_is_sent_unasked(
    tracked: Callable[..., Any], server: CometServer, home: Path
):
    run = finetune(tracked({"max_steps": 2}), quiet=True).run
    written = (run.path / "environment.json").read_text()
    packages = [name for name in json.loads(written)["packages"] if "t" not in name[:2]]
    assert "accelerate" in packages
    assert "0ur-w0rd" in written
    sent = server.received
    for word in ("0ur-machine", "0ur-user", "0ur-w0rd", str(home), platform.release(), *packages):
        assert word.encode() not in sent, word
    assert _asked_for(server) <= HARMLESS
    experiment = only(server)
    assert experiment.parameters["data.root"] == "~/digits"
    assert b"root: ~/digits\n" in experiment.named("asset")["config.yaml"].content
    environment = json.loads(experiment.named("asset")["environment.json"].content)
    assert environment["packages"].keys() == {"torch", "transformers"}
    assert environment["hf_finetune"] == json.loads(written)["hf_finetune"]
    assert "plan" in environment


@pytest.mark.slow  # a process of its own: comet_ml takes over its output
def test_code_environment_and_output_are_sent_when_asked(
    tracked: Callable[..., Any], server: CometServer, tmp_path: Path
):
    asked = {"log_code": True, "log_environment": True, "log_output": True}
    (tmp_path / "x.yaml").write_text(dump_config(tracked({"max_steps": 2}, **asked)))
    script = str(ROOT / "scripts/finetune.py")
    subprocess.run([sys.executable, script, "--config", "x.yaml"], cwd=tmp_path, check=True)
    (run,) = (RunDir(path.parent) for path in tmp_path.rglob("run.json"))
    sent, experiment = server.received, only(server)
    environment = experiment.named("asset")["environment.json"].content
    assert json.loads(environment) == run.read_json("environment.json")
    for word in (platform.node(), platform.release(), "accelerate"):
        assert word.encode() in sent, word
    assert b"validation loss" in sent
    assert Path(script).read_bytes() in sent
