"""What a run says of itself, read from its directory in the form that every tracker takes.

Place: the trackers send these, each in its own way, so that a value has one name everywhere; the
names stand in `trackers.comet`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Scalar = str | int | float | bool

_OWN_FOLDERS = {"model", "checkpoints", "comet", "tensorboard", "wandb"}
_NOT_SENT = {"comet.json", "run.json", "state_dict.pt"}
_MOST_BYTES = 50_000_000  # larger files (logits of very many rows) stay in the run directory
PICTURES = {".png", ".jpg", ".jpeg", ".svg"}


@dataclass(frozen=True)
class RunResults:
    """What a finished run came to.

    Attributes:
        metrics: Scores of the best weights: `test/…`, and `best_validation/…`.
        others: `best_step`, `train_seconds` and the like.
        step: Optimiser steps of the run.
        epoch: The same in epochs.
        best_step: Steps after which the best evaluation was made.
        matrix: int `[classes][classes]`, confusion matrix of the test split; rows are the truth.
        label_names: Class names in the order of the label ids.
    """

    metrics: dict[str, float]
    others: dict[str, Scalar]
    step: int
    epoch: float | None
    best_step: int | None
    matrix: list[list[int]]
    label_names: tuple[str, ...]


def read_parameters(directory: Path) -> dict[str, Scalar]:
    """The resolved configuration by dotted key; lists as JSON text, nothing as `null`."""
    from hf_finetune.config.yaml_text import read_file, read_yaml

    path = directory / "config.yaml"
    return dict(_flatten(read_yaml(read_file(path), str(path)).tree, ""))


def _flatten(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, Scalar]]:
    pairs: list[tuple[str, Scalar]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool):
            pairs.append((prefix + key, value))
        else:
            pairs.append((prefix + key, json.dumps(value)))
    return pairs


def read_others(directory: Path) -> dict[str, Scalar]:
    """What identifies a run: ids, hashes, commit, versions."""
    status, environment = _read(directory / "run.json"), _read(directory / "environment.json")
    git, split = environment.get("git") or {}, status.get("split") or {}
    others = {
        "run_id": status.get("run_id"),
        "run_name": title_of(directory),
        "data_fingerprint": status.get("data_fingerprint"),
        "split_hash": split.get("sha256"),
        "split": split.get("description"),
        "leaks": split.get("leaks"),
        "git_commit": git.get("commit"),
        "git_is_dirty": git.get("is_dirty"),
        "hf_finetune": environment.get("hf_finetune"),
        "python": environment.get("python"),
        **{name: environment.get("packages", {}).get(name) for name in ("torch", "transformers")},
        **{f"plugin/{path}": sha256 for path, sha256 in status.get("plugins", {}).items()},
    }
    return {name: value for name, value in others.items() if value is not None}


def read_results(directory: Path) -> RunResults | None:
    """What the run came to; None before it has finished."""
    scores = _read(directory / "metrics.json")
    if "test" not in scores:
        return None
    metrics = {
        f"{named}/{name}": value
        for named, split in (("test", "test"), ("best_validation", "validation"))
        for name, value in _flat_scores(scores[split])
    }
    others = {name: value for name, value in scores.items() if isinstance(value, str | int | float)}
    test = scores["test"]
    return RunResults(
        metrics,
        others,
        scores["steps"],
        _last_epoch(directory),
        scores["best_step"],
        test["confusion_matrix"],
        tuple(test["per_class"]),
    )


def _flat_scores(scores: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The numbers among a split's scores; those of a class as `per_class/<class>/<name>`."""
    pairs = [(n, v) for n, v in scores.items() if isinstance(v, int | float)]
    for label, numbers in scores["per_class"].items():
        pairs += [
            (f"per_class/{label}/{n}", v) for n, v in numbers.items() if isinstance(v, int | float)
        ]
    return pairs


def _last_epoch(directory: Path) -> float | None:
    from hf_finetune.trackers.jsonl import read_history

    records = read_history(directory)
    return records[-1]["epoch"] if records else None


def read_answers(directory: Path) -> tuple[list[int], list[int]]:
    """Labels and predictions of the test split, in its order; empty where they weren't written."""
    import pyarrow.parquet as pq

    path = directory / "predictions" / "test.parquet"
    if not path.is_file():
        return [], []
    table = pq.read_table(path, columns=["label", "prediction"])
    return table["label"].to_pylist(), table["prediction"].to_pylist()


def summarise(directory: Path) -> str:
    """The plan, and where there are any the results, as a text of a few lines."""
    plan: dict[str, str] = _read(directory / "environment.json").get("plan", {})
    lines = [f"{name}: {text}" for name, text in plan.items()]
    results = read_results(directory)
    if results is not None:
        shown = ("accuracy", "macro_f1", "loss")
        lines += [
            f"{split}/{name}: {results.metrics[f'{split}/{name}']:.4f}"
            for split in ("test", "best_validation")
            for name in shown
        ]
    return "\n".join(lines)


def title_of(directory: Path) -> str:
    """Name and number of a run: `corrupt_mnist_sample/001`."""
    return f"{directory.parent.name}/{directory.name}"


def list_pictures(directory: Path) -> dict[str, Path]:
    """Pictures of the run by name, `curves` for curves.png; in folders too."""
    return {
        str(path.relative_to(directory).with_suffix("")): path
        for path in _list_files(directory)
        if path.suffix in PICTURES
    }


def list_documents(directory: Path) -> dict[str, Path]:
    """The run's other files by their place: report, configuration, metrics, predictions."""
    return {
        str(path.relative_to(directory)): path
        for path in _list_files(directory)
        if path.suffix not in PICTURES
    }


def _list_files(directory: Path) -> list[Path]:
    """The run's files that trackers send on, sorted: no model, no checkpoint, nothing hidden."""
    found = []
    for path in sorted(directory.rglob("*")):
        place = path.relative_to(directory)
        if any(part.startswith(".") for part in place.parts):
            continue
        is_own = place.parts[0] in _OWN_FOLDERS | _NOT_SENT
        if path.is_file() and not is_own and path.stat().st_size <= _MOST_BYTES:
            found.append(path)
    return found


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content
