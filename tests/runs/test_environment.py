"""What a run says about its surroundings, and what it must keep to itself."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import hf_finetune
from hf_finetune.runs import environment
from hf_finetune.runs.environment import clean_command, describe_environment

HF_TOKEN = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
COMET_KEY = "Zx9Yw8Vu7Ts6Rq5Po4Nm3Lk2J"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *arguments]
    result = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def test_says_what_the_machine_says() -> None:
    described = describe_environment()
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    assert described["python"] == platform.python_version()
    assert described["hf_finetune"] == hf_finetune.__version__
    assert set(described["packages"]) == {
        "torch", "transformers", "accelerate", "datasets", "evaluate", "numpy",
    }  # fmt: skip
    assert described["packages"]["numpy"] == version("numpy")
    assert described["torch_num_threads"] == torch.get_num_threads()
    assert described["omp_num_threads"] == os.environ.get("OMP_NUM_THREADS")
    assert len(described["gpus"]) == torch.cuda.device_count()
    age = datetime.now(UTC) - datetime.fromisoformat(described["started_at"])
    assert 0 <= age.total_seconds() < 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux alone offers")
def test_cpu_equals_what_linux_says() -> None:
    cpu = describe_environment()["cpu"]
    listed = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()[0].split()
    assert listed[0] == "MemTotal:"
    assert cpu["memory_bytes"] == int(listed[1]) * 1024
    assert cpu["usable_cores"] == len(os.sched_getaffinity(0))
    assert cpu["model"] is None or cpu["model"] in Path("/proc/cpuinfo").read_text(encoding="utf-8")


def test_gpus_are_named_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [SimpleNamespace(name=f"GPU {card}", total_memory=card * 2**30) for card in (1, 2)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert describe_environment()["gpus"] == [
        {"name": "GPU 1", "memory_bytes": 2**30},
        {"name": "GPU 2", "memory_bytes": 2**31},
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert describe_environment()["git"] is None
    git(tmp_path, "init", "-q")
    assert describe_environment()["git"] is None
    tracked = tmp_path / "tracked.txt"
    tracked.write_text("1")
    git(tmp_path, "add", "tracked.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs.txt").write_text("not tracked")
    assert describe_environment()["git"] == {"commit": commit, "is_dirty": False}
    tracked.write_text("2")
    assert describe_environment()["git"] == {"commit": commit, "is_dirty": True}


@pytest.mark.skipif(sys.platform == "win32", reason="the slow git is a shell script")
@pytest.mark.parametrize("script", [None, "exit 1", "exec sleep 60", r"printf '\377\376'"])
def test_git_missing_broken_or_slow_is_survived(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        fake = tmp_path / "git"
        fake.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "GIT_SECONDS", 0.2)
    assert describe_environment()["git"] is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--token", "abc", "x=1"], ["--token", "<removed>", "x=1"]),
        (["--hub-token=abc"], ["--hub-token=<removed>"]),
        (["tracker.api_key=abc"], ["tracker.api_key=<removed>"]),
        (["COMET_API_KEY=abc"], ["COMET_API_KEY=<removed>"]),
        (["--api-key", "--token", "abc"], ["--api-key", "<removed>", "abc"]),
        ([f"x={HF_TOKEN}", HF_TOKEN], ["x=<removed>", "<removed>"]),
        ([f"note={COMET_KEY}", COMET_KEY], ["note=<removed>", "<removed>"]),
        (["https://me:pw@example.org/x"], ["https://<removed>@example.org/x"]),
        (["/home/me/data", "a=/home/me"], ["~/data", "a=~"]),
    ],
)
def test_command_shows_no_secret(
    given: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert clean_command(["/home/me/.venv/bin/hf-finetune", *given]) == ["hf-finetune", *shown]


def test_command_is_otherwise_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    arguments = [
        "train",
        "configs/corrupt_mnist_convolutional_network_v2.yaml",
        "train.learning_rate=2e-5",
        "model.tokenizer=fast",
        "model.name=google/vit-base-patch16-224-in21k",
        "data.root=/home/melanie/hf_finetune/data",
        "run.directory=runs/0123456789abcdef0123456789abcdef01234567",
        "a=b=c",
        "",
    ]
    assert clean_command(["hf-finetune", *arguments]) == ["hf-finetune", *arguments]
    assert clean_command([]) == []


def test_nothing_personal_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", HF_TOKEN)
    monkeypatch.setenv("COMET_API_KEY", COMET_KEY)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setattr(sys, "argv", ["/home/somebody/x.py", f"--token={HF_TOKEN}", "x=1"])
    described = describe_environment()
    assert described["command"] == ["x.py", "--token=<removed>", "x=1"]
    text = json.dumps(described)
    for secret in (HF_TOKEN, COMET_KEY, "somebody", socket.gethostname()):
        assert secret not in text
    assert getpass.getuser() not in described["command"]
