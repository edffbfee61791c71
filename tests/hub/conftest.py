"""A Hub in place of the real one, and finished runs to push to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from servers.writable_hub import TOKEN, User, WritableHub, serve_writable_hub

from hf_finetune.config import config_from
from hf_finetune.finetuning import finetune
from hf_finetune.hub import access
from hf_finetune.runs.run_dir import RunDir


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WritableHub]:
    """A Hub, a user `me` who is logged in, and an empty cache."""
    constants = huggingface_hub.constants
    with serve_writable_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        # Large files then go by plain HTTP, as the Hub still takes them; Xet needs its own server.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(access, "WAITS_SECONDS", (0, 0, 0))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        huggingface_hub.close_session()  # the next one hears of the changes
        server.users[TOKEN] = User("me")
        yield server
    huggingface_hub.close_session()


def small_tree(root: Path, runs: Path) -> dict[str, Any]:
    """A configuration that trains in a second."""
    return {
        "name": "small",
        "data": {"name": "corrupt_mnist", "root": str(root)},
        "model": {"name": "cnn", "channels": [4, 8], "convolutions_per_block": 1},
        "train": {
            "engine": "loop",
            "num_train_epochs": 2,
            "per_device_train_batch_size": 16,
            "learning_rate": 0.01,
        },
        "compute": {"precision": "fp32", "device": "cpu", "num_threads": 1},
        "run": {"directory": str(runs)},
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run with pictures; tests get copies of it."""
    folder = tmp_path_factory.mktemp("finished")
    root = folder / "digits"
    root.mkdir()
    labels = torch.arange(40) % 10
    for number, name in enumerate(("train_{}_0", "train_{}_1", "train_{}_2", "test_{}")):
        generator = torch.Generator().manual_seed(number)
        images = torch.rand(40, 28, 28, generator=generator) * 0.2
        for image, label in zip(images, labels.tolist(), strict=True):
            image[2 * label : 2 * label + 8, 4:24] = 1.0  # a bar whose height tells the class
        torch.save(images, root / f"{name.format('images')}.pt")
        torch.save(labels, root / f"{name.format('target')}.pt")
    return finetune(config_from(small_tree(root, folder / "runs")), quiet=True).run


@pytest.fixture
def run(finished: RunDir, tmp_path: Path) -> RunDir:
    """A finished run of its own."""
    target = tmp_path / "runs" / "small" / "001"
    shutil.copytree(finished.path, target)
    return RunDir(target)


@pytest.fixture
def make_tree(digits_root: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Makes a small configuration that is pushed; sections are laid over it."""

    def make(**sections: dict[str, Any]) -> dict[str, Any]:
        tree = small_tree(digits_root, tmp_path / "runs")
        tree["run"]["pictures"] = False
        tree["hub"] = {"repo_id": "me/digits"}
        for name, section in sections.items():
            tree[name] = {**tree.get(name, {}), **section}
        return tree

    return make
