"""Builds the optimiser and the learning-rate schedule; both engines take the very same objects."""

from __future__ import annotations

import bisect
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from hf_finetune.engines import options as sections
from hf_finetune.engines.muon import Muon, split_groups
from hf_finetune.errors import UserError
from hf_finetune.models.parameter_groups import decay_groups, rate_groups
from hf_finetune.registry import nearest

OWN_OPTIMIZERS = ("adamw", "adam", "sgd", "muon")


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps_per_epoch: Optimiser steps of one epoch.
        total_steps: Optimiser steps of the whole run.
    """

    steps_per_epoch: int
    total_steps: int


def build_optimizer(model: nn.Module, train: sections.TrainOptions) -> torch.optim.Optimizer:
    """The optimiser over every trainable parameter; biases and norms are not decayed.

    Raises:
        UserError: The name is neither one of ours nor one of Trainer's.
    """
    options, learning_rate = train.optimizer, train.learning_rate
    groups = parameter_groups(model, train)
    if options.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=learning_rate,
            momentum=options.momentum,
            nesterov=options.nesterov,
            # With momentum, torch's fused kernel can't take parameters that begin to move later
            # than others (a part that thaws, a layer left out at random).
            fused=options.momentum == 0,
        )
    if options.name in ("adam", "adamw"):
        kind = torch.optim.AdamW if options.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=learning_rate, betas=options.betas, eps=options.epsilon, fused=True)
    if options.name == "muon":
        return Muon(
            split_groups(groups, model),
            lr=learning_rate,
            betas=options.betas,
            eps=options.epsilon,
            momentum=options.momentum,
        )
    kind, arguments = _find_in_trainer(model, train)
    optimizer: torch.optim.Optimizer = kind(groups, **arguments)
    return optimizer


def parameter_groups(model: nn.Module, train: sections.TrainOptions) -> list[dict[str, Any]]:
    """The optimiser's groups: with rates of their own only where the configuration asks for them.

    Raises:
        ModelError: The rates ask for a head or layers that the model doesn't have.
    """
    weight_decay = train.optimizer.weight_decay
    if train.head_learning_rate is None and train.layer_decay is None:
        return decay_groups(model, weight_decay)
    rate = train.learning_rate
    return rate_groups(
        model, weight_decay, rate, train.head_learning_rate or rate, train.layer_decay or 1.0
    )


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates in force, as the history names them.

    `train/learning_rate`; where groups have their own, that is the backbone's highest, and
    `train/head_learning_rate` and `train/lowest_learning_rate` stand beside it.
    """
    groups = optimizer.param_groups
    if "part" not in groups[0]:
        return {"train/learning_rate": float(groups[0]["lr"])}
    head = [float(group["lr"]) for group in groups if group["part"] == "head"]
    backbone = [float(group["lr"]) for group in groups if group["part"] != "head"] or head
    rates = {"train/learning_rate": max(backbone), "train/head_learning_rate": max(head, default=0)}
    if min(backbone) < max(backbone):
        rates["train/lowest_learning_rate"] = min(backbone)
    return rates


def _find_in_trainer(model: nn.Module, train: sections.TrainOptions) -> tuple[Any, dict[str, Any]]:
    """Class and arguments of an optimiser that Trainer knows by name."""
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames

    options = train.optimizer
    names = [str(name.value) for name in OptimizerNames]
    if options.name not in names:
        raise UserError(
            f"train.optimizer.name: unknown optimiser {options.name!r}. "
            f"{nearest(options.name, [*OWN_OPTIMIZERS, *names])}"
        )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            optim=options.name,
            learning_rate=train.learning_rate,
            adam_beta1=options.betas[0],
            adam_beta2=options.betas[1],
            adam_epsilon=options.epsilon,
            weight_decay=options.weight_decay,
            use_cpu=True,
        )
    try:
        kind, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    except (ImportError, ValueError) as error:
        raise UserError(f"train.optimizer.name: {options.name!r} can't be used: {error}") from error
    if "params" in keywords or "model" in keywords or "optimizer_dict" in keywords:
        raise UserError(
            f"train.optimizer.name: {options.name!r} builds its own parameter groups, which is not "
            "supported. Take adamw, adam, sgd, muon or another of Trainer's names."
        )
    return kind, dict(keywords)


class PlateauLR(LambdaLR):
    """Warm-up by steps, and a factor that falls when an evaluation brings nothing new.

    Trainer ticks every schedule but torch's ReduceLROnPlateau once a step; this one takes those
    ticks for its warm-up, and `hear` for the evaluations, so that both engines treat it alike.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup: Callable[[int], float],
        options: sections.PlateauSchedule,
        greater_is_better: bool,
    ) -> None:
        # torch's own class keeps the count, on a learning rate of 1 that belongs to nothing.
        self._dial = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        self._plateau = ReduceLROnPlateau(
            self._dial,
            mode="max" if greater_is_better else "min",
            factor=options.factor,
            patience=options.patience_evaluations,
            threshold=options.threshold,
        )
        self._warmup = warmup
        super().__init__(optimizer, lambda step: warmup(step) * self.factor)

    @property
    def factor(self) -> float:
        """Product of the reductions so far."""
        return float(self._dial.param_groups[0]["lr"])

    def hear(self, value: float) -> None:
        """Takes note of an evaluation's metric; the new rate holds from the next step on."""
        self._plateau.step(value)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._warmup(self.last_epoch) * self.factor

    def state_dict(self) -> dict[str, Any]:
        """The step count, the best value and the reductions."""
        plateau = {k: v for k, v in self._plateau.state_dict().items() if k != "optimizer"}
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": self.base_lrs,
            "factor": self.factor,
            "plateau": plateau,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.last_epoch = state_dict["last_epoch"]
        self.base_lrs = state_dict["base_lrs"]
        self._dial.param_groups[0]["lr"] = state_dict["factor"]
        self._plateau.load_state_dict(state_dict["plateau"])


def build_schedule(
    optimizer: torch.optim.Optimizer,
    train: sections.TrainOptions,
    length: Length,
    greater_is_better: bool,
) -> LRScheduler:
    """The schedule, to be ticked once an optimiser step, whatever the unit of its settings."""
    options = train.schedule
    if isinstance(options, sections.OneCycleSchedule):
        rise_ratio = options.rise_ratio
        if rise_ratio * length.total_steps == 1.0:  # torch divides by rising steps - 1
            rise_ratio = math.nextafter(rise_ratio, 1.0)
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=length.total_steps,
            pct_start=rise_ratio,
            div_factor=options.start_divisor,
            final_div_factor=options.end_divisor,
            cycle_momentum=options.cycle_momentum,
        )
    warmup_steps = options.warmup_steps or math.ceil(options.warmup_ratio * length.total_steps)

    def warmup(step: int) -> float:
        return min(1.0, step / warmup_steps) if warmup_steps else 1.0

    if isinstance(options, sections.PlateauSchedule):
        return PlateauLR(optimizer, warmup, options, greater_is_better)
    decay = _decay(options, length, warmup_steps)
    return LambdaLR(optimizer, lambda step: warmup(step) * decay(step))


def _decay(
    options: sections.ScheduleBase, length: Length, warmup_steps: int
) -> Callable[[int], float]:
    """Factor on the learning rate after so many steps, warm-up left out."""
    falling_steps = max(1, length.total_steps - warmup_steps)

    def progress(step: int) -> float:
        return min(1.0, max(0, step - warmup_steps) / falling_steps)

    match options:
        case sections.LinearSchedule():
            return lambda step: 1 - progress(step)
        case sections.CosineSchedule():
            return lambda step: 0.5 * (1 + math.cos(math.pi * progress(step)))
        case sections.StepSchedule():
            every = options.every_steps or (options.every_epochs or 1) * length.steps_per_epoch
            return lambda step: options.gamma ** (step // every)
        case sections.MultiStepSchedule():
            epochs = [epoch * length.steps_per_epoch for epoch in options.milestones_epochs]
            milestones = sorted(options.milestones_steps or epochs)
            return lambda step: options.gamma ** bisect.bisect_right(milestones, step)
        case sections.ExponentialSchedule():
            if options.gamma_per_step is not None:
                per_step = options.gamma_per_step
                return lambda step: per_step**step
            per_epoch = options.gamma_per_epoch or 1.0
            return lambda step: per_epoch ** (step // length.steps_per_epoch)
    return lambda step: 1.0
