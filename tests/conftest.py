"""Shared ground of the tests: small data in the course's layouts, and small configurations."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Before torch is imported: no test may reach for the network, and none needs a second GPU.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# comet_ml notes what was imported before it, unless this is set; a session imports everything.
os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As the command line does: threads that wait by spinning slow everything else on the machine down.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# In the background of a script Ctrl-C is ignored, and every process would inherit that: some tests
# press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Mends a torchaudio of another build before transformers meets it, whichever test file is run.
import hf_finetune  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Configurations name the samples by a path from the checkout."""
    monkeypatch.chdir(ROOT)


@pytest.fixture
def shared_data() -> Path:
    """The full data sets beside the checkout, where there are any."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the full data sets are not beside the checkout")
    return SHARED_DATA


def draw_digits(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 `[rows, 28, 28]` of whole levels, and labels int64 `[rows]` that they show.

    A blob whose place tells the class: learnable in a few steps, unlike noise.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % 10
    images = generator.integers(0, 60, (rows, 28, 28))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 5)
        image[4 + 12 * row : 12 + 12 * row, 1 + 5 * column : 6 + 5 * column] = 250
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int64)


@pytest.fixture
def digits_root(tmp_path: Path) -> Path:
    """A folder in the course's `.pt` layout: three train files of 50 rows, 40 test rows."""
    import torch

    root = tmp_path / "digits"
    root.mkdir()
    for number in range(3):
        images, labels = draw_digits(50, number)
        torch.save(torch.from_numpy(images), root / f"train_images_{number}.pt")
        torch.save(torch.from_numpy(labels), root / f"train_target_{number}.pt")
    images, labels = draw_digits(40, 9)
    torch.save(torch.from_numpy(images), root / "test_images.pt")
    torch.save(torch.from_numpy(labels), root / "test_target.pt")
    return root


@pytest.fixture
def make_config(digits_root: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a small, quick configuration; dotted settings are laid over it."""
    from hf_finetune.config import config_from

    def make(**settings: Any) -> Any:
        tree: dict[str, Any] = {
            "name": "small",
            "data": {"name": "corrupt_mnist", "root": str(digits_root)},
            "model": {"name": "cnn", "channels": [4, 8], "convolutions_per_block": 1},
            "train": {
                "num_train_epochs": 2,
                "per_device_train_batch_size": 16,
                "learning_rate": 0.01,
                "logging_steps": 2,
            },
            "compute": {"precision": "fp32", "device": "cpu"},
            "run": {"directory": str(tmp_path / "runs"), "pictures": False},
        }
        for key, value in settings.items():
            section = tree
            *path, last = key.split("__")
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        return config_from(tree)

    return make
