"""The step contract: what the loss is divided by, and that parameters move as they should."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from hf_finetune.assembly import assemble
from hf_finetune.registry import kind

ENGINES = ("trainer", "loop")


class Weights:
    """Keeps the weights after the last step, and every training record."""

    def __init__(self) -> None:
        self.state: dict[str, torch.Tensor] = {}
        self.records: list[Mapping[str, Any]] = []
        self.losses: list[float] = []

    def on_step(self, step: int, loss: torch.Tensor, model: torch.nn.Module) -> None:
        self.losses.append(float(loss))
        self.state = {name: value.clone() for name, value in model.state_dict().items()}

    def on_record(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)


def train(config: Any, steps: int) -> tuple[Weights, dict[str, torch.Tensor]]:
    """Trains a few steps; returns what was heard, and the weights before."""
    bench = assemble(config)
    before = {name: value.clone() for name, value in bench.classifier.model.state_dict().items()}
    heard = Weights()
    kind("engines", config.train.engine).fit(bench.make_job((heard,), stop_after=steps))
    return heard, before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("weights", "mixing"),
    [("none", {}), ("auto", {}), ("auto", {"mixup_alpha": 1.0, "cutmix_alpha": 1.0})],
)
def test_accumulated_steps_equal_one_big_batch(
    engine: str, weights: str, mixing: dict[str, float], make_config: Callable[..., Any]
):
    """Nothing random and no batch norm, so that only the arithmetic of the loss is compared."""

    def run(batch_size: int, accumulation: int) -> Weights:
        config = make_config(
            model__norm="none",
            features__augmentation=mixing,
            loss={"name": "cross_entropy", "class_weights": weights},
            data__max_train_examples=61,  # uneven classes, and a tail
            train__engine=engine,
            train__per_device_train_batch_size=batch_size,
            train__gradient_accumulation_steps=accumulation,
            train__optimizer={"name": "sgd"},
        )
        return train(config, steps=8)[0]

    small, big = run(6, 4), run(24, 1)
    assert len(small.losses) == len(big.losses) == 6
    assert small.losses == pytest.approx(big.losses, rel=1e-5)
    for name, value in big.state.items():
        torch.testing.assert_close(small.state[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_parameter_moves_and_frozen_ones_stay(engine: str, make_config: Callable[..., Any]):
    bench = assemble(make_config(train__engine=engine))
    frozen = {"features.0.0.weight"}
    for name, parameter in bench.classifier.model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: value.clone() for name, value in bench.classifier.model.named_parameters()}
    kind("engines", engine).fit(bench.make_job(stop_after=2))
    moved = {
        name
        for name, value in bench.classifier.model.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert moved == set(before) - frozen


@pytest.mark.parametrize("engine", ENGINES)
def test_the_logged_loss_is_a_mean_over_examples(engine: str, make_config: Callable[..., Any]):
    heard, _ = train(make_config(train__engine=engine, train__logging_steps=100), steps=7)
    record = next(r for r in heard.records if "train/loss" in r)  # at the epoch's end
    sizes = [16] * 6 + [4]  # batches
    expected = sum(x * n for x, n in zip(heard.losses, sizes, strict=True)) / sum(sizes)
    assert record["step"] == 7
    assert record["train/loss"] == pytest.approx(expected, rel=1e-6)
    assert heard.records[0] == {"step": 1, "epoch": 1 / 7, "train/learning_rate": 0.01}
    evaluation = next(r for r in heard.records if "validation/loss" in r)
    assert evaluation["train/loss_since_evaluation"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_no_number_stops_the_run(engine: str, make_config: Callable[..., Any]):
    from hf_finetune.errors import TrainingError

    config = make_config(
        train__engine=engine, train__learning_rate=1e30, train__optimizer={"name": "sgd"}
    )
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) at step"):
        train(config, steps=14)


@pytest.mark.parametrize("engine", ENGINES)
def test_evaluation_leaves_training_alone(engine: str, make_config: Callable[..., Any]):
    """Scoring more often changes no bit: neither dropout's generator nor batch norm hears of it."""
    settings = {"train__engine": engine, "model__dropout": 0.5}
    seldom, _ = train(make_config(**settings), steps=14)
    often, _ = train(
        make_config(**settings, train__eval_strategy="steps", train__eval_steps=1), steps=14
    )
    assert often.losses == seldom.losses
    assert all(torch.equal(often.state[name], value) for name, value in seldom.state.items())
