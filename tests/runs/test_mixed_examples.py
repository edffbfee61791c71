"""What a run says and shows of its augmentation: warnings, plan, and the sheet of examples."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from hf_finetune.finetuning import finetune
from hf_finetune.runs.results import name_labels


def test_a_run_that_mixes_and_mirrors_says_so(
    make_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    config = make_config(
        run__pictures=True,
        train__max_steps=2,
        train__engine="loop",
        features__augmentation={
            "crop_area_fraction": [0.5, 1],
            "horizontal_flip": 0.5,
            "policy": "randaugment",
            "mixup_alpha": 0.4,
            "cutmix_alpha": 1.0,
        },
    )
    run = finetune(config).run
    (warning,) = run.status["warnings"]
    assert warning.startswith("features.augmentation.horizontal_flip mirrors the digits")
    plan = json.loads((run.path / "environment.json").read_text())["plan"]
    assert plan["warning 1"] == warning
    assert plan["features"] == (
        "augmentation of training images: crop_area_fraction 0.5 to 1, horizontal_flip 0.5, "
        "policy randaugment, mixup_alpha 0.4, cutmix_alpha 1"
    )
    assert "mirrors the digits of corrupt_mnist" in capsys.readouterr().out
    with Image.open(run.path / "examples.png") as sheet:
        assert sheet.width > 900


def test_mixed_examples_are_called_by_both_labels():
    batch = {
        "labels": torch.tensor([0, 0, 1, 2]),
        "mixed_labels": torch.tensor([1, 1, 1, 2]),
        "mix_ratio": torch.tensor([0.7, 0.2, 0.9, 1.0]),
    }
    names = ("cat", "dog", "owl")
    assert name_labels(batch, names) == ["cat+dog", "dog+cat", "dog", "owl"]
    assert name_labels({"labels": batch["labels"]}, names) == ["cat", "cat", "dog", "owl"]
