"""A run that goes on is pushed where it is told to this time, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invariants.test_resume import Interrupt
from servers.writable_hub import WritableHub

from hf_finetune.cli import main
from hf_finetune.config import config_from
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, load_run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def stopped(hub: WritableHub, make_tree: Callable[..., dict[str, Any]]) -> RunDir:
    """A run that was stopped before its first push to me/digits."""
    config = config_from(make_tree())
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(10),))
    return load_run(Path(config.run.directory) / "small/001")


def test_to_another_repository(hub: WritableHub, stopped: RunDir):
    settings = ["hub.repo_id=me/other", "hub.revision=trial", "hub.private=false"]
    assert main(["train", "--resume", str(stopped.path), "--quiet", *settings]) == 0
    assert hub.repositories["me/digits"].messages == ["initial commit"]
    assert "model.safetensors" in hub.files("me/other", "trial")
    assert not hub.repositories["me/other"].private
    pushed = stopped.status["hub"]
    assert (pushed["repo_id"], pushed["revision"]) == ("me/other", "trial")


def test_to_none(hub: WritableHub, stopped: RunDir):
    before = len(hub.requests)
    words = ["train", "--resume", str(stopped.path), "--quiet", "hub.repo_id=null"]
    assert main(words) == 0
    assert stopped.status["status"] == "finished"
    assert len(hub.requests) == before
