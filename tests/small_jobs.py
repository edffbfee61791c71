"""Training jobs over a few ready tensors: what the engines need, without data or features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hf_finetune.engines.batches import KeyedSampler
from hf_finetune.engines.compute import Compute, seed_everything
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.optimization import Length, build_optimizer, build_schedule
from hf_finetune.engines.options import TrainOptions
from hf_finetune.evaluation import GREATER_IS_BETTER
from hf_finetune.losses.cross_entropy import Options, build
from hf_finetune.models import Classifier
from hf_finetune.registry import kind

CPU = Compute("cpu", "fp32", False, 1, 1, 0)


class Rows(Dataset[dict[str, torch.Tensor]]):
    """A batch, row by row, under the keys of the toolkit's sampler."""

    def __init__(self, batch: Mapping[str, torch.Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["labels"])

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        indices = torch.tensor([index for _, index in keys])
        return {name: values[indices] for name, values in self.batch.items()}


class Weights:
    """Hears a run: its losses, its records, and the weights after each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.states: list[dict[str, torch.Tensor]] = []
        self.records: list[Mapping[str, Any]] = []

    def on_step(self, step: int, loss: torch.Tensor, model: torch.nn.Module) -> None:
        self.losses.append(float(loss))
        self.states.append({name: value.clone() for name, value in model.state_dict().items()})

    def on_record(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)


class Interrupt:
    """Cuts a run off when a step is done, as Ctrl-C would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, loss: torch.Tensor, model: torch.nn.Module) -> None:
        if step == self.step:
            raise KeyboardInterrupt

    def on_record(self, record: Mapping[str, Any]) -> None:
        pass


def make_job(
    classifier: Classifier,
    batch: Mapping[str, torch.Tensor],
    *,
    heard: Weights | Interrupt | None = None,
    checkpoints: Path | None = None,
    resume_from: Path | None = None,
    stop_after: int | None = None,
    **train: Any,
) -> TrainingJob:
    """A job that trains a classifier on the rows of a batch, and scores it on the same."""
    options = TrainOptions.model_validate(
        {"per_device_train_batch_size": 2, "num_train_epochs": 2, "logging_steps": 1, **train}
    )
    rows = Rows(batch)
    loader: Any = DataLoader(
        rows,
        batch_size=options.per_device_train_batch_size,
        sampler=KeyedSampler(len(rows), 0, shuffle=True),
        collate_fn=lambda ready: ready,
        generator=torch.Generator().manual_seed(0),
    )
    model = classifier.model
    loss = build(Options(), tuple(model.config.id2label.values()), (1,) * model.config.num_labels)

    def evaluate(network: torch.nn.Module, _: Any) -> dict[str, float]:
        was_training = network.training
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "index")}
        with torch.inference_mode():
            logits = network.eval()(**inputs).logits
        network.train(was_training)
        value = float(torch.nn.functional.cross_entropy(logits, batch["labels"]))
        return dict.fromkeys(GREATER_IS_BETTER, -value) | {"loss": value}

    steps = -(-len(loader) // options.gradient_accumulation_steps)
    length = Length(steps, options.max_steps or steps * options.num_train_epochs)
    optimizer = build_optimizer(model, options)
    return TrainingJob(
        train=options,
        compute=CPU,
        seed=3,
        model=model,
        loss=loss,
        train_loader=loader,
        optimizer=optimizer,
        schedule=build_schedule(optimizer, options, length, True),
        length=length,
        evaluate=evaluate,
        listeners=(heard,) if heard is not None else (),
        checkpoints=checkpoints,
        resume_from=resume_from,
        stop_after=stop_after,
        freezing=classifier.freezing,
    )


def run(engine: str, job: TrainingJob) -> Any:
    """Trains a job with an engine; answers with its progress."""
    seed_everything(job.seed)
    return kind("engines", engine).fit(job)
