"""What a run is about to do, said before its first step and kept in its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.assembly import Workbench
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.options import ScheduleOptions


def plan_run(bench: Workbench, job: TrainingJob, run: Path) -> dict[str, str]:
    """The plan by topic, in words.

    Args:
        bench: What the configuration names.
        job: The training run.
        run: The run directory.
    """
    config = bench.config
    plan = {
        "run": f"{run}  (seed {config.seed})",
        "data": _describe_data(bench),
        "leaks": _describe_leaks(bench),
        "model": _describe_model(bench),
        "features": _describe_features(bench),
        "compute": _describe_compute(bench),
        "training": _describe_training(bench, job),
        "trackers": ", ".join(dict.fromkeys(("jsonl", *config.trackers))),
    }
    for number, warning in enumerate(bench.data.warnings, start=1):
        plan[f"warning {number}"] = warning
    return plan


def _describe_data(bench: Workbench) -> str:
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in bench.data.splits.items())
    return (
        f"{bench.config.data.name}: {sizes} examples of {len(bench.data.label_names)} classes; "
        f"{bench.data.split_description}"
    )


def _describe_leaks(bench: Workbench) -> str:
    shared = [warning for warning in bench.data.warnings if "shares" in warning]
    if shared:
        return f"{len(shared)} found, see the warnings"
    columns = " or ".join(bench.data.group_columns)
    return f"none: no {columns} lies in two splits" if columns else "not known: no group keys"


def _describe_model(bench: Workbench) -> str:
    parameters = list(bench.classifier.model.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    part = "all" if trainable == total else f"{trainable:,}"
    return f"{bench.config.model.name}: {total:,} parameters, {part} trainable"


def _describe_features(bench: Workbench) -> str:
    augmentation = bench.config.features.augmentation
    active = augmentation.model_dump(exclude_defaults=True)
    listed = ", ".join(f"{name} {value:g}" for name, value in active.items())
    return f"augmentation of training images: {listed or 'none'}"


def _describe_compute(bench: Workbench) -> str:
    compute = bench.compute
    parts = [compute.device, compute.precision, "channels_last" if compute.channels_last else ""]
    threads, processes = compute.num_threads, compute.num_processes
    parts += [
        f"{threads} thread{'s' * (threads > 1)}",
        f"{processes} process{'es' * (processes > 1)}",
    ]
    return ", ".join(part for part in parts if part)


def _describe_training(bench: Workbench, job: TrainingJob) -> str:
    train, length = job.train, job.length
    per_device, accumulation = train.per_device_train_batch_size, train.gradient_accumulation_steps
    processes = bench.compute.num_processes
    factors = f"{per_device} x {accumulation} accumulated x {processes} process"
    effective = per_device * accumulation * processes
    return (
        f"{train.engine}: {length.total_steps:,} steps of {effective} examples ({factors}), "
        f"{length.steps_per_epoch:,} an epoch; {train.optimizer.name} at "
        f"{train.learning_rate:g}, {_describe_schedule(train.schedule)}; "
        f"best by validation/{train.metric_for_best_model}"
    )


def _describe_schedule(schedule: ScheduleOptions) -> str:
    settings: dict[str, Any] = schedule.model_dump(exclude_defaults=True, exclude={"name"})
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{schedule.name} schedule{f' ({listed})' if listed else ''}"
