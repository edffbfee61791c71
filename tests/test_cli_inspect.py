"""`hf-finetune inspect`: its text, its pictures, and the files that it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.runs.pictures import draw_mean_images, write_picture

PICTURES = {"examples.png", "class_means.png", "group_means.png"}


@pytest.fixture
def config_file(make_config: Callable[..., Any], tmp_path: Path) -> str:
    (tmp_path / "x.yaml").write_text(dump_config(make_config()))
    return str(tmp_path / "x.yaml")


def test_it_says_what_the_data_are(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["inspect", "--config", config_file]) == 0
    text = capsys.readouterr().out
    assert "corrupt_mnist: 190 images of 10 classes; validation is whole groups by file" in text
    assert "28 x 28 (height x width), grey, uint8" in text
    assert "none: no file lies in two splits" in text
    assert "none: no two images have the same pixels" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["train", "100", "0", "250"] in [row[:4] for row in rows]
    assert ["class", "train", "validation", "test"] in rows
    assert ["3", "10", "5", "4"] in rows
    assert ["test_images.pt", "40"] in rows
    folder = tmp_path / "runs/inspection/small"
    assert {path.name for path in folder.iterdir()} == PICTURES
    assert str(folder / "group_means.png") in text
    for name in PICTURES:
        with Image.open(folder / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200


def test_settings_are_heard_and_own_pictures_replaced(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "a/b"
    write_picture(folder / "examples.png", lambda path: Image.new("L", (8, 8)).save(path, "PNG"))
    words = ["--save", str(folder), "data.max_train_examples=50"]
    assert main(["inspect", "--config", config_file, *words]) == 0
    assert "140 images" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == PICTURES
    assert not (tmp_path / "runs").exists()
    with Image.open(folder / "examples.png") as image:
        assert min(image.size) > 200


def test_other_files_are_left_alone(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "class_means.png")
    before = (folder / "class_means.png").read_bytes()
    assert main(["inspect", "--config", config_file, "--save", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "class_means.png: this file is there already" in line
    assert (folder / "class_means.png").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["class_means.png"]
    (folder / "class_means.png").write_text("no picture")
    assert main(["inspect", "--config", config_file, "--save", str(folder)]) == 2


def test_a_place_that_can_t_be_written_is_one_line(
    config_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert main(["inspect", "--config", config_file, "--save", str(tmp_path / "file/x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it can't be written" in line


def test_mean_images_lie_in_their_row_and_column(tmp_path: Path):
    means = np.zeros((2, 3, 10, 20, 1))
    means[1, 2] = 1
    means[0, 0] = np.nan
    draw_mean_images(means, ["upper", "lower"], list("abc"), tmp_path / "x.png", "title")
    with Image.open(tmp_path / "x.png") as image:
        grey = np.asarray(image.convert("L"))
    black = grey < 10
    rows, columns = np.flatnonzero(black.sum(1) > 60), np.flatnonzero(black.sum(0) > 60)
    table = grey[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = table.shape
    cells = [
        [
            table[int(height * (0.25 + 0.5 * row)), int(width * (1 + 2 * column) / 6)]
            for column in range(3)
        ]
        for row in range(2)
    ]
    assert cells == [[255, 0, 0], [0, 0, 255]]


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 0
    text = capsys.readouterr().out
    for verb in ("train", "inspect", "doctor", "predict"):
        assert f"    {verb}" in text
