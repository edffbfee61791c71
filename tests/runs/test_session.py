"""What a run's record keeps over its sessions, and how it ends where nothing can be written."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from data.pictures import write_classes
from invariants.test_resume import Interrupt, facts, same

from hf_finetune import finetuning
from hf_finetune.cli import main
from hf_finetune.console import format_result
from hf_finetune.errors import DataError, TrainingError, UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, create_run_dir, load_run
from hf_finetune.trackers.jsonl import read_history

EARLY = {"train__early_stopping_patience": 1, "train__early_stopping_threshold": 1.0}


def stop(config: Any, step: int, resume_from: Path | None = None) -> RunDir:
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step),), resume_from=resume_from)
    return load_run(Path(config.run.directory) / "small/001")


def test_warnings_of_every_session_are_kept(make_config: Callable[..., Any]):
    flip = {"horizontal_flip": 0.5}  # mirrors digits: a warning of every session
    config = make_config(train__engine="loop", features__augmentation=flip)
    run = stop(config, 10)
    (mirrored,) = run.status["warnings"]
    run.warn("trackers: it failed")
    stop(config, 12, run.path)
    run.warn("trackers: it failed")
    finetune(config, quiet=True, resume_from=run.path)
    assert run.status["warnings"] == [mirrored, "trackers: it failed"]
    assert run.status["limits"] == [mirrored]


def test_environments_of_every_session_are_kept(make_config: Callable[..., Any]):
    config = make_config(train__engine="loop")
    run = stop(config, 10)
    first = run.read_json("environment.json")
    assert "earlier" not in first
    first |= {"python": "3.0", "cpu": {"model": "another"}}
    run.write_json("environment.json", first)
    stop(config, 12, run.path)
    finetune(config, quiet=True, resume_from=run.path)
    last = run.read_json("environment.json")
    assert last["python"] == platform.python_version()
    assert "goes on after step 7" in last["plan"]["resumed"]
    assert last["earlier"][0] == first
    assert [session["python"] for session in last["earlier"]] == ["3.0", last["python"]]
    assert "earlier" not in last["earlier"][1]


@pytest.mark.parametrize("engine", ["loop", "trainer"])
def test_a_run_that_stops_early_says_so(engine: str, make_config: Callable[..., Any]):
    config = make_config(train__engine=engine, train__num_train_epochs=4, **EARLY)
    result = finetune(config, quiet=True)
    reason = "validation/accuracy was no better in 1 evaluation"
    expected = {"step": 14, "epoch": 2.0, "reason": reason}
    assert result.metrics["stopped_early"] == result.run.status["stopped_early"] == expected
    assert result.run.status["status"] == "finished"
    told = [r["step"] for r in read_history(result.run.path) if r.get("stopped_early")]
    assert told == [14]
    shown = format_result(result.run.path, result.metrics)
    assert f" s; stopped early, at epoch 2: {reason}\n" in shown


def test_patience_that_ends_with_the_last_step_stops_nothing(make_config: Callable[..., Any]):
    result = finetune(make_config(train__engine="loop", **EARLY), quiet=True)
    assert result.metrics["steps"] == 14
    assert result.metrics["stopped_early"] is None
    assert "stopped_early" not in result.run.status
    assert not any("stopped_early" in record for record in read_history(result.run.path))
    assert "early" not in format_result(result.run.path, result.metrics)


def test_an_early_stop_is_not_forgotten_by_a_resume(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    config = make_config(train__engine="loop", train__num_train_epochs=4, **EARLY)
    whole = finetune(config, quiet=True).run

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "write_results", die)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, quiet=True)
    resumed = finetune(config, quiet=True, resume_from=whole.path.parent / "002").run
    assert same(facts(whole.path), facts(resumed.path))
    assert resumed.status["stopped_early"] == whole.status["stopped_early"]


def test_a_folder_that_can_t_be_written_to_is_named(
    make_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    run = stop(make_config(train__engine="loop"), 10)
    (run.path / ".lock").unlink()
    (run.path / ".lock").mkdir()  # bars root, too
    assert main(["train", "--resume", str(run.path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run.path}: this folder can't be written to (Is a directory)")
    assert "Make it writable, or copy it" in line
    with pytest.raises(UserError, match="can't be written to"), run.locked():
        pass


class Limit:
    """From a step on, no file may grow beyond a size: what is written then fails."""

    def __init__(self, step: int, most_bytes: int) -> None:
        self.step, self.most_bytes = step, most_bytes

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        if step == self.step:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, hard))

    def on_record(self, record: Mapping[str, Any]) -> None:
        pass


@contextmanager
def limits_put_back() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "most_bytes",
    [0, 10_000, 30_000],  # less than the history; than the weights; than the optimiser's state
    ids=["nothing", "weights", "optimiser"],
)
def test_without_room_the_run_can_go_on_later(most_bytes: int, make_config: Callable[..., Any]):
    model = {"name": "cnn", "channels": [16, 32], "convolutions_per_block": 1}
    config = make_config(train__engine="loop", model=model)
    with limits_put_back(), pytest.raises(TrainingError) as told:
        finetune(config, quiet=True, listeners=(Limit(9, most_bytes),))
    run = load_run(Path(config.run.directory) / "small/001")
    (line,) = str(told.value).splitlines()
    assert line.startswith(f"{run.path}: nothing more can be written there (")
    # Where even the record can't be written, the run looks killed, which it may go on from.
    assert run.status["status"] == ("failed" if most_bytes else "running")
    assert main([*shlex.split(line.rpartition("with: ")[2])[1:], "--quiet"]) == 0
    assert run.metrics["steps"] == 14
    assert run.status["resumed"][0]["step"] == 7


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
def test_only_want_of_room_is_taken_for_it(number: int, make_config: Callable[..., Any]):
    class Fail(Interrupt):
        def on_step(self, step: int, loss: Any, model: Any) -> None:
            raise OSError(number, os.strerror(number))

    expected = OSError if number == errno.EACCES else TrainingError
    with pytest.raises(expected, match=os.strerror(number)):
        finetune(make_config(train__engine="loop"), quiet=True, listeners=(Fail(1),))


def test_a_run_that_can_t_even_begin_is_one_line(make_config: Callable[..., Any]):
    config = make_config()
    with limits_put_back():
        Limit(0, 0).on_step(0, None, None)
        with pytest.raises(UserError, match=r"run\.directory: can't write to .*File too large"):
            create_run_dir(config)


def test_a_fault_in_a_worker_process_is_one_line(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Spoil(Interrupt):
        def on_step(self, step: int, loss: Any, model: Any) -> None:
            for path in pets.rglob("*.png"):
                path.write_text("no picture")

    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    pets = write_classes(tmp_path / "pets", per_class=16)
    config = make_config(
        data={"name": "image_folder", "root": str(pets)},
        model={"name": "cnn", "channels": [4], "image_size": 16},
        train__engine="loop",
        train__dataloader_num_workers=1,
    )
    with pytest.raises(DataError) as told:
        finetune(config, quiet=True, listeners=(Spoil(1),))
    (line,) = str(told.value).splitlines()
    assert re.fullmatch(rf"{pets}/\w+/\d+\.png: it is no image of a known format\.", line)
    assert "Traceback" in told.value.args[0]  # of the worker, for whoever looks for it
    error = load_run(Path(config.run.directory) / "small/001").status["error"]
    assert error == f"DataError: {line}"
