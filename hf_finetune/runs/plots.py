"""Pictures of a run: learning curves, what the model sees, and what it mixes up.

Place: the run directory and its report show them; trackers send them on. matplotlib is imported
when a picture is drawn (it takes a second), and only its object interface is used, so that no
window, backend or global figure is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

# Okabe & Ito's palette, told apart by colour-blind readers and by its lightness in print.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5A5A5A"
DOTS_PER_INCH = 150
SMOOTH_FROM = 100  # Fewer records than this are easy to read as they are.
MARKERS_UP_TO = 40
LEAST_SPAN = 0.1  # Of scores: less would make a mountain of a molehill.
BINS = 1000  # About one a pixel column; more can't be seen.
EXAMPLES = 32
EXAMPLE_PIXELS = 160
NUMBERS_UP_TO = 25
ROUND_STEPS = (1, 2, 2.5, 5, 10)
TICKS_UP_TO = 100


def draw_curves(records: Sequence[Record], path: Path, title: str = "") -> None:
    """Draws the learning curves: loss, validation scores, learning rate.

    Args:
        records: The run's history in order. Each has `step` and any of `epoch`, `is_best` and
            `train/loss`, `train/learning_rate`, `validation/loss`, `validation/accuracy`,
            `validation/macro_f1`. Values that are no finite number are left out. The last record
            with `is_best` is the best evaluation.
        path: The PNG file to write.
        title: Names the run above the curves.

    Raises:
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.2), dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.2, 1))
    loss = figure.add_subplot(grid[0, 0])
    scores = figure.add_subplot(grid[0, 1], sharex=loss)
    rate = figure.add_subplot(grid[1, :], sharex=loss)
    loss.set_xlim(0, 1.02 * max([1, *(record["step"] for record in records)]))

    best = next((record for record in reversed(records) if record.get("is_best")), None)
    _draw_losses(loss, records, best)
    _draw_scores(scores, records, best)
    rates = _series(records, "train/learning_rate")
    # Most schedules end near 0, on the axis: unclipped, the last point is whole.
    _draw_line(rate, rates, color=GREY, markersize=3, clip_on=False)
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
    _dress(loss, "Loss", "mean loss per example")
    _dress(scores, "Validation scores", "score (0 to 1)")
    _dress(rate, "Learning rate", "learning rate")
    _add_epochs(loss, records)
    _add_epochs(scores, records)
    heading = f"Learning curves: {title}" if title else "Learning curves"
    figure.suptitle(heading, fontsize=15, parse_math=False)
    save_figure(figure, path)


def _draw_losses(axes: Axes, records: Sequence[Record], best: Record | None) -> None:
    steps, losses = _series(records, "train/loss")
    if len(losses) < SMOOTH_FROM:
        _draw_line(axes, (steps, losses), color=BLUE, markersize=4, label="training")
    else:
        width = max(5, len(losses) // 50)
        label = f"training, mean of {width:,} records"
        _draw_line(axes, (steps, losses), color=BLUE, alpha=0.25, linewidth=0.8, label="training")
        _draw_line(axes, (steps, _smooth(losses, width)), color=BLUE, linewidth=2, label=label)
    _draw_line(axes, _series(records, "validation/loss"), color=ORANGE, label="validation")
    if best is not None:
        label = f"best evaluation (step {best['step']:,})"
        axes.axvline(best["step"], color=GREY, linestyle=":", zorder=1, label=label)


def _draw_scores(axes: Axes, records: Sequence[Record], best: Record | None) -> None:
    accuracies = _series(records, "validation/accuracy")
    _draw_line(axes, accuracies, color=ORANGE, label="accuracy")
    macro_f1 = _series(records, "validation/macro_f1")
    _draw_line(axes, macro_f1, color=GREEN, linestyle="--", label="macro F1")
    if best is not None:
        _mark_best(axes, best)
    low, high = axes.get_ylim()
    missing = max(0.0, LEAST_SPAN - (high - low)) / 2
    top = min(high + missing, 1.01)
    axes.set_ylim(min(low - missing, top - LEAST_SPAN), top)


def _mark_best(axes: Axes, best: Record) -> None:
    axes.axvline(best["step"], color=GREY, linestyle=":", zorder=1)
    accuracy = best.get("validation/accuracy")
    if accuracy is not None:
        axes.plot(
            [best["step"]],
            [accuracy],
            linestyle="none",
            marker="*",
            markersize=15,
            color=ORANGE,
            markeredgecolor="black",
            clip_on=False,
            zorder=4,
            label=f"best evaluation: accuracy {accuracy:.4f}",
        )


def _draw_line(axes: Axes, points: tuple[np.ndarray, np.ndarray], **style: Any) -> None:
    """Draws one curve, with its points where they are few: one alone would not show otherwise."""
    steps, values = _thin(*points)
    if len(values):
        axes.plot(steps, values, marker="o" if len(values) <= MARKERS_UP_TO else "", **style)


def _series(records: Sequence[Record], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Collects one curve: steps and finite values, float64 `[points]` both."""
    pairs = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    points = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    points = points[np.isfinite(points).all(axis=1)]
    return points[:, 0], points[:, 1]


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the centred moving mean, float64 `[points]`; at the ends over what there is."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps the lowest and the highest point of each of 1,000 stretches, so that no spike goes."""
    if len(values) <= 2 * BINS:
        return steps, values
    parts = np.array_split(np.arange(len(values)), BINS)
    kept = {0, len(values) - 1}
    for part in parts:
        kept |= {int(part[values[part].argmin()]), int(part[values[part].argmax()])}
    rows = sorted(kept)
    return steps[rows], values[rows]


def _dress(axes: Axes, title: str, y_label: str) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_title(title, fontsize=12.5, loc="left", fontweight="bold")
    axes.set_xlabel("optimiser step", fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND_STEPS))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.lines:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color=GREY)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=10, framealpha=0.9)


def _add_epochs(axes: Axes, records: Sequence[Record]) -> None:
    """Puts a scale of epochs above the steps, where the history knows both."""
    from matplotlib.ticker import MaxNLocator

    last = next((record for record in reversed(records) if record.get("epoch")), None)
    if last is None or not last["step"]:
        return
    ratio = last["epoch"] / last["step"]
    scale = axes.secondary_xaxis("top", functions=(lambda x: x * ratio, lambda x: x / ratio))
    scale.xaxis.set_major_locator(MaxNLocator(6, integer=last["epoch"] >= 2, steps=ROUND_STEPS))
    scale.set_xlabel("epoch", fontsize=10, color=GREY)
    scale.tick_params(colors=GREY, labelsize=9)
    scale.spines["top"].set_visible(False)


def draw_examples(images: np.ndarray, labels: Sequence[str], path: Path, title: str) -> None:
    """Draws a sheet of up to 32 images, 8 in a row, as the model gets them.

    Args:
        images: float `[N, channels, height, width]`, normalised; 1 channel (grey) or 3 (red,
            green, blue). The least and greatest value of the set become black and white.
        labels: What to write above each image, N of them.
        path: The PNG file to write.
        title: Stands above the sheet.

    Raises:
        ValueError: There are no images, not as many labels, or not 1 or 3 channels.
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(f"need images [N, 1 or 3, height, width], got {list(images.shape)}")
    if len(images) != len(labels):
        raise ValueError(f"need one label an image, got {len(labels)} for {len(images)}")
    shown = np.moveaxis(_shrink(images[:EXAMPLES]), 1, -1)
    low, high = shown.min(), shown.max()
    shown = (shown - low) / (high - low) if high > low else np.full_like(shown, 0.5)
    columns = min(8, len(shown))
    rows = -(-len(shown) // columns)
    cell_height = 1.3 * float(np.clip(shown.shape[1] / shown.shape[2], 0.4, 2.5))
    figure = Figure(
        figsize=(max(columns * 1.3, 3.2), rows * (cell_height + 0.28) + 0.5),
        dpi=DOTS_PER_INCH,
        layout="compressed",
    )
    figure.suptitle(title, fontsize=13, parse_math=False)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, label in zip(grid.flat, shown, labels, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
        axes.set_title(shorten(label, 16), fontsize=9.5, pad=3, parse_math=False)
    save_figure(figure, path)


def _shrink(images: np.ndarray) -> np.ndarray:
    """Averages blocks of pixels, until an image has no more of them than its place on the sheet."""
    count, channels, height, width = images.shape
    block = max(1, min(height, width) // EXAMPLE_PIXELS)
    rows, columns = height // block, width // block
    cut = images[:, :, : rows * block, : columns * block].astype(np.float32)
    blocks = cut.reshape(count, channels, rows, block, columns, block)
    return np.asarray(blocks.mean(axis=(3, 5)))


def draw_confusion_matrix(
    matrix: Sequence[Sequence[int]] | np.ndarray,
    label_names: Sequence[str],
    path: Path,
    title: str = "",
) -> None:
    """Draws counts of true against predicted labels, coloured by the share of the true class.

    The colours follow a root of the share, so that a few mistakes show beside many right
    answers. Up to 25 classes the counts are written in; a class without examples is grey.

    Args:
        matrix: int `[classes][classes]`, rows are the truth, columns the prediction.
        label_names: Class names in the order of the label ids.
        path: The PNG file to write.
        title: Stands above the number of right answers.

    Raises:
        ValueError: The matrix is not square with one row a label.
        OSError: The file can't be written.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = np.asarray(matrix)
    size = len(label_names)
    if counts.shape != (size, size):
        raise ValueError(f"need a [{size}, {size}] matrix, got {list(counts.shape)}")
    support = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(np.where(support > 0, counts / np.maximum(support, 1), np.nan))
    side = float(np.clip(2.5 + 0.5 * size, 4.5, 13))
    figure = Figure(figsize=(side + 1, side), dpi=DOTS_PER_INCH, layout="compressed")
    axes = figure.add_subplot()
    colors = colormaps["Blues"].with_extremes(bad="#DDDDDD")
    image = axes.imshow(shares, cmap=colors, norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "1 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the true class", fontsize=11)
    _label_classes(axes, label_names)
    if size <= NUMBERS_UP_TO:
        _write_counts(axes, counts, shares)
    right, total = int(np.trace(counts)), int(counts.sum())
    summary = f"{right:,} of {total:,} examples right ({right / max(total, 1):.2%})"
    axes.set_title(f"{title}\n{summary}" if title else summary, fontsize=12, parse_math=False)
    save_figure(figure, path)


def _label_classes(axes: Axes, label_names: Sequence[str]) -> None:
    """Names rows and columns; of more than 100 classes only every so many."""
    size = len(label_names)
    ticks = range(0, size, -(-size // TICKS_UP_TO))
    names = [shorten(label_names[tick], 20) for tick in ticks]
    font = float(np.clip(280 / size, 5.5, 11))
    slant = 0 if max(map(len, names)) * size < 60 else 90
    axes.set_xticks(ticks, names, rotation=slant, fontsize=font, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=font, parse_math=False)
    axes.set_xlabel("predicted label", fontsize=12)
    axes.set_ylabel("true label", fontsize=12)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    digits = len(str(counts.max()))
    font = min(11.0, 44 / digits)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.3 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=font)


def shorten(text: str, length: int) -> str:
    """The text in at most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, cut to what is on it."""
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.12)
