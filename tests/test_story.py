"""A user's whole story: train, Ctrl-C, go on, publish, open it elsewhere, repeat, compare.

Place: every command is a process of its own; Comet and the Hub are servers on this machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hub.test_opening import ELSEWHERE
from PIL import Image
from servers.comet import CometServer, serve_comet
from servers.comet_api import serve_comet_api
from servers.writable_hub import TOKEN, User, WritableHub, serve_writable_hub

from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers.jsonl import read_history

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "samples/corruptmnist"
KEY = "n0tArealKey0fAnyb0dy12345"
CONFIG = f"""
name: story
data: {{name: corrupt_mnist, root: {SAMPLE}}}
model: {{name: cnn, channels: [4, 8], convolutions_per_block: 1}}
train: {{engine: trainer, num_train_epochs: 8, learning_rate: 1e-2, logging_steps: 50}}
compute: {{precision: fp32, device: cpu, num_threads: 1}}
trackers: [comet]
tracking:
  comet: {{mode: online, workspace: me, project: digits, examples: 2, examples_per_cell: 0}}
run: {{pictures: false}}
hub: {{repo_id: me/digits, when: end}}
"""
CLASSIFY = """
import importlib.util, json, sys
from transformers import pipeline
assert importlib.util.find_spec("hf_finetune") is None
classify = pipeline("image-classification", "me/digits", trust_remote_code=True)
print(json.dumps(classify(sys.argv[1:], top_k=10)))
"""


@dataclass
class Shell:
    """A user's shell: a folder, an account at Comet and one at the Hub."""

    folder: Path
    comet: CometServer
    hub: WritableHub
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, *words: str) -> subprocess.Popen[str]:
        commands = Path(sys.executable).parent
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("COMET_", "HF_"))}
        own = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "COMET_URL_OVERRIDE": self.comet.address,
            "COMET_API_KEY": KEY,
            "COMET_CONFIG": str(self.folder / "no_such_file"),
            "HF_ENDPOINT": self.hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(self.folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }
        return subprocess.Popen(
            [commands / words[0], *words[1:]],
            cwd=self.folder,
            env={**inherited, **own, **self.variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def enter(self, *words: str) -> str:
        """What a command prints."""
        process = self.start(*words)
        printed, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
        return printed


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with serve_comet() as comet, serve_writable_hub() as hub:
        comet.keys.add(KEY)
        hub.users[TOKEN] = User("me")
        yield Shell(tmp_path, comet, hub)


def stop_in_training(process: subprocess.Popen[str], run: RunDir) -> str:
    """Ctrl-C once there is a checkpoint; the command that the run then asks for."""
    deadline = time.monotonic() + 240
    while not list(run.checkpoints.glob("step-*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)  # on into the next epoch
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the launcher hears it, too
    _, errors = process.communicate(timeout=240)
    told = re.search("stopped; go on with: (.+)", errors)
    assert told is not None, errors[-3000:]
    return told[1]


def classify_elsewhere(shell: Shell, images: torch.Tensor) -> list[list[dict[str, Any]]]:
    """What the pushed model answers on a machine that hasn't got this package."""
    elsewhere = shell.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text(ELSEWHERE)
    files = [str(elsewhere / f"{number}.png") for number in range(len(images))]
    for image, file in zip(images, files, strict=True):
        Image.fromarray((image * 255).round().to(torch.uint8).numpy()).save(file)
    shell = Shell(elsewhere, shell.comet, shell.hub, {"PYTHONPATH": str(elsewhere)})
    return json.loads(shell.enter("python", "-c", CLASSIFY, *files))


def own_answers(run: RunDir) -> dict[str, list[float]]:
    """Probabilities of the test split's examples, by their id."""
    rows = pq.read_table(run.path / "predictions/test.parquet").to_pylist()
    logits = torch.tensor([row["logits"] for row in rows])
    return dict(zip([row["id"] for row in rows], logits.softmax(1).tolist(), strict=True))


def curves(points: list[Any]) -> list[Any]:
    """Name, value, step and epoch of what doesn't depend on the clock."""
    return sorted(p for p in points if p[0] in ("train/loss", "validation/accuracy"))


def in_history(run: RunDir) -> list[Any]:
    return [(k, v, r["step"], r["epoch"]) for r in read_history(run.path) for k, v in r.items()]


@pytest.mark.slow
def test_the_whole_story(shell: Shell, tmp_path: Path):
    (tmp_path / "story.yaml").write_text(CONFIG)
    runs = [RunDir(tmp_path / f"runs/story/00{number}") for number in (1, 2, 3)]
    script = str(ROOT / "scripts/finetune.py")

    training = shell.start("accelerate", "launch", script, "--config", "story.yaml")
    told = stop_in_training(training, runs[0])
    assert told == "hf-finetune train --resume runs/story/001"
    assert runs[0].status["status"] == "stopped"
    assert shell.hub.files("me/digits").keys() == {".gitattributes"}
    (experiment,) = shell.comet.experiments.values()
    assert experiment.others["run_status"] == "stopped"
    stopped_at = read_history(runs[0].path)[-1]["step"]

    assert "pushed to" in shell.enter(*shlex.split(told))
    assert runs[0].metrics["steps"] > stopped_at > 0
    commits = ["initial commit", "story/001, as it came out"]
    assert shell.hub.repositories["me/digits"].messages == commits

    images = torch.load(SAMPLE / "test_images.pt", weights_only=True)[:25]
    expected = own_answers(runs[0])
    for number, answer in enumerate(classify_elsewhere(shell, images)):
        scores = [entry["score"] for entry in sorted(answer, key=lambda entry: entry["label"])]
        assert scores == pytest.approx(expected[f"test_images.pt/{number}"], abs=1e-4)

    seeds = ["--config", "story.yaml", "--seed", "1", "--repeat-seeds", "2", "hub.repo_id=null"]
    shell.enter("hf-finetune", "train", *seeds)
    experiments = shell.comet.experiments
    assert list(experiments) == [run.status["run_id"] for run in runs]
    for run in runs:
        assert run.status["status"] == "finished"
        sent = experiments[run.status["run_id"]]
        assert curves(sent.metrics) == curves(in_history(run)) != []

    with serve_comet_api(experiments) as api:
        api.keys.add(KEY)
        shell.variables["COMET_URL_OVERRIDE"] = api.address
        compared = json.loads(shell.enter("hf-finetune", "compare", "comet:me/digits", "--json"))
    assert compared["warnings"] == []
    (row,) = compared["rows"]
    assert (row["label"], row["n"], row["seeds"]) == ("story/001-003", 3, [0, 1, 2])
    for name in ("accuracy", "macro_f1", "loss"):
        for split in ("validation", "test"):
            found = row["scores"][f"{split}/{name}"]["values"]
            assert found == [run.metrics[split][name] for run in runs]
