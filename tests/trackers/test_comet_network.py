"""Keys, workspaces and networks that are not what they should be."""

from __future__ import annotations

import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comet_records import KEY, Crash, archived_others, in_history, logged, only
from servers.comet import CometServer

from hf_finetune.config import dump_config
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers import comet_session
from hf_finetune.trackers.comet_client import find_key, find_obstacle, import_comet
from hf_finetune.trackers.comet_upload import Destination, upload_run

pytestmark = pytest.mark.usefixtures("comet_alone")


class Outage(Crash):
    """A network that goes away after a step."""

    def __init__(self, server: CometServer, step: int, kind: str) -> None:
        super().__init__(step, OSError())
        self.server, self.kind = server, kind

    def on_step(self, step: int, *_: object) -> None:
        if step == self.step:
            setattr(self.server, self.kind, True)


def _check_nothing_is_lost(run: RunDir, server: CometServer) -> None:
    server.is_silent = server.is_down = False
    upload_run(run.path)
    assert set(logged(only(server).metrics)) == set(in_history(run))
    assert only(server).others["run_status"] == "finished"


@pytest.mark.slow
def test_a_network_that_swallows_everything_costs_seconds(
    tracked: Callable[..., Any], server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    # Comet's own are 10 s a call, ours 15 s before we ask: a test has less time.
    monkeypatch.setenv("COMET_TIMEOUT_HTTP", "1")
    monkeypatch.setenv("COMET_TIMEOUT_API", "1")
    monkeypatch.setattr(comet_session, "_PATIENCE_SECONDS", 1)
    started = time.monotonic()
    run = finetune(tracked(), quiet=True, listeners=(Outage(server, 3, "is_silent"),)).run
    assert time.monotonic() - started < 40  # comet_ml alone waits for an hour, and then for three
    assert any("the network went away during the run" in w for w in run.status["warnings"])
    _check_nothing_is_lost(run, server)


def test_comet_waits_for_a_minute_where_the_user_has_not_said_otherwise(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("COMET_TIMEOUT_UPLOAD", "77")
    config = import_comet().get_config()
    assert config["comet.timeout.upload"] == 77
    assert config["comet.timeout.cleaning"] + config["comet.timeout.file_upload"] <= 60
    assert config["comet.http_session.retry_total"] == 1


@pytest.mark.slow
def test_a_process_ends_soon_after_a_run_whose_network_swallowed_everything(
    tracked: Callable[..., Any], server: CometServer, tmp_path: Path
):
    (tmp_path / "x.yaml").write_text(dump_config(tracked(examples=40)))
    program = (
        "import sys, threading, time; from pathlib import Path\n"
        "from hf_finetune import finetune, load_config\n"
        "class Tell:\n"
        "    def on_step(self, step, *_):\n"
        "        if step == 3: print('third step', flush=True); sys.stdin.readline()\n"
        "    def on_record(self, _): pass\n"
        "finetune(load_config('x.yaml'), quiet=True, listeners=(Tell(),))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "third step\n"
        server.is_silent = True
        started = time.monotonic()
        child.stdin.close()
        assert child.wait(timeout=300) == 0
    assert time.monotonic() - started < 120
    (run,) = (RunDir(path.parent) for path in tmp_path.rglob("run.json"))
    assert run.status["status"] == "finished"
    _check_nothing_is_lost(run, server)


def test_what_comet_does_not_take_online_is_said_and_can_be_sent_again(
    tracked: Callable[..., Any], server: CometServer
):
    server.refused["batch/logger/experiment/metric"] = 400
    run = finetune(tracked({"max_steps": 2, "engine": "loop"}), quiet=True).run
    (warning,) = run.status["warnings"]
    assert "tracking.comet: Comet took the run, but not " in warning
    assert warning.endswith(f"hf-finetune comet upload {run.path}")
    assert only(server).metrics == []
    server.refused.clear()
    upload_run(run.path)
    assert logged(only(server).metrics) == in_history(run)


def test_what_a_later_session_lost_is_sent_with_all_before(
    tracked: Callable[..., Any], server: CometServer
):
    config = tracked({"max_steps": 1, "engine": "loop"}, examples=0)
    run = finetune(config, quiet=True).run
    num_records = run.read_json("comet.json")["num_records"]
    server.refused["write/experiment/log-other"] = 400
    warnings: list[str] = []
    session = comet_session.open_session(run.path, config.tracking.comet, warnings.append)
    assert session is not None
    session.experiment.log_other("note", "of a resumed run")
    session.close(num_records)
    assert "Comet took the run, but not " in warnings[0]
    server.refused.clear()
    assert "sent to Comet" in upload_run(run.path)


@pytest.mark.parametrize("status", [200, 407, 502])
def test_only_what_comet_answers_counts_as_comet(status: int, server: CometServer):
    assert find_obstacle() is None
    server.portal = (status, b"<html>Please sign in</html>")
    obstacle = find_obstacle()
    assert obstacle is not None
    assert f"{server.address} doesn't answer as Comet does (status {status})" in obstacle


def test_a_wrong_workspace_is_named_and_can_be_mended(
    tracked: Callable[..., Any], server: CometServer
):
    server.workspaces.add("ours")
    settings = {"workspace": "0urs", "project": "mine"}
    run = finetune(tracked({"max_steps": 2}, **settings), quiet=True).run
    (warning,) = run.status["warnings"]
    assert "Comet has no workspace '0urs' for this key" in warning
    assert "Correct tracking.comet.workspace (or COMET_WORKSPACE)" in warning
    assert f"hf-finetune comet upload {run.path} --workspace NAME" in warning
    told = r"didn't take the run\. .* no workspace '0urs' .* Correct it with --workspace NAME"
    with pytest.raises(UserError, match=told):
        upload_run(run.path)
    upload_run(run.path, Destination("ours"))
    assert only(server).project == ("mine", "ours")
    assert logged(only(server).metrics) == in_history(run)
    state = run.read_json("comet.json")
    assert (state["workspace"], state["project"]) == ("ours", "mine")


def test_a_wrong_key_is_not_shown_but_its_place_is(
    tracked: Callable[..., Any],
    server: CometServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    wrong = "wr0ngKeywr0ngKeywr0ngKey1"
    monkeypatch.setenv("COMET_API_KEY", wrong)
    run = finetune(tracked({"max_steps": 2}), quiet=True).run
    (warning,) = run.status["warnings"]
    assert "Comet doesn't know the key in COMET_API_KEY" in warning
    with pytest.raises(UserError, match="doesn't know the key in COMET_API_KEY"):
        upload_run(run.path)
    shown = capfd.readouterr()
    assert wrong not in shown.out + shown.err
    assert not [p for p in run.path.rglob("*") if p.is_file() and wrong.encode() in p.read_bytes()]
    (archive,) = (run.path / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as packed:
        assert not [name for name in packed.namelist() if wrong.encode() in packed.read(name)]
    assert archived_others(run)["run_status"] == "finished"


@pytest.mark.parametrize("place", ["COMET_CONFIG", "home"])
@pytest.mark.parametrize("said", [None, "", " "])
def test_the_key_in_comets_own_file_is_found(
    place: str, said: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = tmp_path / ".comet.config"
    file.write_text(f"[comet]\napi_key = {KEY}\n")
    if place == "home":
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("COMET_CONFIG")
    else:
        monkeypatch.setenv("COMET_CONFIG", str(file))
    if said is not None:
        monkeypatch.setenv("COMET_API_KEY", said)
    assert find_key() == KEY
    file.unlink()
    assert find_key() is None


def test_workspace_and_project_of_comets_own_file_are_followed(
    tracked: Callable[..., Any],
    server: CometServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    file = tmp_path / "comet.config"
    file.write_text("[comet]\nworkspace = ours\nproject_name = theirs\n")
    monkeypatch.setenv("COMET_CONFIG", str(file))
    run = finetune(tracked({"max_steps": 1, "engine": "loop"}, examples=0), quiet=True).run
    assert only(server).project == ("theirs", "ours")
    state = run.read_json("comet.json")
    assert (state["workspace"], state["project"]) == ("ours", "theirs")


def test_a_key_in_the_environment_is_stripped(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMET_API_KEY", f" {KEY}\n")
    assert find_key() == KEY
