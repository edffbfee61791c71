"""Every benchmark runs, and prints its tables with their ratios; how fast is not for a test."""

from __future__ import annotations

import importlib
import math
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification

FOLDER = Path("benchmarks")
TABLES = {
    "start_up": ["/ import torch"],
    "throughput": ["/ course"],
    "input_pipeline": ["/ ours", "ratio", "mapped file, MB"],
    "audio_training": ["/ random", "/ bare", "ratio"],
    "german_emotions": ["own memory then, MB"],
}
NEEDS = {"german_emotions": "espeak-ng"}  # `make benchmark` runs those that need nothing
SHARED_GROUND = "measurement"


def read_tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, each row by the names of its columns."""
    tables = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        header, rule, *rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        assert all(re.fullmatch("-+:?", cell) for cell in rule)
        tables.append([dict(zip(header, row, strict=True)) for row in rows])
    return tables


def test_ratios_are_taken_within_a_round(monkeypatch: pytest.MonkeyPatch):
    """A machine at half its speed, then at a third of it, changes none."""
    monkeypatch.syspath_prepend(str(FOLDER))
    measurement = importlib.import_module(SHARED_GROUND)
    asked: list[str] = []
    seconds = {"a": iter([1.0, 2.0, 3.0]), "b": iter([4.0, 8.0, 12.0])}

    def clock(name: str) -> float:
        asked.append(name)
        return next(seconds[name])

    turns = measurement.take_turns({name: partial(clock, name) for name in "ab"}, 3)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert (turns.median("a"), turns.median("b")) == (2, 8)
    assert turns.times_as_fast("a", "b") == 4
    uneven = measurement.Turns({"a": [1.0, 2.0, 9.0], "b": [3.0, 2.0, 36.0]})
    assert uneven.times_as_fast("a", "b") == 3  # of 3, 1 and 4; the medians alone say 1.5


def test_the_course_has_the_same_network_as_it_is_usually_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    throughput = importlib.import_module("throughput")
    model = CnnForImageClassification(CnnConfig())
    model.train()(torch.randn(4, 1, 28, 28))  # so that batch norm knows something
    images = torch.randn(3, 1, 28, 28)
    before = model.eval()(images).logits
    assert [type(layer).__name__ for layer in model.features[0][-2:]] == ["MaxPool2d", "ReLU"]
    after = throughput.as_usually_written(model).eval()(images).logits
    assert [type(layer).__name__ for layer in model.features[0][-2:]] == ["ReLU", "MaxPool2d"]
    assert torch.equal(after, before)


def test_every_benchmark_is_listed():
    found = {path.stem for path in FOLDER.glob("*.py")}
    assert found == {*TABLES, SHARED_GROUND}
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    makefile = Path("Makefile").read_text(encoding="utf-8")
    for name in TABLES:
        assert f"benchmarks/{name}.py" in page
        assert (f"benchmarks/{name}.py" in makefile) == (name not in NEEDS)


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_its_last_figures(name: str):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {name}\.py, 20\d\d-\d\d-\d\d\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section is not None
    assert "torch " in section[1].strip().splitlines()[0]  # with hardware and versions
    tables = read_tables(section[1])
    assert len(tables) == len(TABLES[name])
    for table, column in zip(tables, TABLES[name], strict=True):
        assert column in table[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("throughput", marks=pytest.mark.slow),
        pytest.param("input_pipeline", marks=pytest.mark.slow),
        pytest.param("audio_training", marks=pytest.mark.slow),
        pytest.param("start_up", marks=pytest.mark.slow),
        pytest.param("german_emotions", marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_prints_its_tables(name: str):
    if name in NEEDS and shutil.which(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / f"{name}.py", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torch " in done.stdout.splitlines()[0]
    tables = read_tables(done.stdout)
    assert len(tables) == len(TABLES[name])
    for table, column in zip(tables, TABLES[name], strict=True):
        assert len(table) >= 3
        assert all(math.isfinite(float(row[column])) for row in table)
