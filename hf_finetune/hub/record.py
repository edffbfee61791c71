"""What a run directory says of its run, without anything that belongs to this machine alone.

Place: `card` and `contents` write from it. Reading it needs no torch and no plugin of the run.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.config.yaml_text import read_file, read_yaml
from hf_finetune.hub import HubError, is_repo_id
from hf_finetune.registry import kind, kind_names
from hf_finetune.runs.run_dir import CONFIG, METRICS, RunDir

# An absolute path, one from the home folder, or one that begins with a dot; also of Windows.
_LOCAL_PATH = re.compile(r"(?<![\w.<])(?:~|\.{1,2})?/[\w.~-][^\s,;'\")]*|\b[A-Za-z]:\\[^\s,;'\")]*")
# An address with a host: no path of this machine.
_ADDRESS = re.compile(r"(\b(?!file:)[a-z][a-z0-9+.-]+://[^\s/,;'\")][^\s,;'\")]*)")
# Sections and keys that say where things lie here, and nothing about the model.
_OWN_KEYS = ("run.directory", "hub", "trackers", "tracking", "data.root")
_NAMES_OF_THE_HUB = ("checkpoint", "repo_id")
YOUR_PATH = "YOUR_PATH"
_HIDDEN = "…"
_SPLIT, _HISTORY = "split.csv", "history.jsonl"
# How warnings of trackers and pushes begin: in the record of a run from before `limits` was kept,
# they stand among those of data and model.
_OUTSIDE = re.compile(r"trackers\b|tracking\.|COMET_|not pushed|step \d+ is not pushed")
_EXAMPLE = "\0"  # stands for an example's name, until it is seen in what


@dataclass(frozen=True)
class RunRecord:
    """One run, as others may read about it.

    Attributes:
        title: Name and number.
        settings: The resolved configuration; local paths are left out.
        plan: What the run was about to do, by topic, in words.
        environment: Versions, hardware and commit, as in environment.json.
        metrics: As in metrics.json; None while the run goes on.
        limits: What the run survived of data and model; not what its trackers and pushes met.
        base_model: Checkpoint of the Hub that it was fine-tuned from, if it was.
        shared_examples: How many examples of test lie in validation too: these chose the weights.
        num_evaluations: How often validation was scored in training; 0 where that isn't known.
        stopped_early: Where patience ended it: `step`, `epoch` and `reason`; None where it didn't.
        went_on: After which step, and at which epoch if that is known, it went on when it had been
            interrupted.
        pictures: Learning curves and confusion matrix, so far as they were drawn.
    """

    title: str
    settings: dict[str, Any]
    plan: dict[str, str]
    environment: dict[str, Any]
    metrics: dict[str, Any] | None
    limits: tuple[str, ...]
    base_model: str | None
    shared_examples: int
    num_evaluations: int
    stopped_early: dict[str, Any] | None
    went_on: tuple[tuple[int, float | None], ...]
    pictures: tuple[Path, ...]


def read_record(run: RunDir) -> RunRecord:
    """Reads what a run directory says of its run.

    Raises:
        UserError: It has no configuration, no environment or no split.
    """
    settings = read_settings(run)
    environment = run.read_json("environment.json")
    metrics = run.metrics if (run.path / METRICS).is_file() else None
    rows = _read_split(run.path / _SPLIT)
    shared = _count_shared(rows)
    # The matrix is that of the test split, and headed so: not where that is no test.
    drawn = ("curves.png",) if shared else ("curves.png", "confusion_matrix.png")
    pictures = [run.path / name for name in drawn]
    status, history = run.status, _read_history(run)
    plan, limits = environment.get("plan", {}), _list_limits(status)
    places, names = _find_places(settings), {row["id"] for row in rows} - {""}
    return RunRecord(
        title=run.title,
        settings=without_paths(settings),
        plan={topic: _hide(text, places) for topic, text in plan.items()},
        environment=environment,
        metrics=metrics,
        limits=tuple(_hide(_hide_examples(text, names), places) for text in limits),
        base_model=_find_base(settings, plan.get("model", "")),
        shared_examples=shared,
        num_evaluations=sum("validation/loss" in record for record in history),
        stopped_early=status.get("stopped_early") or (metrics or {}).get("stopped_early"),
        went_on=_list_returns(status, history),
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


def _find_places(settings: dict[str, Any]) -> re.Pattern[str]:
    """Finds every place of this machine that the settings tell of, with what lies below it."""
    below = r"/[^\s,;'\")]*"
    name = re.escape(str(settings.get("name")))
    # The run directory, from wherever it is seen.
    places = [rf"(?:[^\s,;'\"()]*/)?{name}/[0-9]{{3,}}(?:{below})?(?![\w-]|\.\w)"]
    # The longest first: one may begin another.
    for path in sorted(_local_values(settings), key=len, reverse=True):
        # A folder's bare name may be any word: it is a path where something stands below it.
        rest = rf"(?:{below})?(?![\w-])" if "/" in path else below
        places.append(f"{re.escape(path)}{rest}")
    return re.compile(rf"(?<![\w/.-])(?:{'|'.join(places)})")


def _hide(text: str, places: re.Pattern[str]) -> str:
    """The text without any path of this machine; addresses stay as they are."""
    parts = _ADDRESS.split(text)
    parts[::2] = [_LOCAL_PATH.sub(_HIDDEN, places.sub(_HIDDEN, part)) for part in parts[::2]]
    return "".join(parts)


def _hide_examples(text: str, ids: set[str]) -> str:
    """The text without the names of examples: they may be people's."""
    # Of letters and digits alone it may be any word, and is a name only where brackets hold it.
    there = sorted((name for name in ids if name in text), key=len, reverse=True)
    for name in there:
        if not name.isalnum():
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", _EXAMPLE, text)
    words = {name for name in there if not name.isdecimal()}

    def is_named(brackets: re.Match[str]) -> bool:
        return _EXAMPLE in brackets[1] or not words.isdisjoint(re.findall(r"\w+", brackets[1]))

    text = re.sub(r" \(([^()]*)\)", lambda found: "" if is_named(found) else found[0], text)
    return text.replace(_EXAMPLE, _HIDDEN)


def _list_limits(status: dict[str, Any]) -> list[str]:
    """What the run survived of data and model."""
    if "limits" in status:
        return list(status["limits"])
    return [text for text in status.get("warnings") or () if not _OUTSIDE.match(text)]


def _find_base(settings: dict[str, Any], plan: str) -> str | None:
    """The checkpoint of the Hub that the weights come from; the plan says so with its commit."""
    model = settings.get("model", {})
    checkpoint = model.get("checkpoint")
    if not isinstance(checkpoint, str) or not model.get("pretrained", False):
        return None
    is_of_hub = is_repo_id(checkpoint) and f"{checkpoint} at commit" in plan
    return checkpoint if is_of_hub else None


def _read_split(split: Path) -> list[dict[str, str]]:
    """The rows of split.csv.

    Raises:
        HubError: The run doesn't tell which example lay in which split.
    """
    if not split.is_file():
        raise HubError(
            f"{split}: the file is missing, and without it nobody can say whether the test split "
            "chose nothing. Copy it from where the run was made; if a version made it that wrote "
            "none, train anew."
        )
    with split.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _count_shared(rows: list[dict[str, str]]) -> int:
    """How many rows of test stand in validation too: under the same id, or with equal content."""
    marked = [(row["split"], {row["id"], row["content"]} - {""}) for row in rows]
    chose = set().union(*(marks for name, marks in marked if name == "validation"))
    return sum(name == "test" and not marks.isdisjoint(chose) for name, marks in marked)


def _read_history(run: RunDir) -> list[dict[str, Any]]:
    """The records; none where the history is gone."""
    from hf_finetune.trackers.jsonl import read_history

    return read_history(run.path) if (run.path / _HISTORY).is_file() else []


def _list_returns(
    status: dict[str, Any], history: list[dict[str, Any]]
) -> tuple[tuple[int, float | None], ...]:
    """After which steps the run went on, and at which epochs."""
    epochs = {record.get("step"): record.get("epoch") for record in history}
    steps = [session["step"] for session in status.get("resumed") or ()]
    return tuple((step, epochs.get(step)) for step in steps)
