"""Trains a configuration once a fold, each part of the data being the test split in its turn.

Each fold is a whole run in its own directory, so that what a kill cuts off goes on where it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config import RunConfig
from hf_finetune.console import format_columns, format_table
from hf_finetune.data import GivenData, SplitOptions, load_data
from hf_finetune.engines.compute import Compute, settle_compute
from hf_finetune.errors import UserError
from hf_finetune.evaluation.intervals import wilson_interval
from hf_finetune.finetuning import finetune
from hf_finetune.hub import refuse_pushes
from hf_finetune.registry import kind_of, nearest
from hf_finetune.repetition import format_spread, spread_of
from hf_finetune.runs.run_dir import STATUS, RunDir

_HEADER = ("fold", "test split", "examples", "accuracy", "macro-F1", "validation", "run")


@dataclass(frozen=True)
class Fold:
    """One run of a cross-validation.

    Attributes:
        title: What the test split is: `speaker theo`, or `fold 2 of 5`.
        config: The run's configuration.
    """

    title: str
    config: RunConfig


def cross_validate(
    config: RunConfig,
    num_folds: int | None = None,
    leave_one_out: str | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs every fold that isn't finished yet, and sums up what the test splits scored.

    A finished run of the same configuration and the same data is not run again, and one that was
    cut off goes on.

    Args:
        config: The configuration; `data.split.num_folds` or `data.split.leave_out` say what the
            folds are, unless one of the next two does.
        num_folds: Deal rows or groups out into so many folds.
        leave_one_out: A group column; each of its groups is the test split once.
        quiet: Print nothing.

    Returns:
        The folds with their runs and scores; mean and standard deviation (n - 1) of each metric
        over the folds; the accuracy of all test examples together. Also written to
        `<run.directory>/<name>/folds-<first run>-<last run>.json` and `.md`.

    Raises:
        UserError: There are no folds to make, or as `finetune`.
    """
    refuse_pushes(config, "cross-validate")
    folds = list_folds(config, num_folds, leave_one_out)
    compute = settle_compute(config.compute)
    progress = _share_progress(compute, folds)
    _check_folds([fold for fold, (_, done) in zip(folds, progress, strict=True) if not done])
    runs, metrics = [], []
    quiet_here = quiet or not compute.is_main_process
    for number, (fold, (path, is_finished)) in enumerate(
        zip(folds, progress, strict=True), start=1
    ):
        if not quiet_here:
            done = f": done, {path}" if is_finished else ""
            print(f"\n[{number}/{len(folds)}] {fold.title}{done}", flush=True)
        if is_finished and path is not None:
            run = RunDir(path)
            scores = run.metrics
        else:
            run, scores = _run_fold(fold, path, quiet)
        runs.append(run)
        metrics.append(scores)
    summary = _sum_up(folds, runs, metrics)
    if compute.is_main_process:
        place = _write(summary, config.name)
        if not quiet:
            print(f"\n{_format(summary, place)}")
    return summary


def list_folds(
    config: RunConfig, num_folds: int | None = None, leave_one_out: str | None = None
) -> list[Fold]:
    """The folds, each with the configuration of its run; see `cross_validate`.

    Raises:
        UserError: There are none, or two ways to make them.
    """
    split = config.data.split
    if num_folds is not None and leave_one_out is not None:
        raise UserError("--num-folds and --leave-one-out exclude each other. Keep one of them.")
    if num_folds is not None and num_folds < 2:
        raise UserError(f"--num-folds: must be at least 2, got {num_folds}.")
    if num_folds is None and leave_one_out is None:
        num_folds = split.num_folds
        leave_one_out = next(iter(split.leave_out or ()), None)
    if split.file is not None:
        raise UserError("data.split.file gives one split, and folds are several. Leave it out.")
    if leave_one_out is not None:
        values = _list_groups(config, leave_one_out)
        titles = [f"{leave_one_out} {value}" for value in values]
        ways: list[dict[str, Any]] = [{"leave_out": {leave_one_out: [value]}} for value in values]
    elif num_folds is not None:
        numbers = range(1, num_folds + 1)
        titles = [f"fold {number} of {num_folds}" for number in numbers]
        ways = [{"num_folds": num_folds, "fold": number} for number in numbers]
    else:
        raise UserError(
            "cross-validate: nothing says what the folds are. Add --num-folds 5, or "
            "--leave-one-out speaker where the data has such a column."
        )
    return [Fold(title, _with_split(config, way)) for title, way in zip(titles, ways, strict=True)]


def _check_folds(folds: Sequence[Fold]) -> None:
    """Splits the data for each fold before the first is trained: the last might not do.

    Raises:
        UserError: One of them can't be split so.
    """
    for fold in folds:
        try:
            load_data(fold.config.data)
        except UserError as error:
            raise UserError(f"cross-validate, {fold.title}: {error}") from error


def _with_split(config: RunConfig, way: dict[str, Any]) -> RunConfig:
    """The configuration with another way to choose the test split."""
    fresh = {"num_folds": None, "fold": 1, "leave_out": None}
    split = SplitOptions.model_validate({**config.data.split.model_dump(), **fresh, **way})
    data = config.data.model_copy(update={"split": split})
    return config.model_copy(update={"data": data})


def _list_groups(config: RunConfig, column: str) -> list[str]:
    """The groups of a column among the rows that are divided, numbers in them by size."""
    from hf_finetune.data.division import key_columns
    from hf_finetune.data.tables import distinct_values

    # Any value: the column has to be read, and what it holds isn't known yet.
    options = _with_split(config, {"leave_out": {column: [""]}}).data
    loaded = kind_of(options).load(options)
    given = loaded.splits if isinstance(loaded, GivenData) else loaded
    parts = given.values() if options.split.pool_given else [given["train"]]
    columns = key_columns(next(iter(given.values())))
    if column not in columns:
        advice = nearest(column, columns) if columns else "The data set has no group columns."
        raise UserError(f"--leave-one-out: there is no column {column!r}. {advice}")
    groups: set[str] = set().union(*(distinct_values(part, column) for part in parts))
    return sorted(groups, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `file_2` before `file_10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _share_progress(compute: Compute, folds: Sequence[Fold]) -> list[tuple[Path | None, bool]]:
    """`_find_progress` of the main process; the others must not see runs that it has begun."""
    from accelerate.utils import broadcast_object_list

    if compute.num_processes == 1:
        return _find_progress(folds)
    compute.make_accelerator()  # starts the process group
    found = [_find_progress(folds) if compute.is_main_process else []]
    broadcast_object_list(found)
    return found[0]


def _find_progress(folds: Sequence[Fold]) -> list[tuple[Path | None, bool]]:
    """For each fold the directory of its run, if there is one, and whether it has finished."""
    parent = Path(folds[0].config.run.directory) / folds[0].config.name
    paths = [p for p in parent.glob("*") if re.fullmatch(r"[0-9]+", p.name)]
    runs: list[tuple[RunDir, RunConfig]] = []
    for run in (RunDir(p) for p in sorted(paths, reverse=True) if (p / STATUS).is_file()):
        with suppress(UserError):  # cut off before it began, or of another version
            runs.append((run, run.config))
    return [
        _find_run(fold, [run for run, config in runs if config == fold.config]) for fold in folds
    ]


def _find_run(fold: Fold, runs: Sequence[RunDir]) -> tuple[Path | None, bool]:
    """The newest run of the fold's configuration, data and plugins; a finished one first."""
    fingerprint = load_data(fold.config.data).fingerprint if runs else ""
    plugins = fold.config.plugin_hashes
    usable = [
        run
        for run in runs
        if run.status.get("data_fingerprint", fingerprint) == fingerprint
        and run.status.get("plugins", {}) == plugins
    ]
    finished = [run for run in usable if run.status["status"] == "finished"]
    chosen = next(iter(finished or usable), None)
    return (None if chosen is None else chosen.path), bool(finished)


def _run_fold(fold: Fold, unfinished: Path | None, quiet: bool) -> tuple[RunDir, dict[str, Any]]:
    try:
        result = finetune(fold.config, resume_from=unfinished, quiet=quiet)
    except KeyboardInterrupt:
        told = f"stopped in {fold.title}; the same command goes on from there"
        raise KeyboardInterrupt(told) from None
    return result.run, result.metrics


def _sum_up(
    folds: Sequence[Fold], runs: Sequence[RunDir], metrics: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    tests = [scores["test"] for scores in metrics]
    total = sum(test["num_examples"] for test in tests)
    correct = sum(round(test["accuracy"] * test["num_examples"]) for test in tests)
    kept = ("accuracy", "macro_f1", "loss", "num_examples")
    return {
        "folds": [
            {
                "title": fold.title,
                "run": str(run.path),
                "test_groups": run.status.get("split", {}).get("test_groups", ""),
                "leaks": run.status.get("split", {}).get("leaks", ""),
                **{s: {name: scores[s][name] for name in kept} for s in ("validation", "test")},
            }
            for fold, run, scores in zip(folds, runs, metrics, strict=True)
        ],
        **spread_of(metrics),
        "pooled_test_accuracy": correct / total,
        "pooled_test_accuracy_interval": wilson_interval(correct, total),
        "pooled_test_examples": total,
    }


def _write(summary: dict[str, Any], name: str) -> Path:
    """Writes the summary as JSON and as Markdown, beside the runs; the path of the first."""
    runs = sorted(Path(fold["run"]) for fold in summary["folds"])
    path = runs[0].parent / f"folds-{runs[0].name}-{runs[-1].name}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    lines = [_HEADER, ("---",) * len(_HEADER), *_rows(summary)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    overall = "\n".join(f"- {key}: {value}" for key, value in _overall(summary).items())
    text = f"# {name}: {len(summary['folds'])} folds\n\n{table}\n\n{overall}\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path


def _rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number, fold in enumerate(summary["folds"], start=1):
        test = fold["test"]
        is_dealt = fold["title"].startswith("fold ")
        named: str = fold["test_groups"] if is_dealt else fold["title"]
        rows.append(
            (
                str(number),
                named or "single rows",
                f"{test['num_examples']:,}",
                f"{test['accuracy']:.2%}",
                f"{test['macro_f1']:.4f}",
                f"{fold['validation']['accuracy']:.2%}",
                Path(fold["run"]).name,
            )
        )
    return rows


def _overall(summary: dict[str, Any]) -> dict[str, str]:
    low, high = summary["pooled_test_accuracy_interval"]
    leaks = {fold["leaks"] for fold in summary["folds"]}
    return {
        **format_spread(summary),
        "all test examples": f"accuracy {summary['pooled_test_accuracy']:.2%}  (95 % Wilson "
        f"interval {low:.2%} to {high:.2%}, {summary['pooled_test_examples']:,} examples)",
        "leaks": "; ".join(sorted(leaks)),
    }


def _format(summary: dict[str, Any], path: Path) -> str:
    count = len(summary["folds"])
    rows = {f"{count} folds": "mean ± standard deviation over folds", **_overall(summary)}
    rows["written to"] = f"{path} and .md"
    table = format_columns(_HEADER, _rows(summary), text_columns=2)
    return f"{table}\n\n{format_table(rows)}"
