"""`train --resume`: what may be set anew, what may not, and what the record says of it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from invariants.test_resume import Interrupt, facts, same

from hf_finetune.cli import main
from hf_finetune.config import dump_config, load_config
from hf_finetune.finetuning import finetune
from hf_finetune.runs.resumption import load_resumed_config
from hf_finetune.runs.run_dir import RunDir, load_run


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    """14 steps, 7 an epoch."""
    return make_config(train__engine="loop")


@pytest.fixture
def stopped(config: Any) -> RunDir:
    """A run that was stopped after the checkpoint of step 7."""
    stop(config, 10)
    return load_run(Path(config.run.directory) / "small/001")


def stop(config: Any, step: int, **how: Any) -> list[str]:
    """Stops a run at a step; the words of the command that lets it go on."""
    with pytest.raises(KeyboardInterrupt) as stopped:
        finetune(config, quiet=True, listeners=(Interrupt(step),), **how)
    _, found, command = str(stopped.value).partition("go on with: ")
    assert found
    return shlex.split(command)[1:]


def set_in_record(run: RunDir, *overrides: str) -> str:
    """Makes a run one of another configuration; its text."""
    file = run.path / "config.yaml"
    file.write_text(dump_config(load_config(file, overrides)), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def resume(run: RunDir, *settings: str) -> int:
    return main(["train", "--resume", str(run.path), *settings])


def told_how(capsys: pytest.CaptureFixture[str], reason: str) -> list[str]:
    """The words of the command in an error of a given reason."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err
    return shlex.split(captured.err.rstrip().rpartition("go on without: ")[2])[1:]


def test_without_the_hub(config: Any, stopped: RunDir, capsys: pytest.CaptureFixture[str]):
    written = set_in_record(stopped, "hub.repo_id=me/digits")
    assert resume(stopped) == 2
    words = told_how(capsys, "HF_HUB_OFFLINE forbids the network")
    assert words == ["train", "--resume", str(stopped.path), "hub.repo_id=null"]
    assert main(words) == 0
    assert "goes on after step 7; this time hub.repo_id=null" in capsys.readouterr().out
    assert (stopped.path / "config.yaml").read_text(encoding="utf-8") == written
    (session,) = stopped.status["resumed"]
    assert (session["step"], session["changed"]) == (7, {"hub.repo_id": None})
    assert session["at"] >= stopped.status["started"]
    assert same(facts(finetune(config, quiet=True).run.path), facts(stopped.path))


def test_without_a_tracker(
    stopped: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    monkeypatch.setenv("COMET_CONFIG", str(stopped.path / "no_such_file"))
    set_in_record(stopped, "trackers=[comet]", "tracking.comet={mode: online, tags: [x]}")
    assert resume(stopped) == 2
    words = told_how(capsys, "online needs Comet's key")
    assert words == ["train", "--resume", str(stopped.path), "trackers=[jsonl]"]
    # The settings of a tracker that nobody hears are no mistake here, since nobody can take them
    # out of the run's configuration.
    assert main([*words, "--quiet"]) == 0
    assert stopped.status["resumed"][0]["changed"] == {"trackers": ["jsonl"]}
    assert load_run(stopped.path).config.tracking.comet.mode == "online"


def test_settings_of_a_tracker_that_stays_are_kept(stopped: RunDir):
    set_in_record(stopped, "trackers=[comet]", "tracking.comet={mode: offline, tags: [x]}")
    changed = load_resumed_config(stopped, ["tracking.comet.project=mine"]).tracking.comet
    assert (changed.mode, changed.tags, changed.project) == ("offline", ("x",), "mine")


def test_data_that_were_moved(
    config: Any, stopped: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = finetune(config, quiet=True).run.path
    moved, other = tmp_path / "moved data", tmp_path / "other"
    shutil.move(config.data.root, moved)
    shutil.copytree(moved, other)
    images = torch.load(other / "test_images.pt", weights_only=True)
    torch.save(1 - images, other / "test_images.pt")
    record = stopped.status
    assert resume(stopped) == 2
    assert resume(stopped, f"data.root={other}") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "there is no folder" in lines[0]
    assert "data or its split has changed" in lines[1]
    assert stopped.status == record
    assert resume(stopped, f"data.root={moved}", "--quiet") == 0
    assert stopped.status["resumed"][0]["changed"] == {"data.root": str(moved)}
    assert same(facts(whole), facts(stopped.path))


@pytest.mark.parametrize(
    "words",
    [
        ["train.learning_rate=1"],
        ["--lr", "1"],
        ["hub.repo_id=null", "compute.num_threads=1"],
        ["data={name: mnist}"],
        ["data.rooted=elsewhere"],
    ],
)
def test_what_decides_the_numbers_is_refused(
    words: list[str], stopped: RunDir, capsys: pytest.CaptureFixture[str]
):
    record = stopped.status
    assert resume(stopped, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    refused = "train.learning_rate" if words[0] == "--lr" else words[-1].partition("=")[0]
    assert f"--resume: {refused} can't be set any more" in line
    assert "hub.*, trackers, tracking.* and data.root" in line
    assert stopped.status == record


def test_a_faulty_setting_is_one_line(stopped: RunDir, capsys: pytest.CaptureFixture[str]):
    for text in ("hub.when=never", "trackers=[comets]", "hub.repo=me/digits", "data.root=7"):
        assert resume(stopped, text) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"override '{text}'")
    assert resume(stopped, "--print-config") == 2
    assert "--print-config" in capsys.readouterr().err
    assert "resumed" not in stopped.status


def test_stopped_again_the_command_says_what_was_changed(stopped: RunDir):
    set_in_record(stopped, "hub.repo_id=me/digits", "data.split.seed=0")
    changed = load_resumed_config(stopped, ["hub.repo_id=null"])
    words = stop(changed, 12, resume_from=stopped.path)
    assert words == ["train", "--resume", str(stopped.path), "hub.repo_id=null"]
    assert main([*words, "--quiet"]) == 0
    assert [session["step"] for session in stopped.status["resumed"]] == [7, 7]


def test_a_path_with_spaces_is_quoted(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "Läufe & Proben"
    words = stop(make_config(run__directory=str(folder)), 10)
    assert words == ["train", "--resume", str(folder / "small/001")]
    assert main(words) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert shlex.split(last)[-3:] == ["predict", str(folder / "small/001"), "IMAGE.png"]


def test_a_run_without_a_checkpoint_begins_again(config: Any, capsys: pytest.CaptureFixture[str]):
    words = stop(config, 3)
    assert main(words) == 0
    assert "begins again: there was no checkpoint yet" in capsys.readouterr().out
    run = load_run(words[-1])
    assert json.loads((run.path / "run.json").read_text())["resumed"][0]["step"] == 0
