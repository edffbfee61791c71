"""The engine on transformers' own Trainer: its loop, with the shared parts put in its places."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_finetune.engines.batches import start_epoch
from hf_finetune.engines.compute import spare_lookups
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.optimization import learning_rates
from hf_finetune.engines.progress import Progress
from hf_finetune.engines.step import Batch, TrainingStep


def fit(job: TrainingJob) -> Progress:
    """Trains the job's model with Trainer; see `engines.step` for what a step is.

    Raises:
        TrainingError: The loss stops being a number, or the checkpoint doesn't fit.
    """
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one; nothing is written to it
        trainer = StepTrainer(job, folder)
        steps_taken = trainer.progress.start()
        if not trainer.progress.should_stop:
            trainer.train(resume_from_checkpoint=str(job.resume_from) if steps_taken else None)
        trainer.progress.finish()
        return trainer.progress


class StepTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trainer with the toolkit's batches, loss, evaluation and checkpoints.

    Trainer's own evaluation, saving, logging and loading are switched off, since they lose weights
    (transformers#43701), multiply the loss under accumulation (#47688), and skip an evaluation
    after a badly timed kill; `engines.progress` does this work for both engines.
    """

    # The loss comes out of `compute_loss` ready for backward: Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(self, job: TrainingJob, folder: str) -> None:
        self.job = job
        spare_lookups()
        super().__init__(
            model=job.model,
            args=_training_arguments(job, folder),
            train_dataset=job.train_loader.dataset,
            optimizers=(job.optimizer, job.schedule),
        )
        self.remove_callback(PrinterCallback)
        self.progress = Progress(job, self.accelerator)
        self.step = TrainingStep(job.loss, self.accelerator)
        self.grad_norm: Tensor | float | None = None
        self.add_callback(_Reporter(self))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The shared loader, as accelerate wraps it."""
        loader: DataLoader[Any] = self.accelerator.prepare(self.job.train_loader)
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        """A step's micro-batches, and the sum of their example weights over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.step.begin(batches)
        return batches, self.step.total_weight

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """The micro-batch's part of the step's loss."""
        return self.step.micro_batch_loss(model, inputs)

    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Scores the validation split as the run does; metrics are named `eval_…` as Trainer's."""
        scores = self.job.evaluate(self.model, self.accelerator)
        return {f"eval_{name}": v for name, v in scores.items() if isinstance(v, float)}

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Keeps the norm that Trainer measures, for the history."""
        self.grad_norm = super()._get_grad_norm(model, grad_norm)
        return self.grad_norm

    def _load_from_checkpoint(self, *_: object, **__: object) -> None:
        """`Progress.start` has loaded and compared the weights."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """`Progress.start` has loaded them."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Trainer calls this just before the first step after a resume."""
        self.progress.restore_random_state()


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Tells the shared progress what Trainer has done."""

    def __init__(self, trainer: StepTrainer) -> None:
        self.trainer = trainer
        self.learning_rates: dict[str, float] = {}

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Starts the epoch at its source, the sampler."""
        job = self.trainer.job
        start_epoch(job.train_loader, state.global_step // job.length.steps_per_epoch)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Notes the learning rates that the step is taken with."""
        self.learning_rates = learning_rates(self.trainer.job.optimizer)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Reports the step."""
        trainer, progress = self.trainer, self.trainer.progress
        progress.step_end(*trainer.step.end(), trainer.grad_norm, self.learning_rates)
        control.should_training_stop |= progress.should_stop

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Evaluates, and lets early stopping have its say."""
        self.trainer.progress.epoch_end()
        control.should_training_stop |= self.trainer.progress.should_stop


def _training_arguments(job: TrainingJob, folder: str) -> TrainingArguments:
    """What Trainer itself needs to know; all else is in the shared parts."""
    train, compute = job.train, job.compute
    return TrainingArguments(
        output_dir=folder,
        max_steps=job.length.total_steps,
        per_device_train_batch_size=train.per_device_train_batch_size,
        per_device_eval_batch_size=train.per_device_eval_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        max_grad_norm=train.max_grad_norm,
        seed=job.seed,
        bf16=compute.precision == "bf16",
        fp16=compute.precision == "fp16",
        use_cpu=compute.device == "cpu",
        ddp_find_unused_parameters=job.may_skip_parameters,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
