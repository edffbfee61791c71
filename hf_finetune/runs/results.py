"""Fills a run directory: what is known when the run starts, and what it came to."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

import numpy as np
from torch import Tensor

from hf_finetune.assembly import Workbench
from hf_finetune.engines.batches import BatchView, KeyedSampler
from hf_finetune.engines.progress import Progress
from hf_finetune.models import save_classifier
from hf_finetune.runs.environment import describe_environment
from hf_finetune.runs.plots import draw_confusion_matrix, draw_curves, draw_examples
from hf_finetune.runs.run_dir import METRICS, RunDir
from hf_finetune.trackers.jsonl import read_history

_EXAMPLES = 32


def write_start(run: RunDir, bench: Workbench, plan: dict[str, str]) -> None:
    """Writes the environment, the plan, and a picture of what the model will see."""
    environment = describe_environment()
    run.write_json(
        "environment.json", {**environment, "compute": bench.compute.describe(), "plan": plan}
    )
    run.set_status(
        "running",
        data_fingerprint=bench.data.fingerprint,
        warnings=list(bench.warnings),
        skipped_examples=list(bench.data.skipped),
    )
    if bench.config.run.pictures:
        _draw_examples(run, bench)


def _draw_examples(run: RunDir, bench: Workbench) -> None:
    """The first training batch, as the model will see it."""
    loader = bench.make_loader("train", training=True)
    view = cast("BatchView", loader.dataset)
    keys = list(islice(cast("KeyedSampler", loader.sampler), _EXAMPLES))
    batch = loader.collate_fn(cast("Any", view.__getitems__(keys)))
    draw_examples(
        batch["pixel_values"].numpy(),
        name_labels(batch, bench.data.label_names),
        run.path / "examples.png",
        title=f"{bench.config.name}: training images as the model sees them",
    )


def name_labels(batch: dict[str, Tensor], label_names: tuple[str, ...]) -> list[str]:
    """What an image of a training batch is called: `3`, or where two are mixed `3+7`.

    Args:
        batch: Model batch with `labels`, and where examples are mixed `mixed_labels`, `mix_ratio`.
        label_names: Class names in the order of the label ids.

    Returns:
        A name for each image; of two, the label of the larger part comes first.
    """
    names = [label_names[label] for label in batch["labels"]]
    if "mix_ratio" not in batch:
        return names
    others = [label_names[label] for label in batch["mixed_labels"]]
    ratios = batch["mix_ratio"].tolist()
    return [
        "+".join(dict.fromkeys((name, other) if ratio >= 0.5 else (other, name)))
        for name, other, ratio in zip(names, others, ratios, strict=True)
    ]


def write_results(run: RunDir, bench: Workbench, progress: Progress) -> dict[str, Any]:
    """Scores validation and test with the model as it stands, and writes everything down.

    Returns:
        The content of metrics.json.
    """
    predictions = {
        split: bench.make_predictor(split).predict(bench.classifier.model, progress.accelerator)
        for split in ("validation", "test")
    }
    metrics: dict[str, Any] = {
        **{split: bench.score(rows) for split, rows in predictions.items()},
        "metric_for_best_model": bench.config.train.metric_for_best_model,
        "best_step": progress.best_step,
        "steps": progress.step,
        "train_seconds": progress.seconds,
        "seed": bench.config.seed,
    }
    if not bench.compute.is_main_process:
        return metrics
    save_classifier(bench.classifier, run.model)
    if bench.config.run.save_state_dict:
        _write_state_dict(run, bench)
    if bench.config.run.predictions:
        for rows in predictions.values():
            run.write_predictions(rows)
    if bench.config.run.pictures:
        draw_curves(read_history(run.path), run.path / "curves.png", title=run.title)
        matrix = np.asarray(metrics["test"]["confusion_matrix"])
        draw_confusion_matrix(
            matrix,
            bench.data.label_names,
            run.path / "confusion_matrix.png",
            title=f"{run.title}, test split",
        )
    run.write_json(METRICS, metrics)
    return metrics


def _write_state_dict(run: RunDir, bench: Workbench) -> None:
    """The best weights as torch's plain `state_dict`, beside the run's other files."""
    import torch

    state = {k: v.cpu().contiguous() for k, v in bench.classifier.model.state_dict().items()}
    torch.save(state, run.path / "state_dict.pt")
