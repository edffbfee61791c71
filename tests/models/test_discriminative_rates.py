"""Learning rates of their own for the head and for each layer, under every schedule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import make_batch, make_classifier_network, write_checkpoint
from small_jobs import Interrupt, Weights, make_job, run

from hf_finetune.engines.compute import seed_everything
from hf_finetune.engines.optimization import build_optimizer, learning_rates
from hf_finetune.engines.options import TrainOptions
from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, auto_image, build_model, rate_groups

IMAGES = DataDescription(("a", "b", "c"), 32, 32, 3, (0.5,) * 3, (0.2,) * 3)
RATES = {"learning_rate": 0.01, "head_learning_rate": 0.1, "layer_decay": 0.5}
Build = Callable[..., Classifier]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = write_checkpoint(tmp_path_factory.mktemp("deit"), "deit")

    def make(**settings: Any) -> Classifier:
        seed_everything(5)
        return build_model(auto_image.Options(checkpoint=str(folder), **settings), IMAGES)

    return make


def rates_by_name(model: torch.nn.Module, groups: list[dict[str, Any]]) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr"] for group in groups for p in group["params"]}


def test_every_layer_has_its_rate():
    model = make_classifier_network("deit")
    groups = rate_groups(model, 0.3, 0.01, 0.1, 0.5)
    rates = rates_by_name(model, groups)
    assert rates.keys() == {name for name, _ in model.named_parameters()}
    assert rates["classifier.weight"] == 0.1
    assert rates["deit.layernorm.weight"] == 0.01
    assert rates["deit.layers.1.mlp.fc1.weight"] == 0.01 * 0.5
    assert rates["deit.layers.0.mlp.fc1.bias"] == 0.01 * 0.25
    assert rates["deit.embeddings.cls_token"] == 0.01 * 0.125
    parts = {group["part"]: group["lr"] for group in groups}
    assert parts == {
        "layer 0": 0.00125,
        "layer 1": 0.0025,
        "layer 2": 0.005,
        "layer 3": 0.01,
        "head": 0.1,
    }
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in groups:
        kept = {names[p].endswith("bias") or "norm" in names[p] for p in group["params"]}
        assert kept == {group["weight_decay"] == 0.0}


def test_without_rates_of_their_own_there_are_two_groups():
    model = make_classifier_network("deit")
    groups = build_optimizer(model, TrainOptions()).param_groups
    assert ["part" in group for group in groups] == [False, False]
    parts = {"part": "backbone", "lr": 0.01}, {"part": "head", "lr": 0.1}
    groups = rate_groups(model, 0.3, 0.01, 0.1, 1.0)
    assert [{key: group[key] for key in ("part", "lr")} for group in groups] == [*parts, *parts]


def test_layers_must_be_told_apart():
    from hf_finetune.models.mlp import Options

    model = build_model(Options(hidden_sizes=(4,)), IMAGES).model
    with pytest.raises(ModelError, match=r"no layers .* Leave first_layers and train.layer_decay"):
        build_optimizer(model, TrainOptions(layer_decay=0.9))
    optimizer = build_optimizer(model, TrainOptions(head_learning_rate=0.5))
    assert rates_by_name(model, optimizer.param_groups)["classifier.bias"] == 0.5


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon", "adafactor", "adamw_torch"])
def test_every_optimiser_takes_the_rates(name: str):
    model = make_classifier_network("deit")
    options = TrainOptions.model_validate({**RATES, "optimizer": {"name": name}})
    rates = rates_by_name(model, build_optimizer(model, options).param_groups)
    assert rates["classifier.weight"] == 0.1
    assert rates["deit.layers.0.mlp.fc1.bias"] == 0.0025


SCHEDULES: tuple[dict[str, Any], ...] = (
    {"name": "constant"},
    {"name": "linear", "warmup_steps": 2},
    {"name": "cosine"},
    {"name": "one_cycle"},
    {"name": "step", "every_steps": 2},
    {"name": "multi_step", "milestones_steps": [1, 3]},
    {"name": "exponential", "gamma_per_step": 0.7},
    {"name": "reduce_on_plateau", "patience_evaluations": 0, "factor": 0.5, "threshold": 100.0},
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule["name"])
def test_every_schedule_scales_every_rate_alike(schedule: dict[str, Any], build: Build):
    classifier = build()
    heard = Weights()
    batch = make_batch("deit", classifier.model, 4)
    settings = {**RATES, "schedule": schedule, "metric_for_best_model": "loss"}
    settings |= {"eval_strategy": "steps", "eval_steps": 1}
    run("loop", make_job(classifier, batch, heard=heard, num_train_epochs=3, **settings))
    records = [record for record in heard.records if "train/loss" in record]
    assert len(records) == 6
    whole = [record["train/learning_rate"] for record in records]
    assert (len(set(whole)) == 1) is (schedule["name"] == "constant")
    head = [record["train/head_learning_rate"] for record in records]
    lowest = [record.get("train/lowest_learning_rate", 0.0) for record in records]
    assert head == pytest.approx([rate * 10 for rate in whole])
    assert lowest == pytest.approx([rate / 8 for rate in whole])


def test_both_engines_agree_and_resume_with_rates(build: Build, tmp_path: Path):
    def train(engine: str, heard: Any, **job: Any) -> Any:
        classifier = build(dropout={"hidden": 0.2})
        batch = make_batch("deit", classifier.model, 6)
        settings = {**RATES, "schedule": {"name": "one_cycle"}}
        run(engine, make_job(classifier, batch, heard=heard, **settings, **job))
        return heard

    trainer, loop = train("trainer", Weights()), train("loop", Weights())
    assert trainer.losses == loop.losses
    assert len(loop.losses) == 6
    keys = ("step", "train/learning_rate", "train/head_learning_rate", "train/lowest_learning_rate")
    logged = [
        [[record.get(key) for key in keys] for record in heard.records] for heard in (trainer, loop)
    ]
    assert logged[0] == logged[1]
    with pytest.raises(KeyboardInterrupt):
        train("trainer", Interrupt(5), checkpoints=tmp_path)
    resumed = train("loop", Weights(), checkpoints=tmp_path, resume_from=tmp_path / "step-3")
    assert resumed.losses == loop.losses[3:]
    for name, tensor in loop.states[-1].items():
        assert torch.equal(resumed.states[-1][name], tensor), name


def test_the_head_alone_has_one_rate():
    """With a frozen backbone there is no other group to name."""
    model = make_classifier_network("deit")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier."))
    options = TrainOptions(learning_rate=0.01, head_learning_rate=0.1)
    rates = learning_rates(build_optimizer(model, options))
    assert rates == {"train/learning_rate": 0.1, "train/head_learning_rate": 0.1}
