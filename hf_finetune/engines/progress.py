"""Where a training run stands, and what happens after a step and at an evaluation.

Both engines tell it of every step and every epoch's end; it logs, evaluates, chooses the best
model, stops early and writes checkpoints, in the order of the step contract (`engines.step`).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from hf_finetune.engines.checkpoints import (
    WEIGHTS,
    load_checkpoint,
    load_random_state,
    load_scaler,
    read_progress,
    save_checkpoint,
    save_weights,
    write_manifest,
)
from hf_finetune.engines.compute import seed_everything
from hf_finetune.engines.job import Record, TrainingJob
from hf_finetune.engines.optimization import PlateauLR
from hf_finetune.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Progress:
    """The state of a run between its steps.

    Args:
        job: The run.
        accelerator: The engine's.

    Attributes:
        step: Optimiser steps taken.
        should_stop: Whether the engine is to stop before the next step.
        best_step: Steps after which the best evaluation was made.
        stopped_early: Where patience ended the run before its last step: `step`, `epoch` and
            `reason`, in words; None where it didn't.
        seconds: Time spent in training steps, evaluations left out.
    """

    def __init__(self, job: TrainingJob, accelerator: Accelerator) -> None:
        self.job = job
        self.accelerator = accelerator
        self.step = 0
        self.should_stop = False
        self.best_step: int | None = None
        self.stopped_early: dict[str, Any] | None = None
        self._best_value: float | None = None
        self._reference: float | None = None  # what early stopping compares with
        self._stale_evaluations = 0
        self._evaluated_step = 0
        self._num_evaluations = 0
        self._num_records = 0
        self.seconds = 0.0
        self._loss_sum: Tensor | float = 0.0
        self._weight_sum: Tensor | float = 0.0
        self._examples: Tensor | int = 0  # a tensor, so that no step waits for its device
        self._epoch_loss_sum: Tensor | float = 0.0
        self._epoch_weight_sum: Tensor | float = 0.0
        self._started = time.perf_counter()

    def start(self) -> int:
        """Seeds the run or takes up a checkpoint; returns the steps that were already taken."""
        seed_everything(self.job.seed)
        if self.job.resume_from is not None:
            saved = load_checkpoint(self.job.resume_from, self.job)
            self._check_alike(saved)
            load_scaler(self.job.resume_from, self.accelerator)
            self.step = self._evaluated_step = saved["step"]
            self._loss_sum, self._weight_sum, self._examples = saved["unlogged"]
            self.best_step, self._best_value = saved["best_step"], saved["best_value"]
            self._reference = saved["reference"]
            self._stale_evaluations = saved["stale_evaluations"]
            self._num_evaluations = saved["num_evaluations"]
            self._num_records, self.seconds = saved["num_records"], saved["seconds"]
            self.should_stop = saved["should_stop"]
            self.stopped_early = saved.get("stopped_early")  # older checkpoints don't say
            # The evaluation that the checkpoint belongs to is logged after it: say it now.
            self._log(saved["evaluation"])
        self._tell_epoch()
        self._started = time.perf_counter()
        return self.step

    def _check_alike(self, saved: dict[str, Any]) -> None:
        """Refuses a checkpoint whose steps are not this run's steps."""
        now = {
            "num_processes": self.accelerator.num_processes,
            "steps_per_epoch": self.job.length.steps_per_epoch,
        }
        differing = [f"{k} was {saved[k]}, is {v}" for k, v in now.items() if saved[k] != v]
        if differing:
            raise TrainingError(
                f"{self.job.resume_from}: {' and '.join(differing)}. Resume with the settings, "
                "and with as many processes, as the run was started with."
            )

    def restore_random_state(self) -> None:
        """Puts the random generators where the checkpoint left them, before the first step."""
        if self.job.resume_from is not None:
            load_random_state(self.job.resume_from, self.accelerator.process_index)

    def step_end(
        self,
        loss_sum: Tensor,
        weight: Tensor,
        examples: Tensor,
        grad_norm: Tensor | float | None,
        learning_rates: Mapping[str, float],
    ) -> None:
        """Takes note of one optimiser step.

        Args:
            loss_sum: Sum of the weighted example losses, over the step's whole batch.
            weight: Sum of the example weights.
            examples: Rows of the step's whole batch.
            grad_norm: The gradient's norm before clipping.
            learning_rates: Those that the step was taken with, as the history names them.
        """
        self.step += 1
        self._loss_sum = self._loss_sum + loss_sum
        self._weight_sum = self._weight_sum + weight
        self._epoch_loss_sum = self._epoch_loss_sum + loss_sum
        self._epoch_weight_sum = self._epoch_weight_sum + weight
        self._examples = self._examples + examples
        for listener in self.job.listeners:
            listener.on_step(self.step, loss_sum / weight, self.job.model)
        train, length = self.job.train, self.job.length
        last_step = min(self.job.stop_after or length.total_steps, length.total_steps)
        is_last = self.step >= last_step
        # Before an evaluation writes its checkpoint: a run resumed from it must not step again.
        self.should_stop = self.should_stop or is_last
        is_epoch_end = self.step % length.steps_per_epoch == 0
        if self.step % train.logging_steps == 0 or is_epoch_end or is_last:
            self._log_training(grad_norm, learning_rates)
        elif self.step == 1:  # of one step the loss is noise, but a schedule begins here
            self._log({"step": 1, "epoch": self._epoch(), **learning_rates})
        if train.eval_steps is not None and self.step % train.eval_steps == 0:
            self._evaluate()
        self._tell_epoch()

    def _tell_epoch(self) -> None:
        """Lets a frozen part thaw when its epoch begins, after a resume too."""
        if self.job.freezing is not None:
            self.job.freezing.epoch = self.step // self.job.length.steps_per_epoch

    def epoch_end(self) -> None:
        """Evaluates where an epoch's end asks for it."""
        if self.job.train.eval_strategy == "epoch":
            self._evaluate()

    def finish(self) -> None:
        """Evaluates the last step where nothing has yet."""
        self._evaluate()

    @property
    def best_weights(self) -> Path | None:
        """File with the best weights, or None where none are kept."""
        if self.job.checkpoints is None or self.best_step is None:
            return None
        return self.job.checkpoints / f"best-{self.best_step}" / WEIGHTS

    def _log_training(
        self, grad_norm: Tensor | float | None, learning_rates: Mapping[str, float]
    ) -> None:
        loss = float(self._loss_sum / self._weight_sum)
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        self.seconds += seconds
        if not math.isfinite(loss):
            raise TrainingError(
                f"train: the loss is {loss} at step {self.step}. Lower train.learning_rate, "
                "clip with train.max_grad_norm, or take compute.precision: fp32."
            )
        record: dict[str, float | int | bool] = {
            "step": self.step,
            "epoch": self._epoch(),
            "train/loss": loss,
            **learning_rates,
            "train/examples_per_second": int(self._examples) / max(seconds, 1e-9),
        }
        if grad_norm is not None:
            record["train/grad_norm"] = float(grad_norm)
        self._loss_sum = self._weight_sum = 0.0
        self._examples = 0
        self._log(record)

    def _epoch(self) -> float:
        return self.step / self.job.length.steps_per_epoch

    def _log(self, record: Record) -> None:
        self._num_records += 1
        for listener in self.job.listeners:
            listener.on_record(record)

    def _evaluate(self) -> None:
        """Evaluate, choose the best, write the checkpoint, log: once for a step."""
        if self._evaluated_step == self.step:
            return
        self.seconds += time.perf_counter() - self._started
        self._evaluated_step = self.step
        self._num_evaluations += 1
        scores = self.job.evaluate(self.job.model, self.accelerator)
        value = float(scores[self.job.train.metric_for_best_model])
        if not math.isfinite(value):
            raise TrainingError(
                f"train: validation/{self.job.train.metric_for_best_model} is {value} at step "
                f"{self.step}. Lower train.learning_rate."
            )
        is_best = self._is_better(value, self._best_value, 0.0)
        if is_best:
            self.best_step, self._best_value = self.step, value
        self._count_stale(value)
        if isinstance(self.job.schedule, PlateauLR):
            self.job.schedule.hear(value)
        record: dict[str, float | int | bool] = {
            "step": self.step,
            "epoch": self._epoch(),
            "train/loss_since_evaluation": float(self._epoch_loss_sum / self._epoch_weight_sum),
            **{f"validation/{name}": float(scores[name]) for name in self.job.train.metrics},
            "is_best": is_best,
            **({"stopped_early": True} if self.stopped_early else {}),
            "seconds": self.seconds,
        }
        self._epoch_loss_sum = self._epoch_weight_sum = 0.0
        if self.job.checkpoints is not None:
            self._write_checkpoint(self.job.checkpoints, is_best, record)
        self._log(record)
        self._started = time.perf_counter()

    def _is_better(self, value: float, than: float | None, threshold: float) -> bool:
        if than is None:
            return True
        greater = self.job.train.metrics[self.job.train.metric_for_best_model]
        return (value - than if greater else than - value) > threshold

    def _count_stale(self, value: float) -> None:
        train = self.job.train
        if self._is_better(value, self._reference, train.early_stopping_threshold):
            self._reference, self._stale_evaluations = value, 0
        else:
            self._stale_evaluations += 1
        patience = train.early_stopping_patience
        is_spent = patience is not None and self._stale_evaluations >= patience
        if is_spent and not self.should_stop:  # which the last step has set already
            self.should_stop = True
            self.stopped_early = {
                "step": self.step,
                "epoch": self._epoch(),
                "reason": f"validation/{train.metric_for_best_model} was no better in {patience} "
                f"evaluation{'s' * (patience != 1)}",
            }

    def _write_checkpoint(self, folder: Path, is_best: bool, record: Record) -> None:
        """Best weights first, then the checkpoint that names them, then what it makes needless."""
        main = self.accelerator.is_main_process
        if is_best and main:
            best = folder / f"best-{self.step}"
            unfinished = folder / f".best-{self.step}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            save_weights(self.job.model, unfinished / WEIGHTS)
            write_manifest(unfinished)
            shutil.rmtree(best, ignore_errors=True)
            unfinished.rename(best)
        self.accelerator.wait_for_everyone()
        every = self.job.train.save_every_evaluations
        if every and self._num_evaluations % every == 0:
            target = folder / f"step-{self.step}"
            save_checkpoint(target, self.job, self.accelerator, self._state(record))
        if main:
            self._remove_needless(folder)

    def _remove_needless(self, folder: Path) -> None:
        """Keeps the last checkpoints, and the best weights that any of them or this run names."""
        checkpoints = sorted(folder.glob("step-*"), key=lambda path: int(path.name[5:]))
        kept = checkpoints[-self.job.train.save_total_limit :]
        named = {self.best_step}
        for checkpoint in kept:
            named.add(read_progress(checkpoint)["best_step"])
        needless = [path for path in checkpoints if path not in kept]
        needless += [path for path in folder.glob("best-*") if int(path.name[5:]) not in named]
        for path in needless:
            shutil.rmtree(path)

    def _state(self, record: Record) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_step": self.best_step,
            "best_value": self._best_value,
            "reference": self._reference,
            "stale_evaluations": self._stale_evaluations,
            "num_evaluations": self._num_evaluations,
            "num_records": self._num_records,
            "seconds": self.seconds,
            "should_stop": self.should_stop,
            "stopped_early": self.stopped_early,
            "num_processes": self.accelerator.num_processes,
            "steps_per_epoch": self.job.length.steps_per_epoch,
            "unlogged": [float(self._loss_sum), float(self._weight_sum), int(self._examples)],
            "evaluation": dict(record),
        }
