"""What an engine is given to do: everything that both engines share, put together beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from hf_finetune.engines.compute import Compute
from hf_finetune.engines.optimization import Length
from hf_finetune.engines.options import TrainOptions
from hf_finetune.losses import Loss
from hf_finetune.models.freezing import Freezing

if TYPE_CHECKING:
    from accelerate import Accelerator

Record = Mapping[str, float | int | bool]


class Listener(Protocol):
    """Whoever wants to hear how training goes: trackers, the progress bar, the engines' checks."""

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """After each optimiser step: its number from 1, its loss, and the model after it."""

    def on_record(self, record: Record) -> None:
        """A line of the history, with `step`, `epoch` and metrics named `split/name`."""


class Evaluate(Protocol):
    """Scores a model on the validation split."""

    def __call__(self, model: nn.Module, accelerator: Accelerator) -> Mapping[str, Any]:
        """Metrics by name; at least every name that may choose the best model."""


@dataclass(frozen=True)
class TrainingJob:
    """A training run, ready to start.

    Attributes:
        train: The configuration's `train` section.
        compute: What to run on.
        seed: Seeds dropout when training starts.
        model: On its device, in its memory format.
        loss: The run's loss.
        train_loader: Made by `engines.batches.make_loader`.
        optimizer: Over the model's trainable parameters.
        schedule: Ticked once an optimiser step.
        length: Steps of an epoch and of the run.
        evaluate: Scores the validation split.
        listeners: Told of every step and every record.
        checkpoints: Folder for checkpoints; None writes none (and so knows no best model).
        resume_from: Checkpoint to go on from.
        stop_after: Stop after this many steps, with the schedule of the whole run.
        freezing: What of the model is not trained, or not from the start.
    """

    train: TrainOptions
    compute: Compute
    seed: int
    model: nn.Module
    loss: Loss
    train_loader: DataLoader[dict[str, Tensor]]
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    length: Length
    evaluate: Evaluate
    listeners: tuple[Listener, ...] = ()
    checkpoints: Path | None = None
    resume_from: Path | None = None
    stop_after: int | None = None
    freezing: Freezing | None = None

    @property
    def may_skip_parameters(self) -> bool:
        """Whether a step can leave trainable parameters without a gradient.

        Several processes that train together must know: a part that thaws later, or layers that
        are left out at random.
        """
        config = getattr(self.model, "config", None)
        drops_layers = any(getattr(config, name, 0) for name in ("layerdrop", "encoder_layerdrop"))
        thaws = self.freezing is not None and self.freezing.unfreeze_at_epoch is not None
        return drops_layers or thaws

    def with_listeners(self, listeners: tuple[Listener, ...]) -> TrainingJob:
        """The same job, heard by others."""
        return replace(self, listeners=listeners)
