"""The pictures of a run, judged by the pixels they put on the page."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_finetune.runs import plots
from hf_finetune.runs.plots import draw_confusion_matrix, draw_curves, draw_examples

BLUE, ORANGE, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
Records = list[dict[str, Any]]


def pixels_of(path: Path) -> np.ndarray:
    """Reads a picture, uint8 `[height, width, 3]`."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def count(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(pixels.astype(int) - color).max(axis=-1) <= 3).sum())


def outlined(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
    """Counts black pixels right beside some of a colour: those of the edge of a star."""
    colored = np.abs(pixels.astype(int) - color).max(axis=-1) <= 3
    beside = np.zeros_like(colored)
    for shift in (-3, 3):
        for axis in (0, 1):
            beside |= np.roll(colored, shift, axis)
    return int((beside & (pixels.max(axis=-1) < 40)).sum())


def training_records(length: int) -> Records:
    steps = range(1, length + 1)
    noise = np.random.default_rng(0).random(length)
    return [
        {
            "step": step,
            "epoch": step / 100,
            "train/loss": 1 + noise[step - 1] * 0.1 - step / length / 2,
            "train/learning_rate": 1e-3,
            "train/grad_norm": 1.0,
        }
        for step in steps
    ]


def validation_records(*accuracies: float) -> Records:
    return [
        {
            "step": 10 * place,
            "epoch": float(place),
            "validation/loss": 1 - accuracy,
            "validation/accuracy": accuracy,
            "validation/macro_f1": accuracy - 0.1,
            "is_best": accuracy >= max(accuracies[:place]),
        }
        for place, accuracy in enumerate(accuracies, start=1)
    ]


def drawn(records: Records, path: Path, title: str = "") -> np.ndarray:
    draw_curves(records, path, title)
    return pixels_of(path)


def test_each_curve_shows_where_its_values_are_recorded(tmp_path: Path) -> None:
    training, validation = training_records(30), validation_records(0.5, 0.8, 0.7)
    only_training = drawn(training, tmp_path / "training.png")
    both = drawn(training + validation, tmp_path / "both.png")
    assert count(only_training, BLUE) > 1000
    assert count(only_training, ORANGE) == count(only_training, GREEN) == 0
    assert count(both, BLUE) > 1000
    assert count(both, ORANGE) > 2000
    assert count(both, GREEN) > 500


@pytest.mark.parametrize(
    ("accuracies", "best_step"),
    [((0.9, 0.5, 0.6), 10), ((0.5, 0.9, 0.6), 20)],
)
def test_the_best_evaluation_is_marked_at_its_step(
    accuracies: tuple[float, ...], best_step: int, tmp_path: Path
) -> None:
    records = validation_records(*accuracies)
    pixels = drawn(records, tmp_path / "best.png")
    # The dotted line is the only grey thing that runs through the panel of the losses.
    panel = pixels[pixels.shape[0] // 6 : pixels.shape[0] // 2, : pixels.shape[1] // 2].astype(int)
    grey = (np.abs(panel - 0x5A).max(axis=-1) <= 40).sum(axis=0)
    axis = int((panel.max(axis=-1) < 60).sum(axis=0).argmax())
    per_step = 0.89 * (panel.shape[1] - axis) / 30.6
    assert grey.argmax() == pytest.approx(axis + best_step * per_step, abs=5 * per_step)
    assert outlined(pixels, ORANGE) > 100


def test_nothing_is_marked_where_nothing_is_best(tmp_path: Path) -> None:
    records = [{**record, "is_best": False} for record in validation_records(0.5, 0.9)]
    assert outlined(drawn(records, tmp_path / "without.png"), ORANGE) == 0


@pytest.mark.parametrize(
    "records",
    [
        [],
        training_records(1),
        validation_records(1.0),
        [{"step": 0, "epoch": 0.0, "validation/loss": 2.3, "is_best": True}],
        [{"step": 5, "train/loss": None}, {"step": 9, "train/learning_rate": 0.0}],
    ],
    ids=["nothing", "one step", "one evaluation", "before training", "no values"],
)
def test_short_histories_are_drawn(records: Records, tmp_path: Path) -> None:
    assert drawn(records, tmp_path / "short.png").shape[0] > 900


def test_one_record_is_a_visible_point(tmp_path: Path) -> None:
    pixels = drawn(training_records(1), tmp_path / "one.png")
    below_the_legend = pixels[pixels.shape[0] * 3 // 10 :]
    assert count(below_the_legend, BLUE) > 20


def panels_of(records: Records, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes that are drawn: losses, scores, learning rate."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
    draw_curves(records, Path("unwritten.png"))
    return figures[0].axes[:3]


@pytest.mark.parametrize("accuracies", [(0.33,), (0.0,), (1.0,), (0.97, 0.98)])
def test_scores_that_hardly_differ_are_not_magnified(
    accuracies: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{**r, "validation/macro_f1": None} for r in validation_records(*accuracies)]
    low, high = panels_of(records, monkeypatch)[1].get_ylim()
    assert high - low == pytest.approx(0.1, abs=0.02)
    assert low <= min(accuracies)
    assert max(accuracies) <= high <= 1.011


def test_scores_that_differ_fill_their_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = panels_of(validation_records(0.3, 0.8), monkeypatch)[1].get_ylim()
    assert (low, high) == (pytest.approx(0.17, abs=0.02), pytest.approx(0.83, abs=0.02))


def test_a_rate_that_ends_at_nothing_shows_its_last_point_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [{"step": 1, "train/learning_rate": 1e-3}, {"step": 9, "train/learning_rate": 0.0}]
    axes = panels_of(rates, monkeypatch)[2]
    (line,) = axes.lines
    assert axes.get_ylim()[0] == 0
    assert line.get_marker() == "o"
    assert not line.get_clip_on()


def test_values_that_are_no_number_leave_the_rest_alone(tmp_path: Path) -> None:
    records = training_records(20)
    keys = ("train/loss", "validation/loss", "train/learning_rate")
    extra = [
        {"step": 20, **dict.fromkeys(keys, bad)}
        for bad in (float("nan"), float("inf"), -float("inf"))
    ]
    expected = drawn(records, tmp_path / "expected.png")
    assert np.array_equal(drawn(records + extra, tmp_path / "bad.png"), expected)


def test_a_long_history_is_quick_and_keeps_its_only_spike(tmp_path: Path) -> None:
    records = training_records(100_000)
    records[20_037]["train/loss"] = 50.0
    start = time.perf_counter()
    pixels = drawn(records, tmp_path / "long.png")
    assert time.perf_counter() - start < 10
    height, width = pixels.shape[:2]
    upper = pixels[height // 7 : height // 3, : width // 5].astype(int)
    is_bluish = (upper[..., 2] - upper[..., 0] > 20).any(axis=0)
    assert 1 <= is_bluish.sum() < 10  # alone, high above all other losses


def test_a_name_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    assert drawn(training_records(3), tmp_path / "name.png", r"cost_$\bad{$").size
    images = np.zeros((1, 1, 8, 8), dtype=np.float32)
    draw_examples(images, [r"$\bad{$"], tmp_path / "name.png", r"$\bad{$")
    draw_confusion_matrix([[1, 0], [0, 1]], [r"$\bad{$", "b"], tmp_path / "name.png", r"$\bad{$")


def test_grey_examples_span_black_to_white(tmp_path: Path) -> None:
    images = np.stack([np.full((1, 28, 28), level) for level in (10.0, 12.0, 14.0)])
    draw_examples(images, ["low", "middle", "high"], tmp_path / "grey.png", "three")
    pixels = pixels_of(tmp_path / "grey.png")
    row = pixels[pixels.shape[0] * 2 // 3]
    shown = [row[len(row) * (2 * place + 1) // 6, 0] for place in range(3)]
    assert shown == [0, pytest.approx(127.5, abs=1), 255]


def test_colour_examples_keep_their_colours_and_their_order(tmp_path: Path) -> None:
    images = np.full((3, 3, 40, 40), -1.0, dtype=np.float32)
    for channel in range(3):
        images[channel, channel] = 1.0
    draw_examples(images, ["red", "green", "blue"], tmp_path / "colour.png", "three")
    pixels = pixels_of(tmp_path / "colour.png")
    row = pixels[pixels.shape[0] * 2 // 3]
    shown = [row[len(row) * (2 * place + 1) // 6].tolist() for place in range(3)]
    assert shown == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("shape", [(400, 1, 28, 28), (5, 3, 700, 500), (12, 1, 1024, 128)])
def test_sheets_stay_of_a_readable_size(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    draw_examples(images, ["a rather long label name"] * shape[0], tmp_path / "sheet.png", "sheet")
    height, width = pixels_of(tmp_path / "sheet.png").shape[:2]
    assert 200 < height < 1700
    assert 400 < width < 1700


def test_large_images_are_averaged_not_picked(tmp_path: Path) -> None:
    """A checkerboard of single pixels becomes grey; picking pixels would leave black or white."""
    board = np.indices((640, 640)).sum(axis=0) % 2
    images = np.stack([board, np.zeros_like(board), np.ones_like(board)])[:, None].astype(float)
    draw_examples(images, ["board", "black", "white"], tmp_path / "board.png", "")
    pixels = pixels_of(tmp_path / "board.png")
    assert 120 < pixels[pixels.shape[0] * 2 // 3, pixels.shape[1] // 6, 0] < 136


def test_examples_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for shape in ((0, 1, 8, 8), (2, 2, 8, 8), (2, 8, 8)):
        with pytest.raises(ValueError, match=r"need images \[N, 1 or 3"):
            draw_examples(np.zeros(shape), ["a", "b"][: shape[0]], tmp_path / "x.png", "")
    with pytest.raises(ValueError, match="got 1 for 2"):
        draw_examples(np.zeros((2, 1, 8, 8)), ["a"], tmp_path / "x.png", "")


def test_confusion_rows_are_the_truth_and_coloured_by_share(tmp_path: Path) -> None:
    """Everything of the second class is taken for the first: the dark cells lie to the left."""
    draw_confusion_matrix([[10, 0], [5000, 0]], ["a", "b"], tmp_path / "two.png")
    pixels = pixels_of(tmp_path / "two.png")
    darkest = np.abs(pixels.astype(int) - (8, 48, 107)).max(axis=-1) <= 3
    rows, columns = np.nonzero(darkest[:, : darkest.shape[1] * 7 // 10])
    assert columns.max() - columns.min() < 0.6 * (rows.max() - rows.min())


def test_a_class_without_examples_is_grey(tmp_path: Path) -> None:
    grey = (0xDD, 0xDD, 0xDD)
    draw_confusion_matrix([[4, 1], [0, 5]], ["a", "b"], tmp_path / "full.png")
    draw_confusion_matrix([[4, 1], [0, 0]], ["a", "b"], tmp_path / "absent.png")
    assert count(pixels_of(tmp_path / "absent.png"), grey) > 10_000
    assert count(pixels_of(tmp_path / "full.png"), grey) < 1000


@pytest.mark.parametrize(("classes", "are_written"), [(25, True), (26, False)])
def test_counts_are_written_while_they_can_be_read(
    classes: int, are_written: bool, tmp_path: Path
) -> None:
    """The first dark cell, of the diagonal, holds its count in white or nothing."""
    matrix = np.eye(classes, dtype=np.int64) * 88
    draw_confusion_matrix(matrix, [str(label) for label in range(classes)], tmp_path / "c.png")
    pixels = pixels_of(tmp_path / "c.png")
    rows, columns = np.nonzero(np.abs(pixels.astype(int) - (8, 48, 107)).max(axis=-1) <= 3)
    cell = pixels[rows[0] : rows[0] + 55, columns[0] : columns[0] + 55]
    assert (count(cell, (255, 255, 255)) > 20) == are_written


@pytest.mark.parametrize("classes", [1, 130])
def test_few_and_many_classes_stay_of_a_readable_size(classes: int, tmp_path: Path) -> None:
    names = [f"a rather long label name {label}" for label in range(classes)]
    draw_confusion_matrix(np.eye(classes, dtype=np.int64), names, tmp_path / "c.png", "test")
    assert min(pixels_of(tmp_path / "c.png").shape[:2]) > 400
    assert max(pixels_of(tmp_path / "c.png").shape) < 2300


def test_a_matrix_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"need a \[3, 3\] matrix, got \[2, 2\]"):
        draw_confusion_matrix([[1, 0], [0, 1]], ["a", "b", "c"], tmp_path / "x.png")


def test_matplotlib_is_imported_late_and_without_global_state(tmp_path: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from hf_finetune.runs.plots import draw_curves
assert "matplotlib" not in sys.modules
draw_curves([], Path({str(tmp_path / "x.png")!r}))
print("matplotlib" in sys.modules, "matplotlib.pyplot" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.stdout == "True False\n", result.stderr
