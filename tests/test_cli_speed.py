"""The command line answers at once where nothing is computed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest


def run_cli(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A fresh process; returns it with the CPU seconds that it took."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hf_finetune.cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    used = after.children_user + after.children_system
    return done, used - before.children_user - before.children_system


def imported(process: subprocess.CompletedProcess[str]) -> set[str]:
    lines = [line for line in process.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--help"]])
def test_help_is_quick(words: list[str]):
    process, seconds = run_cli(*words)
    assert process.returncode == 0
    assert "usage: hf-finetune" in process.stdout
    assert not imported(process) & {"torch", "numpy", "transformers", "datasets", "pydantic"}
    assert seconds < 0.3


def test_a_faulty_configuration_is_quick(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "data:\n  name: corrupt_mnist\nmodel:\n  name: cnn\ntrain:\n  learning_rat: 1\n"
    )
    process, seconds = run_cli("train", "--config", str(path))
    assert process.returncode == 2
    message = f"{path}:6: unknown key 'train.learning_rat'. Did you mean 'train.learning_rate'?"
    assert message in process.stderr
    assert not imported(process) & {"torch", "numpy", "transformers", "datasets"}
    assert seconds < 1


def test_help_does_not_wait():
    """Wall time as a person feels it, the best of three on a machine that does other things too."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "hf_finetune.cli", "--help"], capture_output=True, check=True
        )
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3
