"""Validation chooses the model and stops the run; the test split never does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from hf_finetune import assembly
from hf_finetune.config import RunConfig
from hf_finetune.finetuning import finetune
from hf_finetune.trackers.jsonl import read_history

# Validation accuracy and loss of each evaluation, as a story that a real run could tell.
STORY = [(0.5, 2.0), (0.7, 1.5), (0.6, 1.2), (0.7, 1.4), (0.65, 1.6), (0.9, 1.0)]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets evaluations tell the story; notes which splits were scored."""
    real = assembly.score
    scored: list[str] = []

    def score(predictions: Any, *arguments: Any) -> dict[str, Any]:
        scores = real(predictions, *arguments)
        number = scored.count("validation")
        scored.append(predictions.split)
        if predictions.split == "validation" and number < len(STORY):
            scores["accuracy"], scores["loss"] = STORY[number]
        return scores

    monkeypatch.setattr(assembly, "score", score)
    return scored


def evaluations(config: RunConfig) -> tuple[list[Mapping[str, Any]], dict[str, Any]]:
    result = finetune(config, quiet=True)
    records = [r for r in read_history(result.run.path) if "validation/loss" in r]
    return records, result.metrics


@pytest.mark.parametrize("engine", ["trainer", "loop"])
@pytest.mark.parametrize(
    ("settings", "best_epoch", "epochs"),
    [
        ({}, 6, 6),
        ({"early_stopping_patience": 2}, 2, 4),
        ({"early_stopping_patience": 3}, 2, 5),
        ({"metric_for_best_model": "loss"}, 6, 6),
        ({"metric_for_best_model": "validation/loss", "early_stopping_patience": 2}, 3, 5),
        ({"early_stopping_patience": 1, "early_stopping_threshold": 0.5}, 2, 2),
    ],
)
def test_best_model_and_early_stopping(
    engine: str,
    settings: dict[str, Any],
    best_epoch: int,
    epochs: int,
    make_config: Callable[..., Any],
    told: list[str],
):
    config = make_config(
        train={
            "engine": engine,
            "num_train_epochs": 6,
            "per_device_train_batch_size": 50,
            **settings,
        }
    )
    records, metrics = evaluations(config)
    assert len(records) == epochs
    assert metrics["best_step"] == 2 * best_epoch
    assert told.count("test") == 1
    assert told[-1] == "test"


def test_the_best_weights_are_what_is_scored(
    make_config: Callable[..., Any], told: list[str], tmp_path: Any
):
    """Best at epoch 2 of 4 by the story: model/ holds the weights of step 4, not of step 8."""
    from safetensors.torch import load_file

    class Keep:
        def __init__(self) -> None:
            self.state: dict[int, dict[str, Any]] = {}

        def on_step(self, step: int, loss: Any, model: Any) -> None:
            self.state[step] = {k: v.clone() for k, v in model.state_dict().items()}

        def on_record(self, record: Any) -> None:
            pass

    keep = Keep()
    config = make_config(train__num_train_epochs=4, train__per_device_train_batch_size=50)
    result = finetune(config, quiet=True, listeners=(keep,))
    saved = load_file(result.run.model / "model.safetensors")
    assert all(bool((saved[k] == v).all()) for k, v in keep.state[4].items())
    assert not all(bool((saved[k] == v).all()) for k, v in keep.state[8].items())
