"""How a comparison is shown: text of any width, JSON, CSV, a picture, and the command itself."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs.comparable_runs import Scored, write_run

from hf_finetune.cli import main
from hf_finetune.errors import UserError
from hf_finetune.runs import plots
from hf_finetune.runs.comparison import compare_runs
from hf_finetune.runs.comparison.curves import draw_comparison
from hf_finetune.runs.comparison.table import format_comparison

LONG = "corrupt_mnist_with_a_very_long_name"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three rows: two seeds of one configuration, one with other settings, one that was stopped."""
    folder = tmp_path / "runs"
    more = {"macro_f1": 0.4321}
    for seed, accuracy in enumerate((0.91, 0.93)):
        write_run(folder, Scored([0.5, accuracy], accuracy, {"seed": seed}, more=more))
    other = {"name": "other", "train__learning_rate": 0.5, "model__dropout": 0.25}
    write_run(folder, Scored([0.6, 0.8125], 0.84, other, more=more))
    late = {"name": "late", "features__augmentation__rotation_degrees": 45.0}
    write_run(folder, Scored([0.3], None, late, status="stopped", more=more))
    return folder


def test_the_table_reads_as_it_should(runs: Path):
    text = format_comparison(compare_runs([str(runs)], metrics=["accuracy"]), width=80)
    assert text.splitlines()[:6] == [
        "4 runs in 3 rows, highest validation accuracy first",
        "",
        "                         validation            test",
        "   run            n        accuracy        accuracy  status            seed",
        "1  small/001-002  2  92.00 ± 1.41 %  92.00 ± 1.41 %  finished           0-1",
        "2  other/001      1         81.25 %         84.00 %  finished             0",
    ]
    assert "3  late/001       1         30.00 %               –  stopped, step 10     0" in text
    assert "±: standard deviation over the n seeds of a row (n - 1)." in text
    assert "Not finished: 3. The validation score is the best so far." in text


@pytest.mark.parametrize("width", [60, 80, 100, 300])
def test_no_line_is_wider_than_the_terminal(width: int, runs: Path):
    for number in range(3):
        settings = {"name": f"{LONG}_{number}", "train__num_train_epochs": 5 + number}
        write_run(runs, Scored([0.7], 0.7, settings))
    text = format_comparison(compare_runs([str(runs)]), width=width)
    assert max(map(len, text.splitlines())) <= width
    blocks = [block.splitlines() for block in text.split("\n\n")[1:-1]]
    numbered = [[line.split()[0] for line in block[-6:]] for block in blocks]
    assert all(numbers == list("123456") for numbers in numbered)
    assert len(blocks) == 1 or width < 300
    keys = " ".join(text.split())
    for key in ("learning_rate", "dropout", "num_train_epochs", "rotation_degrees", "macro_f1"):
        assert key in keys
    assert "corrupt_mni…a_very_long_name_0/001" in text
    assert "  0.4321" in text


def test_names_that_would_look_the_same_stay_whole(tmp_path: Path):
    names = [f"corrupt_mnist_{word}_is_a_name_that_is_very_long" for word in ("one", "two")]
    for name in names:
        write_run(tmp_path, Scored([0.5], 0.5, {"name": name}))
    text = format_comparison(compare_runs([str(tmp_path)]), width=80)
    assert all(f"{name}/001" in text for name in names)


def test_in_a_pipe_lines_have_a_fixed_width_and_columns_sets_it(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("COLUMNS", raising=False)
    widths = []
    for columns in (None, "60"):
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        assert main(["compare", str(runs)]) == 0
        widths.append(max(map(len, capsys.readouterr().out.splitlines())))
    assert 60 < widths[0] <= 100
    assert widths[1] <= 60


def test_json_holds_every_value(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", str(runs), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["sorted_by"] == "validation/accuracy"
    small, other, late = content["rows"]
    assert small["scores"]["test/accuracy"] == {
        "mean": pytest.approx(0.92),
        "std": pytest.approx(np.std([0.91, 0.93], ddof=1)),
        "values": [0.91, 0.93],
    }
    assert small["seeds"] == [0, 1]
    assert [Path(run["sources"][0]).name for run in small["runs"]] == ["001", "002"]
    assert other["settings"]["train.learning_rate"] == 0.5
    assert (late["status"], late["step"]) == ("stopped", 10)
    assert "test/accuracy" not in late["scores"]
    assert content["notes"]


def test_csv_opens_as_a_table(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", str(runs), "--csv", "--metric", "accuracy"]) == 0
    output = capsys.readouterr()
    small, other, late = csv.DictReader(io.StringIO(output.out))
    assert float(small["validation/accuracy"]) == pytest.approx(0.92)
    assert float(small["test/accuracy/std"]) == pytest.approx(np.std([0.91, 0.93], ddof=1))
    assert (other["run"], other["model.dropout"], other["n"]) == ("other/001", "0.25", "1")
    assert (late["status"], late["test/accuracy"]) == ("stopped", "")
    assert "Not finished" in output.err


def test_warnings_and_faults_go_beside_the_table(runs: Path, capsys: pytest.CaptureFixture[str]):
    (runs / "other/001/metrics.json").write_text("{")
    assert main(["compare", str(runs), "--json"]) == 0
    output = capsys.readouterr()
    assert len(json.loads(output.out)["warnings"]) == 1
    assert output.err.startswith("warning: ")
    assert main(["compare", str(runs), "--metric", "acuracy"]) == 2
    assert "Did you mean 'accuracy'" in capsys.readouterr().err


def test_the_picture_shows_each_row_in_its_color(runs: Path, tmp_path: Path):
    path = tmp_path / "curves.png"
    assert main(["compare", str(runs), "--plot", str(path)]) == 0
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500_000
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (pixels == color).all(axis=1).sum() > 100
    assert not (pixels == (0xCC, 0x79, 0xA7)).all(axis=1).any()  # there is no fourth


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], tuple[list[Any], str]]:
    """Draws the runs of a folder: both panels, and what stands below them."""

    def draw(folder: Path) -> tuple[list[Any], str]:
        figures: list[Any] = []
        monkeypatch.setattr(plots, "save_figure", lambda figure, _: figures.append(figure))
        draw_comparison(compare_runs([str(folder)]), Path("unwritten.png"))
        return figures[0].axes, figures[0].get_supxlabel()

    return draw


Panels = Callable[[Path], tuple[list[Any], str]]


def test_every_seed_is_seen_after_one_evaluation(tmp_path: Path, panels: Panels):
    for seed, accuracy in enumerate((0.5, 0.7)):
        settings = {"name": "corrupt_mnist_sample", "seed": seed}
        write_run(tmp_path, Scored([accuracy], accuracy, settings))
    axes, told = panels(tmp_path)
    lines = [(*line.get_ydata(), line.get_marker()) for line in axes[1].lines]
    assert lines == [(0.5, "o"), (0.7, "o"), (pytest.approx(0.6), "o")]
    *seeds, mean = [line.get_markersize() for line in axes[1].lines]
    assert max(seeds) < mean
    assert told == "thick and large: mean of a row's seeds; thin and small: each seed"
    assert [text.get_text() for text in axes[1].texts] == ["1 corrupt_mnist_sample/001-002"]


def test_seeds_that_share_no_step_have_no_mean(tmp_path: Path, panels: Panels):
    runs = [
        write_run(tmp_path, Scored([accuracy - 0.1, accuracy], accuracy, {"seed": seed}))
        for seed, accuracy in enumerate((0.5, 0.7))
    ]
    history = runs[1].path / "history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]
    moved = [json.dumps({**record, "step": record["step"] + 5}) for record in records]
    history.write_text("\n".join(moved))
    axes, told = panels(tmp_path)
    lines = [(*line.get_xdata(), *line.get_ydata()) for line in axes[1].lines]
    assert lines == [(10, 20, 0.4, 0.5), (15, 25, pytest.approx(0.6), 0.7)]
    assert told.endswith("no mean of row 1: not all seeds were scored at any one step")
    assert len(axes[1].texts) == 1


def test_a_row_without_a_curve_has_no_words_on_its_mean(tmp_path: Path, panels: Panels):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "one"}))
    write_run(tmp_path, Scored([], None, {"name": "other", "model__dropout": 0.25}, "stopped"))
    axes, told = panels(tmp_path)
    assert len(axes[1].texts) == 1
    assert told == ""


def test_long_curves_have_no_markers_and_single_runs_need_no_words(tmp_path: Path, panels: Panels):
    write_run(tmp_path, Scored([0.01 * step for step in range(1, 14)], 0.5))
    axes, told = panels(tmp_path)
    assert [line.get_marker() for line in axes[0].lines] == [""]
    assert told == ""


def test_grey_lines_are_explained(tmp_path: Path, panels: Panels):
    for number in range(7):
        settings = {"name": f"run_{number}", "train__num_train_epochs": 1 + number}
        write_run(tmp_path, Scored([0.1 * number], 0.5, settings))
    axes, told = panels(tmp_path)
    assert told == "grey: row 7 and those after it"
    assert len(axes[0].texts) == 6


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_the_picture_says_where_losses_do_not_compare(loss: str, tmp_path: Path, panels: Panels):
    for name, own in (("one", "cross_entropy"), ("other", loss)):
        settings = {"name": name, "loss__name": own, "model__dropout": len(name) / 10}
        write_run(tmp_path, Scored([0.5], 0.5, settings))
    axes, _ = panels(tmp_path)
    note = "" if loss == "cross_entropy" else "\n(not the same function in all rows)"
    assert axes[0].get_title(loc="left") == f"validation/loss{note}"
    assert axes[1].get_title(loc="left") == "validation/accuracy"


def test_a_picture_that_can_not_be_drawn_is_said(runs: Path, tmp_path: Path):
    comparison = compare_runs([str(runs)])
    with pytest.raises(UserError, match="--plot: can't write"):
        draw_comparison(comparison, tmp_path / "nowhere/curves.png")
    for history in runs.rglob("history.jsonl"):
        history.write_text("")
    with pytest.raises(UserError, match="none of these runs has a curve"):
        draw_comparison(compare_runs([str(runs)]), tmp_path / "curves.png")


def test_labels_never_overlap_nor_leave_the_panel():
    from hf_finetune.runs.comparison.curves import _LINE_HEIGHT, _spread_out

    for heights in ([0.5] * 6, [0.98, 0.99, 1.0], [0.0, 0.01, 0.9], [-0.2, 0.5]):
        apart = _spread_out(heights)
        assert (np.diff(apart) > _LINE_HEIGHT - 1e-9).all()
        assert max(apart) <= 1
    assert _spread_out([0.1, 0.5, 0.9]) == [0.1, 0.5, 0.9]


def test_reading_runs_imports_nothing_heavy(runs: Path):
    code = """
import runpy, sys
try:
    runpy.run_path("scripts/compare_runs.py", run_name="__main__")
except SystemExit as end:
    heavy = {"torch", "comet_ml", "matplotlib", "datasets"} & {*sys.modules}
    sys.exit(end.code or (f"imported: {heavy}" if heavy else 0))
"""
    words = [sys.executable, "-c", code, str(runs)]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "small/001-002" in result.stdout
