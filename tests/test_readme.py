"""Every command of the README runs, in a copy of the checkout, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import blocks, commands, copy_checkout

from hf_finetune.config import parse_config

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
# What this test can't run itself, and who does.
RUN_ELSEWHERE = {
    "make test": "is running this very test",
    "hf-finetune download corrupt_mnist": "tests/data/test_download.py, against a local server",
    "hf-finetune download thorsten_emotional": "the same",
    "hf-finetune train --config configs/spoken_digits_log_mel_cnn.yaml --repeat-seeds 3": "wants "
    "all 3,000 clips; its result stands in the configuration",
    "hf-finetune cross-validate --config configs/spoken_digits_log_mel_cnn.yaml --leave-one-out "
    "speaker data.split.group_by=none name=by_speaker": "the same",
    "hf-finetune comet upload runs/tracked": "tests/trackers/test_comet.py, likewise",
    "hf-finetune push runs/my --repo-id user/digits": "tests/hub/test_push.py, likewise",
    "hf-finetune predict user/digits docs/images/digit.png": "tests/hub/test_opening.py, likewise",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that git knows, beside the environment that runs the tests."""
    copy_checkout(tmp_path)
    return tmp_path


def test_the_page_has_its_commands():
    found = commands(PAGE)
    assert found[:2] == ["make finetune", "make test"]
    assert sum(command.startswith("hf-finetune ") for command in found) >= 10
    assert len(blocks(PAGE, "python")) == 1


def test_the_map_of_the_house_is_true():
    house = PAGE.split("## The house")[1].split("## ")[0]
    for name in re.findall(r"^(?:  )?(\w+(?:/|\.py))", house, re.MULTILINE):
        assert (ROOT / name).exists() or (ROOT / "hf_finetune" / name).exists(), name
    rooms = {p.name for p in (ROOT / "hf_finetune").iterdir() if (p / "__init__.py").exists()}
    assert all(f"{room}/" in house for room in rooms)


def test_every_configuration_of_the_page_is_right():
    for text in blocks(PAGE, "yaml"):
        assert parse_config(text).model.name


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_every_command_runs(checkout: Path):
    (checkout / "my.yaml").write_text(blocks(PAGE, "yaml")[0], encoding="utf-8")
    for command in commands(PAGE):
        if command in RUN_ELSEWHERE:
            continue
        script = f"set -e\n. .venv/bin/activate\n{command}\n"
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if command == "make finetune":
            accuracy = re.search(r"test accuracy  ([\d.]+)%", done.stdout)
            assert accuracy is not None
            assert float(accuracy[1]) >= 96
        if command.startswith("hf-finetune verify-engines"):
            assert "agree bit for bit" in done.stdout
    python = blocks(PAGE, "python")[0]
    done = subprocess.run(
        [sys.executable, "-c", python], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runs/my/" in done.stdout


def test_the_mistake_shown_is_the_mistake_said(tmp_path: Path):
    (tmp_path / "my.yaml").write_text(
        blocks(PAGE, "yaml")[0].replace("  learning_rate:", "  learning_rat:"), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "hf_finetune.cli", "train", "--config", "my.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.strip() in PAGE
