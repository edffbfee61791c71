"""What a run directory says of its run, without anything that belongs to this machine alone.

Place: `card` and `contents` write from it. Reading it needs no torch and no plugin of the run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.yaml_text import read_file, read_yaml
from hf_finetune.hub import is_repo_id
from hf_finetune.registry import kind, kind_names
from hf_finetune.runs.run_dir import CONFIG, METRICS, RunDir

# An absolute path, one from the home folder, or one that begins with a dot; also of Windows.
_LOCAL_PATH = re.compile(r"(?<![\w.<])(?:~|\.{1,2})?/[\w.~-][^\s,;'\")]*|\b[A-Za-z]:\\[^\s,;'\")]*")
# Sections and keys that say where things lie here, and nothing about the model.
_OWN_KEYS = ("run.directory", "hub", "trackers", "tracking", "data.root")
_NAMES_OF_THE_HUB = ("checkpoint", "repo_id")
YOUR_PATH = "YOUR_PATH"
_HIDDEN = "…"


@dataclass(frozen=True)
class RunRecord:
    """One run, as others may read about it.

    Attributes:
        title: Name and number.
        settings: The resolved configuration; local paths are left out.
        plan: What the run was about to do, by topic, in words.
        environment: Versions, hardware and commit, as in environment.json.
        metrics: As in metrics.json; None while the run goes on.
        warnings: What the run survived.
        base_model: Checkpoint of the Hub that it was fine-tuned from, if it was.
        shared_examples: How many examples of test lie in validation too: these chose the weights.
        pictures: Learning curves and confusion matrix, so far as they were drawn.
    """

    title: str
    settings: dict[str, Any]
    plan: dict[str, str]
    environment: dict[str, Any]
    metrics: dict[str, Any] | None
    warnings: tuple[str, ...]
    base_model: str | None
    shared_examples: int
    pictures: tuple[Path, ...]


def read_record(run: RunDir) -> RunRecord:
    """Reads what a run directory says of its run.

    Raises:
        UserError: It has no configuration or no environment.
    """
    settings = read_settings(run)
    environment = run.read_json("environment.json")
    has_metrics = (run.path / METRICS).is_file()
    shared = _count_shared(run.path / "predictions")
    # The matrix is that of the test split, and headed so: not where that is no test.
    names = ("curves.png",) if shared else ("curves.png", "confusion_matrix.png")
    pictures = [run.path / name for name in names]
    plan, warnings = environment.get("plan", {}), run.status.get("warnings", [])
    locals_ = _local_values(settings)
    return RunRecord(
        title=run.title,
        settings=without_paths(settings),
        plan={topic: _hide(text, locals_) for topic, text in plan.items()},
        environment=environment,
        metrics=run.metrics if has_metrics else None,
        warnings=tuple(_hide(text, locals_) for text in warnings),
        base_model=_find_base(settings, plan.get("model", "")),
        shared_examples=shared,
        pictures=tuple(path for path in pictures if path.is_file()),
    )


def read_settings(run: RunDir) -> dict[str, Any]:
    """The run's resolved configuration as it was written, unchecked: its plugins may be gone."""
    path = run.path / CONFIG
    return read_yaml(read_file(path), str(path)).tree


def without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without what only means something on this machine; plugins by file name.

    A path that must be given, or whose absence would mean something else, becomes `YOUR_PATH`.
    """
    kept = _walk(settings, "")
    if _needs_root(str(settings.get("data", {}).get("name"))):
        kept["data"]["root"] = YOUR_PATH
    return {**kept, "plugins": [Path(path).name for path in settings.get("plugins") or []]}


def _needs_root(data_set: str) -> bool:
    """Whether a data set has no usual place."""
    if data_set not in kind_names("data"):
        return False
    root = kind("data", data_set).Options.model_fields.get("root")
    return root is not None and root.is_required()


def _walk(section: dict[str, Any], where: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in section.items():
        place = f"{where}{key}"
        if place in _OWN_KEYS:
            continue
        if isinstance(value, dict):
            kept[key] = _walk(value, f"{place}.")
        elif isinstance(value, list):
            kept[key] = [YOUR_PATH if is_local(key, item) else item for item in value]
        else:
            kept[key] = YOUR_PATH if is_local(key, value) else value
    return kept


def is_local(key: str, value: Any) -> bool:
    """Whether a setting's value is a path of this machine."""
    if not isinstance(value, str) or not value:
        return False
    if _LOCAL_PATH.match(value):
        return True
    if "/" not in value or "{" in value:  # a pattern of names is no path
        return False
    return key not in _NAMES_OF_THE_HUB or Path(value).exists() or not is_repo_id(value)


def _local_values(section: dict[str, Any]) -> set[str]:
    """Every path of this machine that stands in the settings, and the folders that lead here."""
    found = {str(Path.cwd()), str(Path.home())}
    for key, value in section.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                found |= _local_values(item)
            elif is_local(key, item) or (key in ("root", "directory") and item):
                found.add(str(item))
    return found - {"/", "."}


def _hide(text: str, paths: set[str]) -> str:
    for path in sorted(paths, key=len, reverse=True):  # the longest first: one may begin another
        below = r"/[^\s,;'\")]*"
        # A folder's bare name may be any word: it is a path where something stands below it.
        rest = rf"(?:{below})?(?![\w-])" if "/" in path else below
        text = re.sub(rf"(?<![\w/.-]){re.escape(path)}{rest}", _HIDDEN, text)
    return _LOCAL_PATH.sub(_HIDDEN, text)


def _find_base(settings: dict[str, Any], plan: str) -> str | None:
    """The checkpoint of the Hub that the weights come from; the plan says so with its commit."""
    model = settings.get("model", {})
    checkpoint = model.get("checkpoint")
    if not isinstance(checkpoint, str) or not model.get("pretrained", False):
        return None
    is_of_hub = is_repo_id(checkpoint) and f"{checkpoint} at commit" in plan
    return checkpoint if is_of_hub else None


def _count_shared(folder: Path) -> int:
    """How many ids of test's predictions stand among those of validation."""
    import pyarrow.parquet as pq

    files = [folder / f"{split}.parquet" for split in ("validation", "test")]
    if not all(file.is_file() for file in files):
        return 0
    validation, test = (
        set(pq.read_table(file, columns=["id"])["id"].to_pylist()) for file in files
    )
    return len(validation & test)
