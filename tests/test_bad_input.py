"""Every fault of data or configuration: one clear error, exit code 2, and no run left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.cli import main

CONFIG = """\
name: bad
data:
  name: corrupt_mnist
  root: {root}
model: {{name: cnn, channels: [4]}}
train: {{num_train_epochs: 1}}
run: {{directory: {runs}}}
"""


def keep(root: Path) -> None:
    """Leaves the data as it is: the fault is elsewhere."""


def cut(root: Path) -> None:
    path = root / "train_images_1.pt"
    path.write_bytes(path.read_bytes()[:2000])


def empty(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()


def relabel(labels: Any) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for number in range(3):
            torch.save(torch.as_tensor(labels), root / f"train_target_{number}.pt")

    return spoil


def blank(root: Path) -> None:
    images = torch.zeros(50, 28, 28)
    images[7, 3, 3] = torch.nan
    torch.save(images, root / "train_images_0.pt")


CASES: dict[str, tuple[Callable[[Path], None], str, list[str], str]] = {
    "missing folder": (keep, "", ["data.root=nowhere"], "there is no folder 'nowhere'"),
    "empty folder": (empty, "", [], "it is empty"),
    "truncated file": (cut, "", [], "train_images_1.pt: it can't be read; it is truncated"),
    "unequal count": (relabel(np.zeros(7, int)), "", [], "7 labels for 50 images"),
    "label out of range": (relabel(np.full(50, 11)), "", [], "label 11 in row 0 is out of range"),
    "NaN pixels": (blank, "", [], "1 images hold NaN or infinite pixels, the first in row 7"),
    "one class": (relabel(np.ones(50, int)), "", [], "one class only"),
    "a class missing": (relabel(np.arange(50) % 9), "", [], "no rows of class 9"),
    "unknown key": (keep, "optimiser: adam\n", [], "unknown key 'optimiser'"),
    "wrong type": (keep, "seed: one\n", [], "seed: must be a whole number"),
    "a seed too large": (keep, "seed: 4294967296\n", [], "must be below 2**32"),
    "duplicate key": (keep, "name: again\n", [], "name"),
    "batch size 0": (keep, "", ["--batch-size", "0"], "per_device_train_batch_size"),
    "too small a network": (
        keep,
        "",
        ["model.channels=[4,4,4,4]", "model.padding=valid"],
        "model",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_one_clear_line(
    name: str, digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    spoil, more, words, expected = CASES[name]
    spoil(digits_root)
    path = tmp_path / "bad.yaml"
    path.write_text(CONFIG.format(root=digits_root, runs=tmp_path / "runs") + more)
    assert main(["train", "--config", str(path), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "runs").exists()
