"""The weights are pushed while training goes on, and nothing that breaks there stops it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from servers.writable_hub import TOKEN, Fault, WritableHub
from torch import nn

from hf_finetune.cli import main
from hf_finetune.config import config_from
from hf_finetune.finetuning import finetune
from hf_finetune.hub import HubError
from hf_finetune.runs.run_dir import RunDir

# Of the Hub's client, which calls its HTTP library so when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Tree = Callable[..., dict[str, Any]]


def test_pushes_while_training_goes_on(hub: WritableHub, make_tree: Tree):
    seen: list[dict[str, bytes]] = []

    class Watch:
        """Waits after each evaluation until the Hub has its weights."""

        def on_step(self, step: int, loss: torch.Tensor, model: nn.Module) -> None:
            if step % 7 == 1 and step > 7:  # the first step after an epoch
                for _ in range(1000):
                    messages = hub.repositories["me/digits"].messages
                    if len(messages) > len(seen) + 1:
                        break
                    time.sleep(0.01)
                seen.append(hub.files("me/digits"))

        def on_record(self, record: Any) -> None:
            pass

    tree = make_tree(hub={"repo_id": "me/digits", "when": "every_save"})
    result = finetune(config_from(tree), quiet=True, listeners=(Watch(),))
    (first,) = seen
    card = first["README.md"].decode()
    assert "**Training goes on.** These are the weights after step 7 (epoch 1)" in card
    assert "test accuracy" not in card.lower()
    assert "model-index" not in card
    assert "metrics.json" not in first
    last = hub.files("me/digits")
    assert "Training goes on" not in last["README.md"].decode()
    weights = load_file(result.run.model / "model.safetensors")
    names = load(first["model.safetensors"]).keys()
    assert names == weights.keys()
    assert hub.repositories["me/digits"].messages[1] == "small/001, step 7"


def test_a_push_on_the_way_never_stops_training(hub: WritableHub, make_tree: Tree, capsys):
    hub.faults.append(Fault("POST", "/commit/", 403, 1))
    tree = make_tree(hub={"repo_id": "me/digits", "when": "best"})
    result = finetune(config_from(tree), quiet=True)
    assert result.run.status["status"] == "finished"
    (warning,) = result.run.status["warnings"]
    assert warning.startswith("step 7 is not pushed: 'me/digits' is refused")
    assert capsys.readouterr().err.count(warning) == 1
    assert "model-index" in hub.files("me/digits")["README.md"].decode()


def test_whatever_breaks_on_the_way_is_a_warning(
    hub: WritableHub, make_tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def break_down(*_: object) -> None:
        raise RuntimeError(f"no {TOKEN} here")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for place in ("upload", "fill_folder"):
        with monkeypatch.context() as broken:
            broken.setattr(f"hf_finetune.hub.interim.{place}", break_down)
            tree = make_tree(hub={"repo_id": "me/digits", "when": "every_save"})
            run = finetune(config_from(tree), quiet=True).run
        assert run.status["status"] == "finished"
        assert run.status["warnings"] == [
            f"step {step} is not pushed: RuntimeError: no <removed> here" for step in (7, 14)
        ]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_resumed_run_goes_on_in_the_same_repository(hub: WritableHub, make_tree: Tree):
    class Stop:
        def on_step(self, step: int, loss: torch.Tensor, model: nn.Module) -> None:
            if step == 9:
                raise KeyboardInterrupt

        def on_record(self, record: Any) -> None:
            pass

    tree = make_tree(hub={"repo_id": "me/digits", "when": "best"})
    with pytest.raises(KeyboardInterrupt) as stopped:
        finetune(config_from(tree), quiet=True, listeners=(Stop(),))
    messages = hub.repositories["me/digits"].messages
    assert messages == ["initial commit", "small/001, step 7"]
    path = str(stopped.value).split("--resume ")[1]
    assert main(["train", "--resume", path, "--quiet"]) == 0
    assert messages[-1] == "small/001, as it came out"
    assert list(hub.repositories) == ["me/digits"]
    assert RunDir(Path(path)).status["hub"]["repo_id"] == "me/digits"


def test_adapters_are_pushed_at_the_end_only(hub: WritableHub, make_tree: Tree):
    tree = make_tree(hub={"repo_id": "me/digits", "when": "best"})
    tree["model"] = {"name": "auto_image", "checkpoint": "vit", "pretrained": False, "lora": {}}
    with pytest.raises(HubError, match=r"Write hub\.when: end"):
        finetune(config_from(tree), quiet=True)
    assert hub.requests == []
