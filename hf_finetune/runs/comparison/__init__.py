"""Runs beside each other: what each came to, which settings differ, and how sure that is.

Place: behind `hf-finetune compare`. It reads run directories, Comet archives and Comet projects
alike, months later and without torch.

    sources     words -> runs, by way of run_directories, comet_archives, comet_projects
    rows        runs that differ in their seed alone -> one row
    table       text, JSON, CSV
    curves      a picture
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from hf_finetune.errors import UserError
from hf_finetune.evaluation import GREATER_IS_BETTER
from hf_finetune.registry import nearest
from hf_finetune.runs.comparison.record import FINISHED, RunRecord
from hf_finetune.runs.comparison.rows import Row, group_runs
from hf_finetune.runs.comparison.settings import differing_settings
from hf_finetune.runs.comparison.sources import read_runs

_SHOWN = ("accuracy", "macro_f1")
_VALIDATION = "validation/"
_OTHER_LOSS = "The loss isn't the same function in all rows: its values don't compare."


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        rows: Best first, by validation; rows without a score last.
        metrics: Names of the metrics that are shown; the first one sorts.
        greater_is_better: Whether more of the first is better.
        settings: Dotted keys of the settings that differ.
        data: Letter of each row's validation and test examples; `?` where nothing is known.
        notes: What a reader must know to compare them rightly.
        warnings: What was damaged or left out.
    """

    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    greater_is_better: bool
    settings: tuple[str, ...]
    data: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def has_one_loss(self) -> bool:
        """Whether the loss is the same function in all rows, so that its values compare."""
        return not any(key.startswith("loss.") for key in self.settings)


def compare_runs(
    words: Sequence[str],
    metrics: Sequence[str] = (),
    tags: Sequence[str] = (),
    by_run: bool = False,
) -> Comparison:
    """Reads runs and sorts them by validation; the test split is shown, and never sorts.

    Args:
        words: Run directories, folders of runs, patterns (`runs/*/00?`), Comet archives (`.zip`),
            Comet projects (`comet:workspace/project`).
        metrics: What to show, such as `macro_f1`; the first one sorts. By default what chose the
            runs' models, accuracy and macro_f1.
        tags: Keep the runs that have all of these.
        by_run: Don't make one row of runs that differ in their seed alone.

    Raises:
        UserError: A word names nothing, no run is left, or no run has a metric.
    """
    warnings: list[str] = []
    runs = read_runs(words, tags, warnings.append)
    names = _settle_metrics(metrics, runs)
    greater, notes = _settle_direction(names[0], runs)
    rows, more = group_runs(runs, by_run)
    rows.sort(key=lambda row: _rank(row, names[0], greater))
    data = _name_data(rows)
    notes += [*more, *_note_status(rows), *_note_data(rows, data)]
    comparison = Comparison(
        tuple(rows),
        names,
        greater,
        tuple(differing_settings(runs)),
        tuple(data),
        tuple(notes),
        tuple(warnings),
    )
    if comparison.has_one_loss:
        return comparison
    return replace(comparison, notes=(*notes, _OTHER_LOSS))


def _settle_metrics(wanted: Sequence[str], runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """Names without their split, the one that sorts first."""
    there = {
        name.removeprefix(_VALIDATION): None
        for run in runs
        for name in run.scores
        if name.startswith(_VALIDATION)
    }
    names = []
    for name in wanted:
        if name.startswith(("test/", "train/")):
            raise UserError(
                f"--metric {name}: runs are sorted by validation. Name the metric alone, as "
                f"--metric {name.partition('/')[2]}; the test's is shown beside it."
            )
        names.append(name.removeprefix(_VALIDATION))
        if names[-1] not in there:
            raise UserError(f"--metric: no run has {name!r}. {nearest(names[-1], list(there))}")
    if names:
        return tuple(dict.fromkeys(names))
    choosers = [str(run.settings.get("train.metric_for_best_model", _SHOWN[0])) for run in runs]
    usual = Counter(name for name in choosers if name in there).most_common(1)
    return tuple(dict.fromkeys([*(name for name, _ in usual), *_SHOWN]))


def _settle_direction(metric: str, runs: Sequence[RunRecord]) -> tuple[bool, list[str]]:
    """Whether more is better; of a metric of the user's own, the runs that it chose tell."""
    if metric in GREATER_IS_BETTER:
        return GREATER_IS_BETTER[metric], []
    name = f"{_VALIDATION}{metric}"
    for run in runs:
        if run.settings.get("train.metric_for_best_model") == metric:
            values = [record[name] for record in run.history if name in record]
            if name in run.scores and values and max(values) > min(values):
                return run.scores[name] > min(values), []
    return True, [f"{metric} is taken as better where it is greater: no run tells."]


def _rank(row: Row, metric: str, greater: bool) -> tuple[bool, float, str]:
    spread = row.spread(f"{_VALIDATION}{metric}")
    if spread is None:
        return True, 0.0, row.label
    return False, -spread.mean if greater else spread.mean, row.label


def _name_data(rows: Sequence[Row]) -> list[str]:
    letters: dict[Hashable, str] = {}
    for row in rows:
        if row.data is not None:
            number = len(letters)
            letters.setdefault(row.data, chr(ord("A") + number) if number < 26 else f"A{number}")
    return ["?" if row.data is None else letters[row.data] for row in rows]


def _note_status(rows: Sequence[Row]) -> list[str]:
    unfinished = [str(number) for number, row in enumerate(rows, 1) if row.status != FINISHED]
    if not unfinished:
        return []
    return [f"Not finished: {', '.join(unfinished)}. The validation score is the best so far."]


def _note_data(rows: Sequence[Row], data: Sequence[str]) -> list[str]:
    notes = []
    letters = [letter for letter in dict.fromkeys(data) if letter != "?"]
    if len(letters) > 1:
        # A fingerprint is of all data, training too; a split says what validation and test are.
        knows = all(row.data is None or isinstance(row.data, tuple) for row in rows)
        differs = "validation or test examples" if knows else "examples, perhaps in training alone"
        notes.append(
            f"Data {', '.join(letters[:-1])} and {letters[-1]} have other {differs}: compare "
            "scores only between rows of one letter."
        )
    if "?" in data and len(rows) > 1:
        notes.append("Data ?: which examples validated and tested these runs isn't recorded.")
    return notes
