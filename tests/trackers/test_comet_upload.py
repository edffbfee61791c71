"""`hf-finetune comet upload`: runs, folders of runs and archives, each sent once."""

from __future__ import annotations

import io
import logging
import re
import shlex
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from comet_records import KEY, Crash, in_history, logged, only
from servers.comet import CometServer

from hf_finetune.cli import main
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, load_unfinished_run
from hf_finetune.trackers.comet_client import alone_hearing_losses, import_comet, only_errors
from hf_finetune.trackers.comet_session import how_to_send
from hf_finetune.trackers.comet_state import read_state
from hf_finetune.trackers.comet_upload import upload_run

pytestmark = pytest.mark.usefixtures("comet_alone")
BRIEF = {"max_steps": 2, "engine": "loop"}


@pytest.fixture
def recorded(
    tracked: Callable[..., Any],
    comet_alone: None,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> RunDir:
    """A run that was recorded offline; trained once."""
    kept, own = tmp_path_factory.getbasetemp() / "recorded", tmp_path / "runs/small/001"
    if not kept.exists():
        run = finetune(tracked(BRIEF, mode="offline", examples=1), quiet=True).run
        run.path.rename(kept)
    shutil.copytree(kept, own)
    return RunDir(own)


def _upload(*words: str | Path) -> int:
    return main(["comet", "upload", *map(str, words)])


def test_every_unsent_run_below_a_folder_is_sent_once(
    recorded: RunDir, server: CometServer, capsys: pytest.CaptureFixture[str]
):
    runs = recorded.path.parents[1]
    for number in range(2):
        folder = runs / f"other/00{number}"
        shutil.copytree(recorded.path, folder)
        for name in ("comet.json", "run.json"):
            text = (folder / name).read_text()
            (folder / name).write_text(text.replace(recorded.status["run_id"], f"{number}" * 32))
    shutil.copytree(runs / "other/000", runs / "untracked/001")
    (runs / "untracked/001/comet.json").unlink()
    assert _upload(runs) == 0
    assert len(server.experiments) == 2 + 1
    told = capsys.readouterr().out
    assert told.count("sent to Comet as experiment") == 3
    assert f"{runs}/untracked/001: was not recorded for Comet" in told
    assert _upload(runs) == 0
    assert capsys.readouterr().out.count("nothing to send") == 3


def test_a_run_that_fails_stops_no_other(
    recorded: RunDir, server: CometServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    busy, damaged = recorded.path.parent / "002", recorded.path.parent / "003"
    shutil.copytree(recorded.path, busy)
    shutil.copytree(recorded.path, damaged)
    (damaged / "comet.json").write_text('{"experiment_key": "x", "num_')
    with RunDir(busy).locked():
        assert _upload(tmp_path / "nowhere", busy, damaged, recorded.path) == 2
    printed = capsys.readouterr()
    assert f"{recorded.path}: sent to Comet as experiment {only_key(server)}" in printed.out
    nowhere, going_on, broken = printed.err.strip().splitlines()
    assert nowhere.startswith(f"{tmp_path}/nowhere: there is no run here.")
    assert going_on == (f"{busy}: the run is still going on. Wait for its end, or stop it first.")
    assert broken.startswith(f"{damaged}/comet.json: damaged, or written by another version (")


def _damage(archive: Path) -> None:
    packed = archive.read_bytes()
    content = packed.index(b"messages.json") + 60  # within the first bytes of that file's content
    archive.write_bytes(packed[:content] + bytes(200) + packed[content + 200 :])


def only_key(server: CometServer) -> str:
    (key,) = server.experiments
    return key


def test_an_archive_is_sent_by_itself_or_as_its_run(
    recorded: RunDir, server: CometServer, tmp_path: Path
):
    (archive,) = (recorded.path / "comet").glob("*.zip")
    assert _upload(shutil.copy(archive, tmp_path / "alone.zip"), "--project", "digits") == 0
    assert only(server).project == ("digits", None)
    assert logged(only(server).metrics) == in_history(recorded)
    assert recorded.read_json("comet.json")["url"] is None  # the run doesn't know of it
    assert _upload(archive) == 0
    assert recorded.read_json("comet.json")["url"].endswith(only_key(server))
    _damage(tmp_path / "alone.zip")
    with pytest.raises(UserError, match=r"alone.zip: the archive is damaged. Delete it, and name"):
        upload_run(tmp_path / "alone.zip")
    (tmp_path / "alone.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"alone.zip: is no whole archive"):
        upload_run(tmp_path / "alone.zip")


def test_a_damaged_archive_of_a_run_is_not_sent_but_made_anew(
    recorded: RunDir, server: CometServer, capsys: pytest.CaptureFixture[str]
):
    (archive,) = (recorded.path / "comet").glob("*.zip")
    _damage(archive)
    assert _upload(recorded.path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{archive}: the archive is damaged. Delete it")
    assert not server.experiments
    archive.unlink()
    assert _upload(recorded.path) == 0
    assert logged(only(server).metrics) == in_history(recorded)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "it holds no mapping"),
        ('{"experiment_key": "x", "sent": 1}', "unknown key 'sent'"),
        ('{"experiment_key": "x", "num_records": null}', "num_records"),
        ("\x00", "Expecting value"),
    ],
)
def test_a_damaged_state_names_its_file_and_the_cure(content: str, reason: str, tmp_path: Path):
    (tmp_path / "comet.json").write_text(content)
    with pytest.raises(UserError, match=r"comet.json: damaged, .* Move the file away") as error:
        read_state(tmp_path)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("batch/logger/experiment/metric", "Failed to send metrics batch message, got 400"),
        # comet_ml tries a file several times, with waits between.
        pytest.param("asset/upload", "asset", marks=pytest.mark.slow),
        ("write/experiment/log-other", "Error sending log other messages, got 400"),
    ],
)
def test_what_comet_did_not_take_is_said_and_sent_again(
    verb: str, told: str, recorded: RunDir, server: CometServer, capsys
):
    server.refused[verb] = 400
    assert _upload(recorded.path) == 2
    printed = capsys.readouterr()
    assert "sent to Comet" not in printed.out
    (line,) = printed.err.splitlines()
    assert re.search(r"Comet took the run, but not [\d,]+ parts? of it \(", line)
    assert told in line
    assert KEY not in line
    assert "Give the same command again" in line
    server.refused.clear()
    assert _upload(recorded.path) == 0
    assert "sent to Comet as experiment" in capsys.readouterr().out
    assert {*in_history(recorded)} == {*logged(only(server).metrics)}
    assert "nothing to send" not in printed.out
    assert _upload(recorded.path) == 0
    assert "nothing to send" in capsys.readouterr().out


def test_a_run_goes_where_it_was_recorded_for(
    recorded: RunDir, server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COMET_PROJECT_NAME", "of-today")
    monkeypatch.setenv("COMET_WORKSPACE", "ours")
    upload_run(recorded.path)
    assert only(server).project == ("hf-finetune", "ours")  # no workspace was said then


def test_a_workspace_that_was_named_then_counts_more_than_that_of_today(
    tracked: Callable[..., Any], server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    settings = {"mode": "offline", "examples": 0, "workspace": "mine", "project": "digits"}
    run = finetune(tracked({**BRIEF, "max_steps": 1}, **settings), quiet=True).run
    monkeypatch.setenv("COMET_WORKSPACE", "ours")
    upload_run(run.path)
    assert only(server).project == ("digits", "mine")


def test_of_a_sending_its_own_losses_are_heard_and_the_console_is_spared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
):
    monkeypatch.setenv("COMET_API_KEY", "sh0rt")
    monkeypatch.setenv("HOME", str(tmp_path))
    import_comet()
    logger = logging.getLogger("comet_ml")
    console, file = logging.StreamHandler(io.StringIO()), logging.FileHandler(tmp_path / "log")
    request.addfinalizer(partial(logger.setLevel, logger.level))
    logger.setLevel(logging.INFO)
    monkeypatch.setattr(logger, "handlers", [console, file])
    monkeypatch.setattr(logger, "propagate", False)
    may_fail = threading.Event()

    def fail_late() -> None:
        may_fail.wait()
        logger.error("of a run before")

    earlier = threading.Thread(target=fail_late)
    earlier.start()
    with only_errors(), alone_hearing_losses() as losses:
        logger.error("%s/x.png is refused for sh0rt\nand a traceback", tmp_path)
        logging.getLogger("comet_ml.offline").warning("can't read a message")
        logger.warning("a remark")
        may_fail.set()
        earlier.join()
        own = threading.Thread(target=logger.error, args=("from its own thread." + 300 * "x",))
        own.start()
        own.join()
    logger.error("after it")
    file.close()
    first, *others, long = losses.told
    assert first == "~/x.png is refused for <removed>"
    assert others == ["can't read a message"]
    assert long.startswith("from its own thread")
    assert len(long) == 200
    assert losses.describe() == f"not 3 parts of it ({first})"
    assert console.stream.getvalue() == "after it\n"
    kept = (tmp_path / "log").read_text()
    assert "can't read a message" in kept
    assert "of a run before" in kept


def test_without_its_state_the_whole_run_is_sent_again(recorded: RunDir, server: CometServer):
    (recorded.path / "comet.json").unlink()  # the cure above
    upload_run(recorded.path)
    assert server.experiments.keys() == {recorded.status["run_id"]}
    assert logged(only(server).metrics) == in_history(recorded)


def test_the_command_to_type_survives_a_shell(tmp_path: Path):
    folder = tmp_path / "my runs/it's/001"
    command = how_to_send(folder).removeprefix("Send it with: ")
    assert shlex.split(command) == ["hf-finetune", "comet", "upload", str(folder)]


def test_an_error_offline_marks_the_archived_experiment_as_crashed(
    tracked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, server: CometServer
):
    config = tracked(BRIEF, mode="offline", examples=0)
    with pytest.raises(RuntimeError, match="out of memory"):
        finetune(config, quiet=True, listeners=(Crash(1, RuntimeError("out of memory")),))
    run = load_unfinished_run(Path(config.run.directory) / "small")
    upload_run(run.path)
    assert only(server).errors[-1] == ("RuntimeError: out of memory", True)
    assert only(server).others["run_status"] == "failed"
