"""The same configuration with several seeds, and what that says about its scores."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_finetune.config import RunConfig
from hf_finetune.console import format_table
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.hub import refuse_pushes

_METRICS = ("accuracy", "macro_f1", "loss")


def repeat_seeds(config: RunConfig, count: int, quiet: bool = False) -> dict[str, Any]:
    """Runs a configuration with `count` seeds in a row, from the configuration's own on.

    The split stays (it has a seed of its own), so that the spread is that of training.

    Returns:
        Runs, seeds, and mean and standard deviation (n - 1) of each metric of validation and test;
        also written to `<run.directory>/<name>/seeds-<first run>-<last run>.json`.

    Raises:
        UserError: As `finetune`.
    """
    if count < 1:
        raise UserError(f"--repeat-seeds: must be at least 1, got {count}.")
    refuse_pushes(config, "--repeat-seeds")
    seeds = range(config.seed, config.seed + count)
    results = [finetune(config.model_copy(update={"seed": s}), quiet=quiet) for s in seeds]
    summary: dict[str, Any] = {
        "seeds": list(seeds),
        "runs": [str(result.run.path) for result in results],
        "train_seconds": [result.metrics["train_seconds"] for result in results],
    }
    summary |= spread_of([result.metrics for result in results])
    first, last = (Path(summary["runs"][i]).name for i in (0, -1))
    path = results[0].run.path.parent / f"seeds-{first}-{last}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if not quiet:
        print(f"\n{_format(summary, path)}")
    return summary


def spread_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1; None of one run) of the scores of several runs.

    Args:
        metrics: What metrics.json holds, of each run.

    Returns:
        `mean`, `std` and `values` by `split/metric`, of validation and test.
    """
    spread = {}
    for split in ("validation", "test"):
        for metric in _METRICS:
            values = [scores[split][metric] for scores in metrics]
            spread[f"{split}/{metric}"] = {
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "values": values,
            }
    return spread


def format_spread(spread: Mapping[str, Any]) -> dict[str, str]:
    """Rows of a table, from what `spread_of` found: `97.64 ± 0.57 %`."""
    rows = {}
    for split in ("validation", "test"):
        for metric in _METRICS:
            entry = spread[f"{split}/{metric}"]
            unit, scale = ("%", 100) if metric == "accuracy" else ("", 1)
            digits = 2 if unit else 4
            text = f"{entry['mean'] * scale:.{digits}f}"
            if entry["std"] is not None:
                text += f" ± {entry['std'] * scale:.{digits}f}"
            rows[f"{split}/{metric}"] = f"{text} {unit}".rstrip()
    return rows


def _format(summary: dict[str, Any], path: Path) -> str:
    count = len(summary["seeds"])
    rows = {f"{count} seed{'s' * (count > 1)}": "mean ± standard deviation over seeds"}
    if count == 1:
        rows = {"1 seed": "no spread: repeat with two or more"}
    rows |= format_spread(summary)
    rows["training"] = f"{statistics.fmean(summary['train_seconds']):.1f} s on average"
    rows["written to"] = str(path)
    return format_table(rows)
