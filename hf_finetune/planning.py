"""What a run is about to do, said before its first step and kept in its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.assembly import Workbench
from hf_finetune.data.inspection import describe_leaks
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.length_batches import LengthBatches
from hf_finetune.engines.optimization import parameter_groups
from hf_finetune.engines.options import ScheduleOptions
from hf_finetune.features.audio_options import describe_audio_options
from hf_finetune.hub import describe_hub
from hf_finetune.trackers import describe_trackers


def plan_run(bench: Workbench, job: TrainingJob, run: Path, resumption: str = "") -> dict[str, str]:
    """The plan by topic, in words.

    Args:
        bench: What the configuration names.
        job: The training run.
        run: The run directory.
        resumption: Where a run goes on, and what is set otherwise this time.
    """
    config = bench.config
    plan = {
        "run": f"{run}  (seed {config.seed})",
        **({"resumed": resumption} if resumption else {}),
        "data": _describe_data(bench),
        "leaks": describe_leaks(bench.data),
        "model": _describe_model(bench),
        "features": _describe_features(bench, job),
        **({"frozen part": bench.keeping.describe()} if bench.keeping is not None else {}),
        "compute": _describe_compute(bench),
        "training": _describe_training(bench, job),
        "trackers": describe_trackers(config.trackers, config.tracking),
    }
    hub = describe_hub(config.hub)
    if hub is not None:
        plan["hub"] = hub
    for number, warning in enumerate(bench.warnings, start=1):
        plan[f"warning {number}"] = warning
    return plan


def _describe_data(bench: Workbench) -> str:
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in bench.data.splits.items())
    return (
        f"{bench.config.data.name}: {sizes} examples of {len(bench.data.label_names)} classes; "
        f"{bench.data.split_description}"
    )


def _describe_model(bench: Workbench) -> str:
    classifier = bench.classifier
    model, freezing = classifier.model, classifier.freezing
    later = freezing.names if freezing is not None else frozenset()
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(
        p.numel() for name, p in model.named_parameters() if p.requires_grad and name not in later
    )
    part = "all" if trainable == total else f"{trainable:,}"
    phrases = [f"{bench.config.model.name}: {total:,} parameters, {part} trainable"]
    if freezing is not None and freezing.unfreeze_at_epoch is not None:
        rest = sum(model.get_parameter(name).numel() for name in later)
        due = freezing.unfreeze_at_epoch
        phrases.append(f"{rest:,} more after {due} epoch{'s' * (due > 1)}")
    if classifier.origin:
        phrases.append(f"{type(model).__name__} from {classifier.origin}")
    if getattr(model.config, "num_attention_heads", None) is not None:
        phrases.append(f"{model.config._attn_implementation} attention")
    return "; ".join(phrases)


def _describe_features(bench: Workbench, job: TrainingJob) -> str:
    if "audio" in bench.data.splits["train"].column_names:
        batches = job.train_loader.batch_sampler
        told = describe_audio_options(bench.config.features.audio)
        if not isinstance(batches, LengthBatches):
            return told
        padded = getattr(job.train_loader.collate_fn, "padded_seconds", None)
        return f"{told}; {batches.describe(padded)}"
    augmentation = bench.config.features.augmentation
    active = augmentation.model_dump(exclude_defaults=True)
    listed = ", ".join(f"{name} {_describe_value(value)}" for name, value in active.items())
    return f"augmentation of training images: {listed or 'none'}"


def _describe_value(value: float | str | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[1]:g}"
    return value if isinstance(value, str) else f"{value:g}"


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
    several = "es" if processes > 1 else ""
    factors = f"{per_device} x {accumulation} accumulated x {processes} process{several}"
    effective = per_device * accumulation * processes
    return (
        f"{train.engine}: {length.total_steps:,} steps of {effective} examples ({factors}), "
        f"{length.steps_per_epoch:,} an epoch; {train.optimizer.name} at "
        f"{_describe_rates(job)}, {_describe_schedule(train.schedule)}; "
        f"best by validation/{train.metric_for_best_model}"
    )


def _describe_rates(job: TrainingJob) -> str:
    """The highest learning rate, and those of the parts that have their own."""
    train = job.train
    groups = parameter_groups(job.model, train)
    if "part" not in groups[0]:
        return f"{train.learning_rate:g}"
    rates = {group["part"]: group["lr"] for group in groups}
    head = rates.pop("head", train.learning_rate)
    lowest, highest = min(rates.values(), default=head), max(rates.values(), default=head)
    backbone = f"{highest:.3g}" if lowest == highest else f"{lowest:.3g} to {highest:.3g} by layer"
    return f"{backbone} (head {head:.3g})"


def _describe_schedule(schedule: ScheduleOptions) -> str:
    settings: dict[str, Any] = schedule.model_dump(exclude_defaults=True, exclude={"name"})
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{schedule.name} schedule{f' ({listed})' if listed else ''}"
