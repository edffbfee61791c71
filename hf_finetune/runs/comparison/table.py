"""A comparison as text of any width, as JSON, and as CSV.

Place: the last step of a comparison; `cli` prints what comes from here.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_finetune.runs.comparison import Comparison
from hf_finetune.runs.comparison.record import FINISHED, Setting, Spread
from hf_finetune.runs.comparison.rows import Row

_SPLITS = ("validation", "test")
_GAP = "  "
LONGEST_LABEL = 34
_LONGEST_SETTING = 24
_NOTHING = "–"


@dataclass(frozen=True)
class _Column:
    """A heading of one or more lines, and a cell a row."""

    heading: tuple[str, ...]
    cells: tuple[str, ...]
    is_text: bool = False

    @property
    def width(self) -> int:
        return max(map(len, (*self.heading, *self.cells)))

    def lines(self, height: int) -> list[str]:
        """Heading, at the foot of so many lines, and cells, all of one width."""
        lines = [*[""] * (height - len(self.heading)), *self.heading, *self.cells]
        align = str.ljust if self.is_text else str.rjust
        return [align(line, self.width) for line in lines]


def format_comparison(comparison: Comparison, width: int | None = None) -> str:
    """The table for people.

    What doesn't fit beside each other goes on below, under the same row numbers.

    Args:
        comparison: What to show.
        width: Characters a line; by default the terminal's, or COLUMNS; 100 in a pipe.
    """
    wide = shutil.get_terminal_size((100, 24)).columns if width is None else width
    numbers = [str(number) for number in range(1, len(comparison.rows) + 1)]
    first = _Column(("",), tuple(numbers))
    blocks = [[first, *_name_columns(comparison)]]
    sorting, *others = _score_columns(comparison)
    after = (*_about_columns(comparison), *others, *_setting_columns(comparison))
    for together in (sorting, *after):
        if len(blocks[-1]) > 1 and _width([*blocks[-1], *together]) > wide:
            blocks.append([first])
        blocks[-1] += together
    parts = [_describe(comparison), *map(_format_block, blocks)]
    notes = [textwrap.fill(note, wide, break_long_words=False) for note in _notes(comparison)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])])


def _describe(comparison: Comparison) -> str:
    rows = comparison.rows
    runs = sum(len(row.runs) for row in rows)
    order = "highest" if comparison.greater_is_better else "lowest"
    counted = _count(runs, "run") + (f" in {_count(len(rows), 'row')}" if runs > len(rows) else "")
    return f"{counted}, {order} validation {comparison.metrics[0]} first"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1)


def _format_block(columns: Sequence[_Column]) -> str:
    height = max(len(column.heading) for column in columns)
    lines = zip(*(column.lines(height) for column in columns), strict=True)
    return "\n".join(_GAP.join(cells).rstrip() for cells in lines)


def _name_columns(comparison: Comparison) -> list[_Column]:
    """What each row is called, and of how many runs it is made."""
    rows = comparison.rows
    columns = [_Column(("run",), _shorten_all([row.label for row in rows]), True)]
    if any(len(row.runs) > 1 for row in rows):
        columns.append(_Column(("n",), tuple(str(len(row.runs)) for row in rows)))
    return columns


def _about_columns(comparison: Comparison) -> list[list[_Column]]:
    """Status and data, where they are not the same for all; seeds."""
    rows, columns = comparison.rows, []
    if any(row.status != FINISHED for row in rows):
        columns.append(_Column(("status",), tuple(row.status for row in rows), True))
    if len(set(comparison.data)) > 1:
        columns.append(_Column(("data",), comparison.data, True))
    columns.append(_Column(("seed",), tuple(row.seeds or _NOTHING for row in rows)))
    return [[column] for column in columns]


def _score_columns(comparison: Comparison) -> list[list[_Column]]:
    """For each metric the columns of validation and test, which stay beside each other."""
    together = []
    for metric in comparison.metrics:
        columns = []
        for split in _SPLITS:
            spreads = [row.spread(f"{split}/{metric}") for row in comparison.rows]
            cells = tuple(_format_spread(metric, spread) for spread in spreads)
            if any(spreads):
                columns.append(_Column((split, metric), cells))
        together.append(columns)
    return together


def _format_spread(metric: str, spread: Spread | None) -> str:
    """`97.64 ± 0.57 %`, `0.9761 ± 0.0058`."""
    if spread is None:
        return _NOTHING
    scale, digits, unit = (100, 2, " %") if metric == "accuracy" else (1, 4, "")
    text = f"{spread.mean * scale:.{digits}f}"
    return text + (f" ± {spread.std * scale:.{digits}f}" if spread.std is not None else "") + unit


def _setting_columns(comparison: Comparison) -> list[list[_Column]]:
    columns = []
    for key in comparison.settings:
        *path, last = key.split(".")
        heading = (*(f"{part}." for part in path), last)
        cells = tuple(_format_setting(row, key) for row in comparison.rows)
        columns.append([_Column(heading, cells)])
    return columns


def _format_setting(row: Row, key: str) -> str:
    if key not in row.runs[0].settings:
        return _NOTHING
    value = row.runs[0].settings[key]
    return shorten_middle("none" if value is None else str(value), _LONGEST_SETTING)


def shorten_middle(text: str, length: int) -> str:
    """The text in at most so many characters; beginning and end, which tell runs apart, stay."""
    if len(text) <= length:
        return text
    head = (length - 1) // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _shorten_all(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels short enough for a terminal, or as they are where two would look the same."""
    short = tuple(shorten_middle(label, LONGEST_LABEL) for label in labels)
    return short if len({*short}) == len({*labels}) else tuple(labels)


def _notes(comparison: Comparison) -> list[str]:
    legend = []
    if any(len(row.runs) > 1 for row in comparison.rows):
        legend = ["±: standard deviation over the n seeds of a row (n - 1)."]
    return [*legend, *comparison.notes]


def dump_json(comparison: Comparison) -> str:
    """Everything that the comparison knows, but the histories."""
    content = {
        "sorted_by": f"validation/{comparison.metrics[0]}",
        "greater_is_better": comparison.greater_is_better,
        "differing_settings": list(comparison.settings),
        "rows": [
            _describe_row(comparison, row, data)
            for row, data in zip(comparison.rows, comparison.data, strict=True)
        ],
        "notes": list(comparison.notes),
        "warnings": list(comparison.warnings),
    }
    return json.dumps(content, indent=1)


def _describe_row(comparison: Comparison, row: Row, data: str) -> dict[str, Any]:
    names = dict.fromkeys(name for run in row.runs for name in run.scores)
    spreads = {name: row.spread(name) for name in names}
    return {
        "label": row.label,
        "status": row.runs[0].status,
        "step": row.runs[0].step,
        "n": len(row.runs),
        "seeds": [run.seed for run in row.runs],
        "data": data,
        "scores": {
            name: {"mean": spread.mean, "std": spread.std, "values": list(spread.values)}
            for name, spread in spreads.items()
            if spread is not None
        },
        "settings": {key: row.runs[0].settings.get(key) for key in comparison.settings},
        "runs": [
            {
                "title": run.title,
                "sources": list(run.sources),
                "keys": sorted(run.keys),
                "started": run.started,
                "tags": sorted(run.tags),
            }
            for run in row.runs
        ],
    }


def dump_csv(comparison: Comparison) -> str:
    """A line for each row: what it is, mean and standard deviation of each metric, settings."""
    names = [f"{split}/{metric}" for metric in comparison.metrics for split in _SPLITS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [column for name in names for column in (name, f"{name}/std")]
    about = ["rank", "run", "status", "step", "data", "n", "seeds"]
    writer.writerow([*about, *scores, *comparison.settings, "sources"])
    for rank, (row, data) in enumerate(zip(comparison.rows, comparison.data, strict=True), 1):
        spreads = [row.spread(name) for name in names]
        numbers = [n for s in spreads for n in ((s.mean, s.std) if s else (None, None))]
        first = row.runs[0]
        settings: list[Setting] = [first.settings.get(key) for key in comparison.settings]
        sources = " ".join(source for run in row.runs for source in run.sources)
        known = [rank, row.label, first.status, first.step, data, len(row.runs), row.seeds]
        writer.writerow([*known, *numbers, *settings, sources])
    return text.getvalue()
