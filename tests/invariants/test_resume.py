"""The promise: a run that was cut off and resumed ends in the same bits, under either engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_finetune.config import dump_config
from hf_finetune.engines.checkpoints import write_manifest
from hf_finetune.errors import TrainingError, UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import load_run
from hf_finetune.trackers.jsonl import read_history

SETTINGS: dict[str, Any] = {
    "model__dropout": 0.4,
    "features__augmentation": {
        "rotation_degrees": 20.0,
        "shift_fraction": 0.1,
        "policy": "randaugment",
        "erase_probability": 0.5,
        "erase_fill": "noise",
        "mixup_alpha": 0.4,
        "cutmix_alpha": 1.0,
    },
    "train__num_train_epochs": 4,
    "train__gradient_accumulation_steps": 2,
    "train__schedule": {"name": "cosine", "warmup_steps": 3},
}


class Interrupt:
    """Stops the run before a step or in the middle of a record."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def on_record(self, record: Mapping[str, Any]) -> None:
        pass


def facts(path: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how it got there."""
    history = [
        {k: v for k, v in record.items() if k not in ("seconds", "train/examples_per_second")}
        for record in read_history(path)
    ]
    metrics = json.loads((path / "metrics.json").read_text())
    metrics.pop("train_seconds")
    weights = {
        k: v.numpy().tobytes() for k, v in load_file(path / "model/model.safetensors").items()
    }
    return {"history": history, "metrics": metrics, "weights": weights}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first[key] == second[key] for key in ("history", "metrics", "weights"))


@pytest.mark.parametrize(
    ("engine", "resumed_by"),
    [("trainer", "trainer"), ("loop", "loop"), ("trainer", "loop"), ("loop", "trainer")],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    engine: str, resumed_by: str, make_config: Callable[..., Any]
):
    config = make_config(**SETTINGS, train__engine=engine)  # 4 steps an epoch
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=10),))
    run = load_run(whole.run.path.parent / "002")
    assert run.status["status"] == "stopped"
    assert not (run.path / "metrics.json").exists()
    assert [p.name for p in run.checkpoints.glob("step-*")] == ["step-8"]
    other = run.config.model_copy(
        update={"train": run.config.train.model_copy(update={"engine": resumed_by})}
    )
    resumed = finetune(other, resume_from=run.path, quiet=True)
    assert resumed.run.status["status"] == "finished"
    assert same(facts(whole.run.path), facts(resumed.run.path))


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(engine: str, make_config: Callable[..., Any]):
    settings = {"train__eval_strategy": "steps", "train__eval_steps": 3}
    config = make_config(**SETTINGS, **settings, train__engine=engine)
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=8),))
    run = load_run(whole.run.path.parent / "002")
    assert [p.name for p in run.checkpoints.glob("step-*")] == ["step-6"]
    resumed = finetune(config, resume_from=run.path, quiet=True)
    assert same(facts(whole.run.path), facts(resumed.run.path))


@pytest.mark.parametrize(
    "settings",
    [
        {
            "train__schedule": {
                "name": "reduce_on_plateau",
                "patience_evaluations": 0,
                "factor": 0.5,
            }
        },
        {"train__schedule": {"name": "one_cycle", "cycle_momentum": True}},
        {"train__early_stopping_patience": 1, "train__early_stopping_threshold": 1.0},
        {"train__optimizer": {"name": "sgd"}},
        {"train__optimizer": {"name": "muon"}},
    ],
)
def test_schedule_optimiser_and_patience_are_taken_up(
    settings: dict[str, Any], make_config: Callable[..., Any]
):
    config = make_config(train__engine="loop", train__num_train_epochs=4, **settings)
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=12),))
    resumed = finetune(config, resume_from=whole.run.path.parent / "002", quiet=True)
    assert same(facts(whole.run.path), facts(resumed.run.path))


def test_a_killed_process_resumes_to_the_same_bits(make_config: Callable[..., Any], tmp_path: Path):
    """SIGKILL, at a moment of the machine's choosing: a real end without goodbye."""
    config = make_config(**{**SETTINGS, "train__num_train_epochs": 30})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "hf_finetune.cli", "train", "--config", "config.yaml"]
    run = tmp_path / "runs/small/001"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert load_run(run).status["status"] == "running"
    assert not (run / "metrics.json").exists()
    resumed = finetune(config, resume_from=run, quiet=True)
    assert same(facts(finetune(config, quiet=True).run.path), facts(resumed.run.path))


def test_a_run_cut_off_before_its_first_checkpoint_starts_again(make_config: Callable[..., Any]):
    config = make_config()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=3),))
    run = load_run(Path(config.run.directory) / "small/001")
    resumed = finetune(config, resume_from=run.path, quiet=True)
    assert same(facts(finetune(config, quiet=True).run.path), facts(resumed.run.path))


def interrupt(config: Any) -> Path:
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=10),))
    return load_run(Path(config.run.directory) / "small/001").path


@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_a_kill_after_the_last_step_adds_no_step(
    engine: str, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """The last step is evaluated as a step, not as an epoch's end; then the results never come."""
    from hf_finetune import finetuning

    config = make_config(
        train__engine=engine,
        train__eval_strategy="steps",
        train__eval_steps=2,
        train__max_steps=8,
        train__logging_steps=3,
        train__schedule={"name": "one_cycle"},
    )
    whole = finetune(config, quiet=True)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "write_results", die)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, quiet=True)
    resumed = finetune(config, resume_from=whole.run.path.parent / "002", quiet=True)
    assert resumed.metrics["steps"] == 8
    assert same(facts(whole.run.path), facts(resumed.run.path))


def test_the_history_of_a_mid_epoch_resume_is_exact(make_config: Callable[..., Any]):
    """Evaluated every 2 steps, logged every 3: the checkpoint holds losses not yet logged."""
    config = make_config(
        train__engine="loop",
        train__eval_strategy="steps",
        train__eval_steps=2,
        train__logging_steps=3,
    )
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(step=3),))
    resumed = finetune(config, resume_from=whole.run.path.parent / "002", quiet=True)
    assert same(facts(whole.run.path), facts(resumed.run.path))


def test_a_run_that_is_going_on_is_not_resumed(make_config: Callable[..., Any]):
    config = make_config(train__engine="loop")
    path = interrupt(config)
    with load_run(path).locked(), pytest.raises(UserError, match="still going on"):
        finetune(config, resume_from=path, quiet=True)


def test_another_number_of_processes_is_refused(make_config: Callable[..., Any]):
    config = make_config(train__engine="loop")
    path = interrupt(config)
    checkpoint = path / "checkpoints/step-7"
    progress = json.loads((checkpoint / "progress.json").read_text())
    (checkpoint / "progress.json").write_text(json.dumps({**progress, "num_processes": 2}))
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint)
    with pytest.raises(TrainingError, match="num_processes was 2, is 1"):
        finetune(config, resume_from=path, quiet=True)


def test_a_damaged_checkpoint_is_refused(make_config: Callable[..., Any]):
    config = make_config(train__engine="loop")
    path = interrupt(config)
    weights = path / "checkpoints/step-7/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(TrainingError, match="has changed since it was written"):
        finetune(config, resume_from=path, quiet=True)


def test_changed_data_is_refused(make_config: Callable[..., Any]):
    config = make_config(train__engine="loop")
    path = interrupt(config)
    (Path(config.data.root) / "train_images_2.pt").unlink()
    with pytest.raises(UserError, match="data or its split has changed"):
        finetune(config, resume_from=path, quiet=True)


def test_a_finished_run_is_not_resumed(make_config: Callable[..., Any]):
    config = make_config(train__num_train_epochs=1)
    done = finetune(config, quiet=True)
    with pytest.raises(UserError, match="has finished"):
        finetune(config, resume_from=done.run.path, quiet=True)
