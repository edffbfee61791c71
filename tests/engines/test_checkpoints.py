"""Checkpoints are whole or not there, and what is loaded equals what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_finetune.assembly import assemble
from hf_finetune.engines.checkpoints import (
    check_manifest,
    find_latest,
    load_random_state,
    load_weights,
    save_weights,
    write_manifest,
)
from hf_finetune.errors import TrainingError
from hf_finetune.registry import kind


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_weights_come_back_bit_for_bit(tmp_path: Path):
    network = small_network().to(memory_format=torch.channels_last)
    network(torch.rand(4, 1, 4, 4))  # batch norm's buffers move
    save_weights(network, tmp_path / "w.safetensors")
    other = small_network()
    load_weights(other, tmp_path / "w.safetensors")
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize("spoil", ["drop", "rename", "reshape"])
def test_weights_that_do_not_fit_are_refused(spoil: str, tmp_path: Path):
    network = small_network()
    save_weights(network, tmp_path / "w.safetensors")
    tensors = load_file(tmp_path / "w.safetensors")
    value = tensors.pop("3.bias")
    if spoil == "rename":
        tensors["head.bias"] = value
    if spoil == "reshape":
        tensors["3.bias"] = torch.zeros(4)
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(TrainingError, match=r"3\.bias"):
        load_weights(network, tmp_path / "w.safetensors")


def test_weights_that_a_load_leaves_wrong_are_found(tmp_path: Path):
    class Forgetful(nn.Linear):
        def load_state_dict(self, *_: Any, **__: Any) -> None:  # type: ignore[override]
            """Loads nothing, as a non-strict load under other names would."""

    save_weights(Forgetful(3, 3), tmp_path / "w.safetensors")
    with pytest.raises(TrainingError, match="2 tensors differ from the file"):
        load_weights(Forgetful(3, 3), tmp_path / "w.safetensors")


def test_a_manifest_knows_every_file(tmp_path: Path):
    (tmp_path / "a").write_text("one")
    with pytest.raises(TrainingError, match="no whole checkpoint"):
        check_manifest(tmp_path)
    write_manifest(tmp_path)
    check_manifest(tmp_path)
    (tmp_path / "a").write_text("two")
    with pytest.raises(TrainingError, match="has changed"):
        check_manifest(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(TrainingError, match="missing"):
        check_manifest(tmp_path)


def test_only_whole_checkpoints_are_found(tmp_path: Path):
    assert find_latest(tmp_path) is None
    for name, whole in (("step-9", True), ("step-10", True), ("step-11", False)):
        (tmp_path / name).mkdir()
        if whole:
            write_manifest(tmp_path / name)
    assert find_latest(tmp_path) == tmp_path / "step-10"


def test_a_checkpoint_of_fewer_processes_is_refused(tmp_path: Path):
    with pytest.raises(TrainingError, match="fewer processes"):
        load_random_state(tmp_path, process_index=1)


class Watch:
    """Looks into the checkpoint folder at every evaluation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[list[str]] = []
        self.best: list[bool] = []

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        pass

    def on_record(self, record: Mapping[str, Any]) -> None:
        if "is_best" in record:
            self.best.append(bool(record["is_best"]))
            self.seen.append(sorted(path.name for path in self.folder.iterdir()))


def watch(config: Any, folder: Path) -> Watch:
    bench = assemble(config)
    watcher = Watch(folder)
    job = bench.make_job((watcher,), checkpoints=folder)
    kind("engines", config.train.engine).fit(job)
    return watcher


def test_the_best_and_the_last_are_kept(make_config: Callable[..., Any], tmp_path: Path):
    config = make_config(train__num_train_epochs=6, train__engine="loop", train__save_total_limit=2)
    watcher = watch(config, tmp_path / "c")
    assert any(watcher.best[1:])
    assert not all(watcher.best)
    best = 0
    for number, (is_best, names) in enumerate(zip(watcher.best, watcher.seen, strict=True), 1):
        best = 7 * number if is_best else best
        kept = {f"step-{7 * n}" for n in range(max(1, number - 1), number + 1)}
        assert {name for name in names if name.startswith("step-")} == kept
        assert f"best-{best}" in names
        named = {
            json.loads((tmp_path / "c" / name / "progress.json").read_text())["best_step"]
            for name in kept
            if (tmp_path / "c" / name).exists()
        }
        assert {f"best-{step}" for step in named} <= set(names) or number < 6


def test_checkpoints_can_be_rarer_than_evaluations(make_config: Callable[..., Any], tmp_path: Path):
    config = make_config(
        train__num_train_epochs=5, train__engine="loop", train__save_every_evaluations=2
    )
    watcher = watch(config, tmp_path / "c")
    last = [[n for n in names if n.startswith("step-")] for names in watcher.seen]
    assert last == [[], ["step-14"], ["step-14"], ["step-28"], ["step-28"]]
    never = make_config(train__engine="loop", train__save_every_evaluations=0)
    names = watch(never, tmp_path / "d").seen[-1]
    assert len(names) == 1
    assert names[0].startswith("best-")
