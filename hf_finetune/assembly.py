"""Puts together what a configuration names: data, model, loss, loaders, optimiser, schedule.

The corridor trains with it; `evaluate`, `summary` and `verify-engines` take what they need of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_finetune.clip_fitting import fit_clips
from hf_finetune.config import RunConfig
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.preparation import pixel_statistics
from hf_finetune.engines.batches import make_loader
from hf_finetune.engines.compiled_shapes import keep_shapes
from hf_finetune.engines.compute import Compute, seed_everything, settle_compute
from hf_finetune.engines.job import Listener, TrainingJob
from hf_finetune.engines.length_batches import batches_by_length
from hf_finetune.engines.optimization import Length, build_optimizer, build_schedule
from hf_finetune.evaluation import Predictions
from hf_finetune.evaluation.metrics import score
from hf_finetune.evaluation.prediction import Predictor
from hf_finetune.features import collator_for, partners_for, rounds_widths
from hf_finetune.features.audio_options import check_audio
from hf_finetune.features.augmentation_options import check_augmentation
from hf_finetune.keeping import Keeping, settle_keeping
from hf_finetune.losses import Loss, build_loss
from hf_finetune.models import Classifier, DataDescription, build_model
from hf_finetune.plugins import metrics_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Workbench:
    """What a configuration names, ready to use.

    Attributes:
        config: The configuration.
        compute: What to run on.
        data: The splits.
        classifier: The model, on its device and in its memory format, with its processor.
        loss: The loss.
        keeping: What is kept of a frozen part's work; None where there is nothing to keep.
    """

    config: RunConfig
    compute: Compute
    data: LoadedData
    classifier: Classifier
    loss: Loss
    keeping: Keeping | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run survives; each stands in its plan and its record."""
        options, shape = self.config.features.augmentation, self.data.image_shape
        doubts = check_audio(self.config.features.audio)
        if shape is not None:
            doubts += check_augmentation(options, self.config.data.name, shape.channels)
        return (*self.data.warnings, *self.classifier.warnings, *self._never_thawed(), *doubts)

    def _never_thawed(self) -> tuple[str, ...]:
        """Says so where the run ends before the frozen part is due."""
        freezing = self.classifier.freezing
        due = freezing.unfreeze_at_epoch if freezing is not None else None
        if due is None:
            return ()
        loader = self.make_loader("train", training=True, ready=False)
        length = measure_length(loader, self.config, self.compute.num_processes)
        epochs = length.total_steps / length.steps_per_epoch
        if due < epochs:
            return ()
        return (
            f"model.unfreeze_at_epoch is {due}, and the run has {epochs:.3g} epochs: what is "
            "frozen stays so",
        )

    def make_loader(
        self, split: str, training: bool = False, ready: bool = True
    ) -> DataLoader[dict[str, torch.Tensor]]:
        """A loader of a split: shuffled and augmented for training, else plain and in order.

        Args:
            split: train, validation or test.
            training: Whether it is read for training.
            ready: Whether what is kept of a frozen part's work may stand in for the examples;
                not where somebody wants to see or hear them.
        """
        train, seed, features = self.config.train, self.config.seed, self.config.features
        classifier, rows = self.classifier, self.data.splits[split]
        collator = collator_for(
            classifier.processor, features, seed, training, classifier.model.config
        )
        if ready and self.keeping is not None:
            collator = self.keeping.equip(split, rows, collator, classifier)
        size = train.per_device_train_batch_size if training else train.per_device_eval_batch_size
        processes = self.compute.num_processes if training else 1
        return make_loader(
            rows,
            collator,
            size,
            seed=seed,
            shuffle=training,
            num_workers=train.dataloader_num_workers,
            partners=partners_for(features, seed, len(rows), training),
            batches=batches_by_length(rows, features.audio, size, seed, training, processes),
        )

    def make_predictor(self, split: str) -> Predictor:
        """What predicts a split, without augmentation."""
        return Predictor(
            split, self.data.splits[split], self.make_loader(split), self.data.group_columns
        )

    def score(self, predictions: Predictions) -> dict[str, Any]:
        """Every metric of some predictions."""
        own_metrics = metrics_of(self.config.loaded_plugins)
        return score(predictions, self.data.label_names, self.loss, own_metrics)

    def make_job(
        self,
        listeners: tuple[Listener, ...] = (),
        checkpoints: Path | None = None,
        resume_from: Path | None = None,
        stop_after: int | None = None,
    ) -> TrainingJob:
        """A training run over this workbench's model; see `TrainingJob` for the arguments."""
        train, model = self.config.train, self.classifier.model
        train_loader = self.make_loader("train", training=True)
        length = measure_length(train_loader, self.config, self.compute.num_processes)
        optimizer = build_optimizer(model, train)
        greater = train.metrics[train.metric_for_best_model]
        validation = self.make_predictor("validation")

        def evaluate(model: nn.Module, accelerator: Accelerator) -> Mapping[str, Any]:
            return self.score(validation.predict(model, accelerator))

        return TrainingJob(
            train=train,
            compute=self.compute,
            seed=self.config.seed,
            model=model,
            loss=self.loss,
            train_loader=train_loader,
            optimizer=optimizer,
            schedule=build_schedule(optimizer, train, length, greater),
            length=length,
            evaluate=evaluate,
            listeners=listeners,
            checkpoints=checkpoints,
            resume_from=resume_from,
            stop_after=stop_after,
            freezing=self.classifier.freezing,
        )


def assemble(config: RunConfig) -> Workbench:
    """Loads the data and builds the model with fresh weights drawn from the run's seed.

    Raises:
        UserError: Something that the configuration names is missing, faulty or doesn't fit.
    """
    return assemble_with(config, load_data(config.data), None)


def assemble_with(config: RunConfig, data: LoadedData, classifier: Classifier | None) -> Workbench:
    """As `assemble`, on data that is loaded already, and on a given classifier if there is one."""
    if classifier is None:
        seed_everything(config.seed)
        classifier = build_model(config.model, describe(data))
    keep_shapes(come_again=rounds_widths(classifier.processor, config.features))
    data = fit_clips(data, config, classifier)
    loss = build_loss(config.loss, data.label_names, data.class_counts)
    compute = settle_compute(config.compute, classifier.channels_last)
    model: nn.Module = classifier.model
    model.to(compute.device)
    if compute.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    keeping = settle_keeping(config, data, classifier, compute)
    return Workbench(config, compute, data, classifier, loss, keeping)


def describe(data: LoadedData) -> DataDescription:
    """What a model needs to know of the data."""
    shape = data.image_shape
    if shape is None:
        rate = data.audio_shape.sampling_rate_hz if data.audio_shape else None
        return DataDescription(data.label_names, None, None, 1, (), (), "audio", rate)
    mean, std = pixel_statistics(data.splits["train"])
    return DataDescription(data.label_names, shape.height, shape.width, shape.channels, mean, std)


def measure_length(loader: DataLoader[Any], config: RunConfig, num_processes: int) -> Length:
    """Optimiser steps of an epoch and of the run, as Trainer counts them."""
    train = config.train
    batches_per_process = math.ceil(len(loader) / num_processes)
    steps_per_epoch = math.ceil(batches_per_process / train.gradient_accumulation_steps)
    return Length(steps_per_epoch, train.max_steps or steps_per_epoch * train.num_train_epochs)
