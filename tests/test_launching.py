"""What `accelerate launch` starts is what `hf-finetune train` does, to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hf_finetune.config import dump_config

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = str(ROOT / "scripts/finetune.py")


def launch(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_launcher_changes_no_bit(make_config: Callable[..., Any], tmp_path: Path):
    (tmp_path / "x.yaml").write_text(dump_config(make_config(model__dropout=0.3)))
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    launch([accelerate, "launch", SCRIPT, "--config", "x.yaml", "--quiet"], tmp_path)
    cli = [sys.executable, "-m", "hf_finetune.cli", "train", "--config", "x.yaml", "--quiet"]
    launch(cli, tmp_path)
    runs = [tmp_path / f"runs/small/00{number}" for number in (1, 2)]
    weights = [load_file(run / "model/model.safetensors") for run in runs]
    assert all(bool((weights[1][name] == value).all()) for name, value in weights[0].items())
    compute = [json.loads((run / "environment.json").read_text())["compute"] for run in runs]
    assert compute[0] == compute[1]
    assert compute[0]["num_threads"] == len(os.sched_getaffinity(0))


@pytest.mark.slow
def test_python_gives_the_same_bits(make_config: Callable[..., Any], tmp_path: Path):
    from hf_finetune import finetune

    config = make_config()
    (tmp_path / "x.yaml").write_text(dump_config(config))
    cli = [sys.executable, "-m", "hf_finetune.cli", "train", "--config", "x.yaml", "--quiet"]
    launch(cli, tmp_path)
    second = finetune(config, quiet=True).run.path
    first = load_file(tmp_path / "runs/small/001/model/model.safetensors")
    again = load_file(second / "model/model.safetensors")
    assert all(bool((again[name] == value).all()) for name, value in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["trainer", "loop"])
def test_two_processes_agree_with_one(engine: str, make_config: Callable[..., Any], tmp_path: Path):
    """Batches of 10 on each of two processes are batches of 20 on one; 100 rows, no tail."""
    settings = {
        "model__norm": "none",
        "train__engine": engine,
        "train__optimizer": {"name": "sgd"},
        "loss": {"name": "cross_entropy", "class_weights": "auto"},
        "compute__num_threads": 1,
    }
    for size in (10, 20):
        config = make_config(**settings, train__per_device_train_batch_size=size, name=f"b{size}")
        (tmp_path / f"b{size}.yaml").write_text(dump_config(config))
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    together += ["--master_port", str(20000 + os.getpid() % 20000)]
    text = launch([*together, SCRIPT, "--config", "b10.yaml"], tmp_path)
    assert "2 processes" in text
    assert text.count("test accuracy") == 1
    launch([sys.executable, SCRIPT, "--config", "b20.yaml", "--quiet"], tmp_path)
    metrics, weights = [], []
    for name in ("b10", "b20"):
        assert [p.name for p in (tmp_path / "runs" / name).iterdir()] == ["001"]
        run = tmp_path / "runs" / name / "001"
        metrics.append(json.loads((run / "metrics.json").read_text()))
        weights.append(load_file(run / "model/model.safetensors"))
    for name, value in weights[0].items():
        assert float((weights[1][name] - value).abs().max()) < 1e-5, name
    assert metrics[0]["test"]["confusion_matrix"] == metrics[1]["test"]["confusion_matrix"]
    assert metrics[0]["test"]["loss"] == pytest.approx(metrics[1]["test"]["loss"], rel=1e-4)
