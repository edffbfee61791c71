"""Every command of the README runs, in a copy of the checkout, in the order of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import (
    Example,
    blocks,
    commands,
    copy_checkout,
    examples,
    find_difference,
    without_comment,
)
from servers.comet import serve_comet
from servers.writable_hub import TOKEN, User, WritableHub, serve_writable_hub

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
}
# What needs an account at Comet or at the Hub: both are servers on this machine.
WITH_ACCOUNT = ("hf-finetune comet ", "hf-finetune push ", "hf-finetune predict user/")
KEY = "n0tArealKey0fAnyb0dy12345"


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


@pytest.fixture
def hub() -> Iterator[WritableHub]:
    with serve_writable_hub() as server:
        server.users[TOKEN] = User("user")
        yield server


@pytest.fixture
def account(hub: WritableHub, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody with a key to Comet and a token of the Hub."""
    with serve_comet() as comet:
        comet.keys.add(KEY)
        yield {
            **{k: v for k, v in os.environ.items() if not k.startswith(("COMET_", "HF_"))},
            "COMET_API_KEY": KEY,
            "COMET_URL_OVERRIDE": comet.address,
            "COMET_CONFIG": str(tmp_path / "no_such_file"),
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }


def run_commands(example: Example, checkout: Path, account: dict[str, str]) -> str:
    """What the commands of one block print."""
    printed = ""
    for command in map(without_comment, example.commands):
        if command in RUN_ELSEWHERE:
            continue
        done = subprocess.run(
            ["bash", "-c", f"set -e\n. .venv/bin/activate\n{command}\n"],
            cwd=checkout,
            env=account if command.startswith(WITH_ACCOUNT) else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
        if command == "make finetune":
            accuracy = re.search(r"test accuracy  ([\d.]+)%", done.stdout)
            assert accuracy is not None
            assert float(accuracy[1]) >= 96
        if command.startswith("hf-finetune verify-engines"):
            assert "agree bit for bit" in done.stdout
        printed += done.stdout
    return printed


@pytest.mark.slow
def test_every_command_runs(checkout: Path, hub: WritableHub, account: dict[str, str]):
    (checkout / "my.yaml").write_text(blocks(PAGE, "yaml")[0], encoding="utf-8")
    for example in examples(PAGE):
        printed = run_commands(example, checkout, account)
        if example.output:
            printed = printed.replace(hub.address, "https://huggingface.co")
            line = find_difference(example.output, printed, same_numbers=False)
            assert line is None, f"not printed: {line}\n{printed}"
    (card,) = blocks(PAGE, "markdown")
    pushed = hub.files("user/digits")["README.md"].decode()
    assert find_difference(card, pushed, same_numbers=False) is None, pushed
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
