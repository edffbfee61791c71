"""The promise: both engines give the same losses and weights, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_finetune.engines import loop
from hf_finetune.verification import format_verification, verify_engines

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"model__dropout": 0.5},
    "augmentation": {
        "features__augmentation": {
            "rotation_degrees": 30.0,
            "shift_fraction": 0.1,
            "scale_ratio": 1.2,
        }
    },
    "every augmentation, mixed": {
        "features__augmentation": {
            "pad_crop_pixels": 2,
            "crop_area_fraction": [0.5, 1.0],
            "rotation_degrees": 30.0,
            "horizontal_flip": 0.3,
            "vertical_flip": 0.3,
            "policy": "randaugment",
            "brightness_fraction": 0.3,
            "contrast_fraction": 0.3,
            "erase_probability": 0.5,
            "erase_fill": "noise",
            "mixup_alpha": 0.4,
            "cutmix_alpha": 1.0,
            "mix_probability": 0.8,
        },
        "loss": {"name": "focal", "class_weights": "auto"},
        "train__gradient_accumulation_steps": 3,
    },
    # 100 rows in batches of 16: 7 a epoch, so both leave a tail.
    "accumulation 3": {"train__gradient_accumulation_steps": 3},
    "accumulation 4": {"train__gradient_accumulation_steps": 4, "model__dropout": 0.3},
    "tight clipping": {"train__max_grad_norm": 0.05},
    "no clipping": {"train__max_grad_norm": 0.0},
    "cosine with warm-up": {"train__schedule": {"name": "cosine", "warmup_ratio": 0.3}},
    "one cycle": {"train__schedule": {"name": "one_cycle", "cycle_momentum": True}},
    "plateau": {
        "train__schedule": {"name": "reduce_on_plateau", "patience_evaluations": 0, "factor": 0.5},
        "train__eval_strategy": "steps",
        "train__eval_steps": 2,
    },
    "weighted loss": {
        "loss": {"name": "cross_entropy", "class_weights": "auto", "label_smoothing": 0.1},
        "train__gradient_accumulation_steps": 3,
    },
    "focal loss": {
        "loss": {"name": "focal", "gamma": 1.5, "class_weights": "auto"},
        "train__gradient_accumulation_steps": 3,
    },
    "sgd": {"train__optimizer": {"name": "sgd", "nesterov": True}},
    "muon": {"train__optimizer": {"name": "muon"}, "train__schedule": {"name": "one_cycle"}},
    "one of Trainer's optimisers": {"train__optimizer": {"name": "adafactor"}},
    "mlp": {"model": {"name": "mlp", "hidden_sizes": [16], "dropout": 0.2}},
    "max_steps in mid-epoch": {"train__max_steps": 10},
}


@pytest.mark.parametrize("case", CASES)
def test_engines_agree_bit_for_bit(case: str, make_config: Callable[..., Any]):
    result = verify_engines(make_config(**CASES[case]), steps=100)
    assert result.difference is None, format_verification(result)
    accumulation = CASES[case].get("train__gradient_accumulation_steps", 1)
    assert result.steps == CASES[case].get("train__max_steps", 2 * -(-7 // accumulation))
    assert result.evaluations >= 2
    assert result.num_tensors >= 4


def test_engines_agree_on_two_classes_as_one_logit(make_config: Callable[..., Any], tmp_path: Path):
    """The digits have ten classes, hence a data set of two."""
    text = Path("examples/stripes.py").read_text()
    cut, changes = re.subn(r', "rising".*}', "}", text)
    assert changes == 1
    (tmp_path / "stripes.py").write_text(cut)
    config = make_config(
        plugins=[str(tmp_path / "stripes.py")],
        data={"name": "stripes", "rows": 100},
        loss={"name": "binary", "class_weights": {"across": 1.0, "down": 2.5}},
        train__gradient_accumulation_steps=3,
    )
    result = verify_engines(config, steps=100)
    assert result.difference is None, format_verification(result)
    assert result.steps == 4


def test_a_planted_difference_is_found(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    class Crooked(loop.TrainingStep):
        steps = 0

        def end(self) -> Any:
            Crooked.steps += 1
            if Crooked.steps in (5, 10):  # once in the first run, once in the look back
                with torch.no_grad():
                    network.classifier.bias[3] += 1e-7
            return super().end()

        def micro_batch_loss(self, model: Any, batch: Any) -> Any:
            nonlocal network
            network = model
            return super().micro_batch_loss(model, batch)

    network: Any = None
    monkeypatch.setattr(loop, "TrainingStep", Crooked)
    result = verify_engines(make_config(), steps=8)
    assert result.difference is not None
    assert (result.difference.step, result.difference.what) == (5, "classifier.bias")


def test_another_loss_is_found(make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    class Louder(loop.TrainingStep):
        def micro_batch_loss(self, model: Any, batch: Any) -> Any:
            return super().micro_batch_loss(model, batch) * 1.5

    monkeypatch.setattr(loop, "TrainingStep", Louder)
    result = verify_engines(make_config(train__max_grad_norm=0.0), steps=4)
    assert result.difference is not None
    assert result.difference.step == 1
    assert "differ first at step 1" in format_verification(result)
