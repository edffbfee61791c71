"""The learning curves of a comparison over each other, as a picture.

Place: behind `hf-finetune compare --plot`; colours and file format are those of `runs.plots`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import UserError
from hf_finetune.runs.comparison import Comparison
from hf_finetune.runs.comparison.record import Record, RunRecord
from hf_finetune.runs.comparison.rows import Row
from hf_finetune.runs.comparison.table import LONGEST_LABEL, shorten_middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float]]
_LOSS = "validation/loss"

# Okabe & Ito's palette, told apart by colour-blind readers; more than these can't be.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_GREY = "#B0B0B0"
_MARKERS_UP_TO = 12
_LINE_HEIGHT = 0.052  # of the axes' height, so that labels don't overlap


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Draws validation loss and the sorting metric of all rows by step.

    The best six rows have a colour and their name at the line's end, the others are grey. Of
    several seeds the thick line is the mean at the steps where all were evaluated, a thin one each
    run; without such a step there are thin ones alone. The picture says so, and where the loss
    isn't the same function in all rows.

    Args:
        comparison: What to draw.
        path: The PNG file to write.

    Raises:
        UserError: No run has a curve, or the file can't be written.
    """
    from matplotlib.figure import Figure

    from hf_finetune.runs.plots import DOTS_PER_INCH, save_figure

    metric = comparison.metrics[0]
    names = [_LOSS, f"validation/{'accuracy' if metric == 'loss' else metric}"]
    if not any(_read_points(run.history, name) for name in names for run in _runs(comparison)):
        raise UserError("--plot: none of these runs has a curve of its validation.")
    figure = Figure(figsize=(12, 4.8), dpi=DOTS_PER_INCH, layout="constrained")
    titles = [name.replace("_", " ") for name in names]
    if not comparison.has_one_loss:
        titles[0] += "\n(not the same function in all rows)"
    for axes, name, title in zip(figure.subplots(1, 2, sharex=True), names, titles, strict=True):
        _draw(axes, comparison.rows, name)
        axes.set_title(title, fontsize=12.5, loc="left", fontweight="bold")
    figure.supxlabel(_explain(comparison.rows), fontsize=10, color="#5A5A5A")
    try:
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--plot: can't write {str(path)!r} ({error}). Name a .png file."
        ) from error


def _runs(comparison: Comparison) -> list[RunRecord]:
    return [run for row in comparison.rows for run in row.runs]


def _explain(rows: Sequence[Row]) -> str:
    """What thick, thin and grey lines are, where there are such."""
    told = []
    if any(len(row.runs) > 1 for row in rows):
        told.append("thick and large: mean of a row's seeds; thin and small: each seed")
    apart = [str(number) for number, row in enumerate(rows, 1) if not _shares_steps(row)]
    if apart:
        rows_apart = f"row{'s' * (len(apart) > 1)} {', '.join(apart)}"
        told.append(f"no mean of {rows_apart}: not all seeds were scored at any one step")
    if len(rows) > len(_COLORS):
        told.append(f"grey: row {len(_COLORS) + 1} and those after it")
    return "; ".join(told)


def _draw(axes: Axes, rows: Sequence[Row], name: str) -> None:
    """One panel: every row's curves of one value."""
    ends = []
    for number, row in reversed([*enumerate(rows)]):  # the best on top
        curves = [points for run in row.runs if (points := _read_points(run.history, name))]
        if not curves:
            continue
        color = _COLORS[number] if number < len(_COLORS) else _GREY
        for points in curves if len(curves) > 1 else ():
            _draw_line(axes, points, color=color, linewidth=0.8, alpha=0.5, markersize=2.5)
        mean = _average(curves)
        if mean:
            _draw_line(axes, mean, color=color, linewidth=2, markersize=4)
        if number < len(_COLORS):
            label = f"{number + 1} {shorten_middle(row.label, LONGEST_LABEL)}"
            last = [curve[-1][1] for curve in ([mean] if mean else curves)]
            ends.append((statistics.fmean(last), label, color))
    axes.set_xlim(left=0)
    _write_labels(axes, ends)
    axes.set_xlabel("optimiser step", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_line(axes: Axes, points: Points, **style: Any) -> None:
    """Draws one curve, with its points where they are few: one alone would not show otherwise."""
    marker = "o" if len(points) <= _MARKERS_UP_TO else ""
    axes.plot(*zip(*points, strict=True), marker=marker, **style)


def _read_points(history: Sequence[Record], name: str) -> Points:
    return [(record["step"], record[name]) for record in history if name in record]


def _average(curves: Sequence[Points]) -> Points:
    """The mean at the steps that all curves share, if there are any; of one curve, itself."""
    values = [dict(points) for points in curves]
    shared = [step for step, _ in curves[0] if all(step in other for other in values)]
    return [(step, statistics.fmean(other[step] for other in values)) for step in shared]


def _shares_steps(row: Row) -> bool:
    """Whether the runs of a row, as far as they have curves, were all evaluated after one step."""
    curves = [points for run in row.runs if (points := _read_points(run.history, _LOSS))]
    return not curves or bool(_average(curves))


def _write_labels(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes each line's name in its colour right of the panel, level with its end or nearly so."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[0])
    heights = _spread_out([(value - low) / (high - low) for value, _, _ in ordered])
    for (_, label, color), height in zip(ordered, heights, strict=True):
        axes.text(
            1.02,
            height,
            label,
            color=color,
            transform=axes.transAxes,
            va="center",
            fontsize=9.5,
            parse_math=False,
        )


def _spread_out(heights: Sequence[float]) -> list[float]:
    """Rising heights, 0 to 1, a line or more apart; the uppermost stay within the panel."""
    apart: list[float] = []
    for height in heights:
        apart.append(max(height, apart[-1] + _LINE_HEIGHT if apart else height))
    limit = 1.0
    for place in reversed(range(len(apart))):
        apart[place] = min(apart[place], limit)
        limit = apart[place] - _LINE_HEIGHT
    return apart
