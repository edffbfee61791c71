"""Fills a run directory: what is known when the run starts, and what it came to."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from hf_finetune.assembly import Workbench
from hf_finetune.data import LoadedData
from hf_finetune.data.division import name_groups
from hf_finetune.data.inspection import describe_leaks
from hf_finetune.data.split_files import SPLIT_FILE, UNUSED, write_split
from hf_finetune.engines.batches import BatchView, KeyedSampler
from hf_finetune.engines.length_batches import clip_seconds
from hf_finetune.engines.progress import Progress
from hf_finetune.features import collator_for
from hf_finetune.models import save_classifier
from hf_finetune.runs.environment import describe_environment
from hf_finetune.runs.plots import draw_confusion_matrix, draw_curves, draw_examples
from hf_finetune.runs.run_dir import ENVIRONMENT, METRICS, PADDING, RunDir
from hf_finetune.trackers.jsonl import read_history

if TYPE_CHECKING:
    from accelerate import Accelerator

_EXAMPLES, _GROUPS = 32, 20


def write_start(run: RunDir, bench: Workbench, plan: dict[str, str]) -> None:
    """Writes the environment, the plan, and a picture of what the model will see.

    Of a run that goes on, what its earlier sessions wrote stays in the record.
    """
    environment = {**describe_environment(), "compute": bench.compute.describe(), "plan": plan}
    if (run.path / ENVIRONMENT).is_file():
        before = run.read_json(ENVIRONMENT)
        environment["earlier"] = [*before.pop("earlier", []), before]
    run.write_json(ENVIRONMENT, environment)
    run.keep_warnings(bench.warnings, is_limit=True)
    run.set_status(
        "running",
        data_fingerprint=bench.data.fingerprint,
        skipped_examples=list(bench.data.skipped),
        split=_keep_split(run, bench.data),
    )
    if bench.config.run.pictures:
        _draw_examples(run, bench)


def _keep_split(run: RunDir, data: LoadedData) -> dict[str, str]:
    """Writes down which example is in which split; what the record says of it."""
    parts = {**{name: (rows,) for name, rows in data.splits.items()}, UNUSED: data.unused}
    columns = data.group_columns
    return {
        "file": SPLIT_FILE,
        "sha256": write_split(run.path / SPLIT_FILE, parts),
        "description": data.split_description,
        "test_groups": name_groups(data.splits["test"], columns, _GROUPS) if columns else "",
        "leaks": describe_leaks(data),
    }


def _draw_examples(run: RunDir, bench: Workbench) -> None:
    """The first training batch, as the model will see it."""
    if bench.data.audio_shape is not None:
        _draw_clips(run, bench)
        return
    loader = bench.make_loader("train", training=True, ready=False)
    view = cast("BatchView", loader.dataset)
    keys = list(islice(cast("KeyedSampler", loader.sampler), _EXAMPLES))
    batch = loader.collate_fn(cast("Any", view.__getitems__(keys)))
    draw_examples(
        batch["pixel_values"].numpy(),
        name_labels(batch, bench.data.label_names),
        run.path / "examples.png",
        title=f"{bench.config.name}: training images as the model sees them",
    )


def _draw_clips(run: RunDir, bench: Workbench) -> None:
    """The first clips of the first epoch, as the model will hear them."""
    from hf_finetune.features.audio import AudioCollator
    from hf_finetune.runs.sound_pictures import draw_clips, hear

    rows, seed, model = bench.data.splits["train"], bench.config.seed, bench.classifier.model
    keys = list(islice(KeyedSampler(len(rows), seed, shuffle=True), _EXAMPLES))
    raw = BatchView(rows).__getitems__(keys)
    processor, features = bench.classifier.processor, bench.config.features
    collator = collator_for(processor, features, seed, True, model.config)
    if not isinstance(collator, AudioCollator):
        return  # of a plugin
    draw_clips(
        *hear(collator, raw),
        [bench.data.label_names[label] for label in raw["label"]],
        run.path / "examples.png",
        title=f"{bench.config.name}: training clips as the model hears them",
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
        "stopped_early": progress.stopped_early,
        "train_seconds": progress.seconds,
        "seed": bench.config.seed,
    }
    if not bench.compute.is_main_process:
        return metrics
    if progress.stopped_early is not None:
        run.set_status("running", stopped_early=progress.stopped_early)
    save_classifier(bench.classifier, run.model)
    if bench.data.audio_shape is not None:
        _write_padding(run, bench, progress.accelerator)
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


def _write_padding(run: RunDir, bench: Workbench, accelerator: Accelerator) -> None:
    """How far the answers depend on padding, with a warning where classes change."""
    from hf_finetune.evaluation.padding import describe_padding, measure_padding

    split = "validation"  # the test split is scored, and no more
    seconds = clip_seconds(bench.data.splits[split])
    model, loader = bench.classifier.model, bench.make_loader(split)
    extractor = getattr(loader.collate_fn, "extractor", None)
    # Features of one length, whatever the clip's, leave little to look at, and are slow.
    most_clips = 64 if extractor is None or extractor.most_samples is None else 8
    found = measure_padding(model, loader, accelerator, seconds, most_clips)
    run.write_json(PADDING, {"split": split, **found})
    warning = describe_padding(found, split)
    if warning is not None:
        run.warn(warning, is_limit=True)


def _write_state_dict(run: RunDir, bench: Workbench) -> None:
    """The best weights as torch's plain `state_dict`, beside the run's other files."""
    import torch

    state = {k: v.cpu().contiguous() for k, v in bench.classifier.model.state_dict().items()}
    torch.save(state, run.path / "state_dict.pt")
