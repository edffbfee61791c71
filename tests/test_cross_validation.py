"""Cross-validation: every fold is a run, the sums are right, and a kill costs one fold at most."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_finetune import cross_validation
from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.cross_validation import cross_validate, list_folds
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/cross_validate.py"


def settings(**more: Any) -> dict[str, Any]:
    return {"train__max_steps": 2, "train__num_train_epochs": 1, **more}


def test_each_group_is_the_test_split_once(
    make_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    config = make_config(**settings())
    summary = cross_validate(config, leave_one_out="file")
    runs = [RunDir(Path(fold["run"])) for fold in summary["folds"]]
    assert [run.path.name for run in runs] == ["001", "002", "003"]
    groups = [run.status["split"]["test_groups"] for run in runs]
    assert groups == [f"train_images_{number}.pt" for number in range(3)]
    accuracies = [run.metrics["test"]["accuracy"] for run in runs]
    assert summary["test/accuracy"]["values"] == accuracies
    assert summary["test/accuracy"]["mean"] == pytest.approx(statistics.fmean(accuracies))
    assert summary["test/accuracy"]["std"] == pytest.approx(statistics.stdev(accuracies))
    assert summary["pooled_test_examples"] == 150
    assert summary["pooled_test_accuracy"] == pytest.approx(statistics.fmean(accuracies))
    written = runs[0].path.parent / "folds-001-003.json"
    assert json.loads(written.read_text()) == json.loads(json.dumps(summary))
    table = written.with_suffix(".md").read_text()
    assert "| 2 | file train_images_1.pt | 50 |" in table
    text = capsys.readouterr().out
    assert "own test split (40 rows) is left aside" in text
    assert "[3/3] file train_images_2.pt" in text
    assert f"{summary['test/accuracy']['mean'] * 100:.2f} ±" in text
    assert f"{summary['test/accuracy']['mean'] * 100:.2f} ±" in table


def test_a_kill_costs_no_finished_fold(
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    longer = {"train__max_steps": 4, "train__eval_strategy": "steps", "train__eval_steps": 2}
    config = make_config(**settings(**longer, data__split__num_folds=3))
    started: list[Any] = []

    class Kill:
        def on_step(self, step: int, loss: Any, model: Any) -> None:
            if step == 3:
                raise KeyboardInterrupt

        def on_record(self, record: Any) -> None:
            pass

    def stop_in_the_second(*args: Any, **options: Any) -> Any:
        started.append(options["resume_from"])
        ears = (Kill(),) if len(started) == 2 else ()
        return finetune(*args, **options, listeners=ears)

    monkeypatch.setattr(cross_validation, "finetune", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt, match="stopped in fold 2 of 3; the same command goes on"):
        cross_validate(config, quiet=True)
    cut_off = Path(config.run.directory) / "small/002"
    assert RunDir(cut_off).status["status"] == "stopped"
    summary = cross_validate(config)
    assert started == [None, None, cut_off, None]
    assert [Path(fold["run"]).name for fold in summary["folds"]] == ["001", "002", "003"]
    assert "[1/3] fold 1 of 3: done" in capsys.readouterr().out
    assert cross_validate(config, quiet=True) == summary
    assert len(started) == 4
    whole = make_config(**settings(**longer, data__split__num_folds=3, name="whole"))
    assert cross_validate(whole, quiet=True)["test/loss"] == summary["test/loss"]


def test_runs_of_other_settings_or_data_are_not_taken(
    make_config: Callable[..., Any], digits_root: Path
):
    import torch

    def runs(**more: Any) -> list[str]:
        summary = cross_validate(make_config(**settings(**more)), num_folds=2, quiet=True)
        return [Path(fold["run"]).name for fold in summary["folds"]]

    group_by = {"data__split__group_by": "none"}
    assert runs(**group_by) == ["001", "002"]
    assert runs(**group_by, seed=1) == ["003", "004"]
    assert runs(**group_by) == ["001", "002"]
    images = torch.load(digits_root / "train_images_0.pt", weights_only=True)
    torch.save(1 - images, digits_root / "train_images_0.pt")
    assert runs(**group_by) == ["005", "006"]


def test_folds_that_cannot_be_made_are_told(make_config: Callable[..., Any]):
    config = make_config()
    with pytest.raises(UserError, match="nothing says what the folds are"):
        list_folds(config)
    with pytest.raises(UserError, match="exclude each other"):
        list_folds(config, 3, "file")
    with pytest.raises(UserError, match="--num-folds: must be at least 2, got 1"):
        list_folds(config, 1)
    with pytest.raises(UserError, match=r"--leave-one-out: there is no column 'flie'. Did you"):
        list_folds(config, None, "flie")
    with pytest.raises(UserError, match=r"data.split.file gives one split"):
        list_folds(make_config(data__split__file="x.csv"), 3)


def test_a_fold_that_cannot_be_made_is_told_before_any_is_trained(
    make_config: Callable[..., Any], digits_root: Path
):
    import torch

    for number in range(2):
        torch.save(torch.arange(50) % 9, digits_root / f"train_target_{number}.pt")
    config = make_config(**settings())
    told = r"cross-validate, file train_images_2\.pt: .* no rows of class 9"
    with pytest.raises(UserError, match=told):
        cross_validate(config, leave_one_out="file", quiet=True)
    assert not Path(config.run.directory).exists()


def test_the_configuration_may_say_what_the_folds_are(make_config: Callable[..., Any]):
    folds = list_folds(make_config(data__split__leave_out={"file": "train_images_1.pt"}))
    assert [fold.title for fold in folds] == [f"file train_images_{n}.pt" for n in range(3)]
    folds = list_folds(make_config(data__split__num_folds=4, data__split__fold=3))
    assert [fold.config.data.split.fold for fold in folds] == [1, 2, 3, 4]
    folds = list_folds(make_config(data__split__pool_given=True), leave_one_out="file")
    assert folds[0].title == "file test_images.pt"


def test_the_command_line_runs_it(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "small.yaml"
    path.write_text(dump_config(make_config(**settings())))
    words = ["cross-validate", "--config", str(path), "--quiet"]
    assert main([*words, "--num-folds", "2", "data.split.group_by=none", "--seed", "7"]) == 0
    assert capsys.readouterr().out == ""
    summary = json.loads((tmp_path / "runs/small/folds-001-002.json").read_text())
    assert [fold["title"] for fold in summary["folds"]] == ["fold 1 of 2", "fold 2 of 2"]
    assert RunDir(Path(summary["folds"][0]["run"])).config.seed == 7
    assert main(words) == 2
    assert "nothing says what the folds are" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_run_each_fold_once(make_config: Callable[..., Any], tmp_path: Path):
    (tmp_path / "small.yaml").write_text(dump_config(make_config(**settings())))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(20000 + os.getpid() % 20000), str(SCRIPT)]
    command += ["--config", "small.yaml", "--num-folds", "2", "data.split.group_by=none"]
    for again in (False, True):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("[1/2] fold 1 of 2") == 1
        assert done.stdout.count(": done, ") == 2 * again
        runs = sorted(path.name for path in (tmp_path / "runs/small").iterdir())
        assert runs == ["001", "002", "folds-001-002.json", "folds-001-002.md"]
