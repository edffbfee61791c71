"""Speech under two real processes: what one process learns of batches twice as large."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from small_sounds import configure, write_clip
from test_launching import SCRIPT, launch

from hf_finetune.config import dump_config

NO_DROPOUT = {"hidden": 0.0, "attention": 0.0, "activation": 0.0, "layer": 0.0}


def write_folder(root: Path) -> None:
    """Train, validation and test folders of two classes; clips of unequal lengths."""
    random = np.random.default_rng(0)
    for first, (split, count) in enumerate((("train", 20), ("validation", 4), ("test", 4))):
        for kind, label in enumerate(("high", "low")):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                seconds = random.uniform(0.08, 0.4)
                write_clip(folder / f"{number}.wav", seconds, 1000 * first + 2 * number + kind)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["off", "auto"])
def test_two_processes_agree_with_one(keep: str, tmp_path: Path):
    write_folder(tmp_path / "sounds")
    for size in (5, 10):
        config = configure(
            tmp_path,
            "wav2vec2_layer",  # it takes a mask: who is padded together changes nothing
            name=f"b{size}",
            data={"name": "audio_folder", "root": str(tmp_path / "sounds")},
            features__keep_frozen=keep,
            model__dropout=NO_DROPOUT,
            model__config={"apply_spec_augment": False},
            train__per_device_train_batch_size=size,
            train__optimizer={"name": "sgd"},
            compute__num_threads=1,
        )
        (tmp_path / f"b{size}.yaml").write_text(dump_config(config))
    together = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    together += ["--master_port", str(20000 + os.getpid() % 20000)]
    assert "2 processes" in launch([*together, SCRIPT, "--config", "b5.yaml"], tmp_path)
    launch([sys.executable, SCRIPT, "--config", "b10.yaml", "--quiet"], tmp_path)
    runs = [tmp_path / "runs" / name / "001" for name in ("b5", "b10")]
    weights = [load_file(run / "model/model.safetensors") for run in runs]
    for name, value in weights[0].items():
        assert float((weights[1][name] - value).abs().max()) < 1e-5, name
    metrics = [json.loads((run / "metrics.json").read_text())["test"] for run in runs]
    assert metrics[0]["confusion_matrix"] == metrics[1]["confusion_matrix"]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-4)
