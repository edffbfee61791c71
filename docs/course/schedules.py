"""Exercise 10: the learning rate by step under six schedules, in two settings each.

Place: docs/course.md runs it; `train.schedule` of a configuration takes the same settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from hf_finetune.engines.optimization import Length, PlateauLR, build_schedule
from hf_finetune.engines.options import TrainOptions
from hf_finetune.runs.plots import BLUE, ORANGE

STEPS_PER_EPOCH, EPOCHS = 20, 12
SCHEDULES: dict[str, tuple[dict[str, Any], ...]] = {
    "step": ({"every_epochs": 4, "gamma": 0.5}, {"every_steps": 30, "gamma": 0.5}),
    "multi_step": ({"milestones_epochs": [4, 10]}, {"milestones_steps": [50, 130]}),
    "exponential": ({"gamma_per_epoch": 0.75}, {"gamma_per_step": 0.98}),
    "cosine": ({}, {"warmup_steps": 30}),
    "reduce_on_plateau": (
        {"factor": 0.5, "patience_evaluations": 0},
        {"factor": 0.5, "patience_evaluations": 2},
    ),
    "one_cycle": ({}, {"rise_ratio": 0.1}),
}
# What reduce_on_plateau hears at each epoch's end: a validation loss that stops falling.
VALIDATION_LOSSES = (1.5, 1.1, 0.9, 0.8, 0.75, 0.74, 0.76, 0.75, 0.77, 0.76, 0.75, 0.76)
PICTURE = Path("runs/schedules.png")


def learning_rates(name: str, settings: dict[str, Any]) -> list[float]:
    """The learning rate that each step of the run is taken with."""
    train = TrainOptions.model_validate(
        {
            "learning_rate": 1e-3,
            "metric_for_best_model": "loss",
            "schedule": {"name": name, **settings},
        }
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.learning_rate)
    length = Length(STEPS_PER_EPOCH, STEPS_PER_EPOCH * EPOCHS)
    schedule = build_schedule(optimizer, train, length, greater_is_better=False)
    rates = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS_PER_EPOCH):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        if isinstance(schedule, PlateauLR):
            schedule.hear(VALIDATION_LOSSES[epoch])
    return rates


def describe(settings: dict[str, Any]) -> str:
    """Settings as a configuration has them, in one line."""
    return ", ".join(f"{key}: {value}" for key, value in settings.items()) or "defaults"


def main() -> None:
    """Prints the rate at the start of some epochs, and draws all of them."""
    figure = Figure(figsize=(10, 5.6), dpi=100, layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flat
    print(f"{'schedule':17}  {'settings':38}  learning rate at the start of epoch 1, 5, 9, 12")
    for (name, variants), axes in zip(SCHEDULES.items(), panels, strict=True):
        for settings, color in zip(variants, (BLUE, ORANGE), strict=True):
            rates = learning_rates(name, settings)
            starts = [f"{rates[(epoch - 1) * STEPS_PER_EPOCH]:.6f}" for epoch in (1, 5, 9, 12)]
            print(f"{name:17}  {describe(settings):38}  {'  '.join(starts)}")
            axes.plot(rates, color=color, label=describe(settings))
        axes.set(title=name, xlabel="step", ylabel="learning rate", ylim=(0, 1.45e-3))
        axes.label_outer(remove_inner_ticks=False)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        axes.grid(alpha=0.25)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
