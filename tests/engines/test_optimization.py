"""Schedules equal torch's and transformers' own; optimisers are found by name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.optim import lr_scheduler

from hf_finetune.engines.optimization import Length, PlateauLR, build_optimizer, build_schedule
from hf_finetune.engines.options import TrainOptions
from hf_finetune.errors import UserError

LENGTH = Length(steps_per_epoch=5, total_steps=40)


def options(**settings: Any) -> TrainOptions:
    return TrainOptions.model_validate({"learning_rate": 0.1, **settings})


def rates(
    scheduler: Any, optimizer: torch.optim.Optimizer, ticks: int, every: int = 1
) -> list[float]:
    """Learning rate of each step, where the scheduler is ticked after every `every` steps."""
    found = []
    for step in range(1, ticks + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step % every == 0:
            scheduler.step()
    return found


def new_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


def ours(schedule: dict[str, Any], ticks: int = 40) -> list[float]:
    optimizer = new_optimizer()
    train = options(schedule=schedule)
    return rates(build_schedule(optimizer, train, LENGTH, True), optimizer, ticks)


REFERENCES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "step, epochs": (
        {"name": "step", "every_epochs": 2, "gamma": 0.3},
        lambda o: lr_scheduler.StepLR(o, 2, 0.3),
        5,
    ),
    "step, steps": (
        {"name": "step", "every_steps": 7, "gamma": 0.3},
        lambda o: lr_scheduler.StepLR(o, 7, 0.3),
        1,
    ),
    "multi_step, epochs": (
        {"name": "multi_step", "milestones_epochs": [3, 6]},
        lambda o: lr_scheduler.MultiStepLR(o, [3, 6], 0.1),
        5,
    ),
    "multi_step, steps": (
        {"name": "multi_step", "milestones_steps": [10, 30], "gamma": 0.5},
        lambda o: lr_scheduler.MultiStepLR(o, [10, 30], 0.5),
        1,
    ),
    "exponential, epochs": (
        {"name": "exponential", "gamma_per_epoch": 0.9},
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        5,
    ),
    "exponential, steps": (
        {"name": "exponential", "gamma_per_step": 0.99},
        lambda o: lr_scheduler.ExponentialLR(o, 0.99),
        1,
    ),
    "one_cycle": (
        {"name": "one_cycle", "rise_ratio": 0.2},
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, 40, pct_start=0.2, cycle_momentum=False),
        1,
    ),
    "constant": ({"name": "constant"}, lambda o: transformers.get_scheduler("constant", o), 1),
    "linear": (
        {"name": "linear", "warmup_steps": 8},
        lambda o: transformers.get_scheduler("linear", o, 8, 40),
        1,
    ),
    "cosine": (
        {"name": "cosine", "warmup_ratio": 0.2},
        lambda o: transformers.get_scheduler("cosine", o, 8, 40),
        1,
    ),
    "constant with warm-up": (
        {"name": "constant", "warmup_steps": 8},
        lambda o: transformers.get_scheduler("constant_with_warmup", o, 8),
        1,
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_schedules_equal_the_libraries_own(name: str):
    schedule, reference, every = REFERENCES[name]
    optimizer = new_optimizer()
    expected = rates(reference(optimizer), optimizer, 40, every)
    assert ours(schedule) == pytest.approx(expected, rel=1e-9)
    assert len(set(expected)) > 1 or name == "constant"


def test_one_cycle_may_rise_for_a_single_step():
    found = ours({"name": "one_cycle", "rise_ratio": 1 / 40})
    assert found[0] < 0.1 / 20
    assert found[1] == pytest.approx(0.1, rel=0.01)


def test_the_last_tick_of_one_cycle_is_allowed():
    assert ours({"name": "one_cycle"}, ticks=40)[-1] < 1e-4


def plateau(**settings: Any) -> tuple[PlateauLR, torch.optim.Optimizer]:
    optimizer = new_optimizer()
    schedule = {"name": "reduce_on_plateau", "patience_evaluations": 1, "factor": 0.5, **settings}
    built = build_schedule(optimizer, options(schedule=schedule), LENGTH, greater_is_better=True)
    assert isinstance(built, PlateauLR)
    return built, optimizer


def test_plateau_hears_evaluations_and_ignores_ticks():
    schedule, optimizer = plateau(warmup_steps=4)
    assert rates(schedule, optimizer, 5) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])
    heard = []
    for accuracy in (0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.7):
        schedule.hear(accuracy)
        optimizer.step()
        schedule.step()
        heard.append(optimizer.param_groups[0]["lr"])
    assert heard == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_plateau_is_taken_up_from_its_state():
    first, optimizer = plateau()
    for value in (0.5, 0.5):
        optimizer.step()
        first.step()
        first.hear(value)
    second, other = plateau()
    second.load_state_dict(first.state_dict())
    for schedule, holder in ((first, optimizer), (second, other)):
        schedule.hear(0.5)
        assert holder.param_groups[0]["lr"] == pytest.approx(0.05)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw", torch.optim.AdamW),
        ("adam", torch.optim.Adam),
        ("sgd", torch.optim.SGD),
        ("adamw_torch", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("adafactor", transformers.Adafactor),
    ],
)
def test_optimisers_are_found_by_name(name: str, kind: type):
    train = options(optimizer={"name": name, "weight_decay": 0.05})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = build_optimizer(Small(), train)
    assert type(optimizer) is kind
    decays = [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert decays == [(0.05, 1), (0.0, 3)]
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_settings_reach_the_optimiser():
    adam = build_optimizer(
        Small(), options(optimizer={"name": "adam", "betas": [0.8, 0.9], "epsilon": 1e-6})
    )
    assert adam.defaults["betas"] == (0.8, 0.9)
    assert adam.defaults["eps"] == 1e-6
    sgd = build_optimizer(
        Small(), options(optimizer={"name": "sgd", "momentum": 0.7, "nesterov": True})
    )
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.7, True)


def test_an_unknown_optimiser_is_named_with_its_nearest():
    with pytest.raises(UserError, match=r"unknown optimiser 'adammw'. Did you mean 'adamw'"):
        build_optimizer(Small(), options(optimizer={"name": "adammw"}))
