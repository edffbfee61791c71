"""Folders of images: every layout, and the splits made of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import CLASSES, draw, save, write_classes
from PIL import Image

from hf_finetune.config import config_from
from hf_finetune.data import LoadedData, image_files, load_data
from hf_finetune.data.image_folder import Options
from hf_finetune.data.preparation import pixel_statistics
from hf_finetune.data.tables import RowReader, build_image_dataset, column_values
from hf_finetune.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def ids(data: LoadedData, *splits: str) -> list[str]:
    return [name for split in splits for name in column_values(data.splits[split], "id")]


def sizes(data: LoadedData) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


ALL = ("train", "validation", "test")

# Layouts


def test_a_folder_for_each_class(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=20)
    (root / "cat/0.png").rename(save(root / "cat/deep/er/0.PNG", draw(0, 0)))
    data = load(root)
    assert data.label_names == CLASSES
    assert sizes(data) == {"train": 43, "validation": 8, "test": 9}
    assert data.split_description == (
        "test is 9 single rows, classes in proportion; "
        "validation is 8 single rows, classes in proportion"
    )
    everything = ids(data, *ALL)
    assert len(set(everything)) == 60
    assert {"cat/deep/er/0.PNG", "dog/0.png"} <= set(everything)
    for split in data.splits.values():
        labels = [data.label_names[label] for label in column_values(split, "label")]
        assert labels == [name.split("/")[0] for name in column_values(split, "id")]
    assert data.warnings == data.skipped == ()


def test_the_fractions_and_the_seed_choose_what_is_held_out(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=20)
    parts = {"test_fraction": 0.5, "validation_fraction": 0.3}
    assert sizes(load(root, split=parts)) == {"train": 21, "validation": 9, "test": 30}
    held = {tuple(ids(load(root, split={"seed": seed}), "test")) for seed in range(4)}
    assert len(held) == 4


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "dev", "TEST")])
def test_folders_of_splits(names: tuple[str, ...], tmp_path: Path):
    for number, name in enumerate(names):
        write_classes(tmp_path / "pets" / name, per_class=3, start=10 * number)
    data = load(tmp_path / "pets")
    assert sizes(data) == {"train": 9, "validation": 9, "test": 9}
    assert data.split_description == "validation as given by the data"
    assert ids(data, "test")[0] == f"{names[2]}/cat/20.png"


def test_a_missing_split_is_held_out(tmp_path: Path):
    root = tmp_path / "pets"
    write_classes(root / "train", per_class=10)
    write_classes(root / "valid", per_class=2, start=50)
    data = load(root)
    assert sizes(data) == {"train": 25, "validation": 6, "test": 5}
    assert data.split_description == (
        "test is 5 single rows, classes in proportion; validation as given by the data"
    )
    (root / "valid").rename(root / "test")
    data = load(root)
    assert sizes(data) == {"train": 25, "validation": 5, "test": 6}
    assert data.split_description == "validation is 5 single rows, classes in proportion"
    shutil.rmtree(root / "test")  # and what is left is no folder around the class folders
    assert sizes(load(root)) == {"train": 21, "validation": 4, "test": 5}


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path):
    names = [str(number) for number in range(12)]
    write_classes(tmp_path / "digits", per_class=10, classes=names)
    assert load(tmp_path / "digits").label_names == tuple(names)


# Tables


def write_table(root: Path, text: str, name: str = "labels.csv") -> Path:
    for kind in range(3):
        for number in range(8):
            save(root / f"files/{kind}_{number}.png", draw(kind, number))
    (root / name).write_text(text, encoding="utf-8")
    return root


def rows(line: Callable[[int, int], str]) -> str:
    return "\n".join(line(kind, number) for kind in range(3) for number in range(8)) + "\n"


def test_a_table_says_path_and_label(tmp_path: Path):
    text = "\ufeffpath,label,age\n" + rows(lambda k, n: f"files/{k}_{n}.png,{CLASSES[k]},7") + "\n"
    data = load(write_table(tmp_path / "pets", text), csv="labels.csv")
    assert data.label_names == CLASSES
    assert data.group_columns == ()
    assert sorted(ids(data, *ALL))[:2] == ["files/0_0.png", "files/0_1.png"]


@pytest.mark.parametrize(("name", "mark"), [("x.tsv", "\t"), ("x.csv", ";"), ("x.txt", "|")])
def test_columns_have_any_names_and_any_separator(name: str, mark: str, tmp_path: Path):
    parts = ["train", "val", "test"]
    text = mark.join(["what", "part", "where", "owner"]) + "\n"
    text += rows(
        lambda k, n: mark.join([CLASSES[k], parts[n % 3], f"./files/{k}_{n}.png", f"o{n}"])
    )
    data = load(
        write_table(tmp_path / "pets", text, name),
        csv=name,
        path_column="where",
        label_column="what",
        split_column="part",
        group_columns=["owner"],
    )
    assert data.group_columns == ("owner",)
    assert sizes(data) == {"train": 9, "validation": 9, "test": 6}
    assert set(column_values(data.splits["test"], "owner")) == {"o2", "o5"}
    assert data.splits["test"]["id"][0] == "files/0_2.png"


def test_a_table_from_windows_is_read(tmp_path: Path):
    text = "path,label\r\n" + rows(lambda k, n: f"files\\{k}_{n}.png,{CLASSES[k]}\r")
    data = load(write_table(tmp_path / "pets", text), csv="labels.csv")
    assert sorted(ids(data, *ALL))[0] == "files/0_0.png"
    assert data.label_names == CLASSES


def test_groups_of_a_table_stay_together(tmp_path: Path):
    text = "path,label,owner\n" + rows(lambda k, n: f"files/{k}_{n}.png,{CLASSES[k]},o{n}")
    root = write_table(tmp_path / "pets", text)
    data = load(root, csv="labels.csv", group_columns=["owner"])
    owners = [set(column_values(split, "owner")) for split in data.splits.values()]
    assert sum(map(len, owners)) == 8
    assert data.split_description.startswith("test is whole groups by owner (o")
    assert "validation is whole groups by owner (o" in data.split_description


def test_columns_that_are_not_there_are_told(tmp_path: Path):
    text = "path,label\n" + rows(lambda k, n: f"files/{k}_{n}.png,{CLASSES[k]}")
    root = write_table(tmp_path / "pets", text)
    for key in ("path_column", "label_column", "split_column"):
        with pytest.raises(
            DataError, match=rf"data.{key}: .*labels.csv has no column 'no'. It has"
        ):
            load(root, csv="labels.csv", **{key: "no"})
    with pytest.raises(DataError, match=r"data.group_columns: .* no column 'owner'"):
        load(root, csv="labels.csv", group_columns=["owner"])
    for settings in ({"group_columns": ["owner"]}, {"split_column": "part"}):
        tree = {"name": "image_folder", "root": str(root), **settings}
        with pytest.raises(ConfigError, match=rf"{next(iter(settings))} is for a table"):
            config_from({"data": tree, "model": {"name": "cnn"}})


# Groups from names


@pytest.mark.parametrize(
    ("pattern", "settings", "column"),
    [
        ("{patient}_*", {}, "patient"),
        ("{patient}_{number}", {"split": {"group_by": ["patient"]}}, "patient"),
        ("{ward}/p*", {}, "ward"),
    ],
)
def test_parts_of_the_file_name_are_groups(
    pattern: str, settings: dict[str, Any], column: str, tmp_path: Path
):
    for kind, name in enumerate(CLASSES):
        for patient in range(6):
            for number in range(2):
                path = tmp_path / f"scans/{name}/w{patient}/p{patient}_{number}.png"
                save(path, draw(kind, 10 * patient + number))
    data = load(tmp_path / "scans", group_pattern=pattern, **settings)
    assert data.group_columns == (column,)
    sides = [set(column_values(split, column)) for split in data.splits.values()]
    assert sorted(map(len, sides)) == [1, 1, 4]
    assert len(set.union(*sides)) == 6
    assert data.warnings == ()


def test_groups_that_all_hang_together_are_told(tmp_path: Path):
    for kind, name in enumerate(CLASSES):
        for number in range(6):
            save(tmp_path / f"scans/{name}/p{number % 3}_{number // 3}.png", draw(kind, number))
    with pytest.raises(
        DataError, match=r"by patient and number .* belong to 1 group, and 3 splits .*group_by"
    ):
        load(tmp_path / "scans", group_pattern="{patient}_{number}")
    with pytest.raises(DataError, match=r"by number .* to 2 groups, and 3 splits"):
        load(tmp_path / "scans", group_pattern="*_{number}")


@pytest.mark.parametrize("pattern", ["", "patient", "{}_*", "{a b}", "{label}_*", "{a}_{a}"])
def test_a_pattern_that_names_no_parts_is_refused(pattern: str):
    tree = {
        "data": {"name": "image_folder", "root": "x", "group_pattern": pattern},
        "model": {"name": "cnn"},
    }
    with pytest.raises(ConfigError, match=r"data\.group_pattern"):
        config_from(tree)


def test_the_root_must_be_named():
    with pytest.raises(ConfigError, match=r"data\.root"):
        config_from({"data": {"name": "image_folder"}, "model": {"name": "cnn"}})


# What the images are


def test_sizes_and_channels_come_from_the_data(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=6)
    shape = load(root).image_shape
    assert (shape.height, shape.width, shape.channels) == (None, None, 3)
    grey = tmp_path / "grey"
    for kind, name in enumerate(CLASSES):
        for number in range(6):
            save(grey / name / f"{number}.png", draw(kind, number)[..., :1].repeat(3, 2))
    shape = load(grey).image_shape
    assert (shape.height, shape.width, shape.channels) == (12, 12, 1)
    assert load(grey, color="rgb").image_shape.channels == 3
    assert load(grey, color="rgb").fingerprint != load(grey).fingerprint
    assert load(root, color="grey").image_shape.channels == 1
    Image.fromarray(draw(0, 0)).save(grey / "cat/0.png")
    assert load(grey).image_shape.channels == 3


@pytest.mark.parametrize("color", ["rgb", "grey"])
def test_statistics_and_shape_equal_those_of_arrays(color: Any, tmp_path: Path):
    root = tmp_path / "pets"
    for kind, name in enumerate(CLASSES):
        for number in range(6):
            save(root / name / f"{number}.png", draw(kind, number))
    data = load(root, color=color)
    train = data.splits["train"]
    cells = RowReader(train, ["image"]).read(np.arange(len(train)))["image"]
    arrays = np.stack(image_files.read_images(cells, 1))
    same = build_image_dataset(
        [arrays], [np.zeros(len(train), int)], ["a"], {"id": [["x"] * len(train)]}
    )
    assert data.image_shape.channels == (1 if color == "grey" else 3)
    np.testing.assert_allclose(pixel_statistics(train), pixel_statistics(same), rtol=1e-12)


def test_rows_stay_undecoded_and_are_found_through_selections(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=20)
    train = load(root, background="black").splits["train"]
    chosen = train.shuffle(seed=1).select(range(5, 30))
    cells = RowReader(chosen, ["image", "label"]).read(np.array([3, 0, 24]))
    assert [Path(cell["path"]) for cell in cells["image"]] == [
        root / chosen[row]["id"] for row in (3, 0, 24)
    ]
    assert cells["label"].tolist() == [chosen[row]["label"] for row in (3, 0, 24)]
    assert {(cell["color"], cell["background"]) for cell in cells["image"]} == {("rgb", "black")}
    assert train.data.table.nbytes < 600 * len(train)


def test_the_fingerprint_follows_content_and_label(tmp_path: Path):
    root = write_classes(tmp_path / "pets")
    first = load(root).fingerprint
    assert load(root).fingerprint == first
    moved = tmp_path / "moved"
    root.rename(moved)
    assert load(moved).fingerprint == first
    assert load(moved, color="grey").fingerprint != first
    picture = moved / "cat/0.png"
    pixels = np.asarray(Image.open(picture).convert("RGB")).copy()
    pixels[0, 0, 0] ^= 1
    save(picture, pixels)
    changed = load(moved).fingerprint
    assert changed != first
    picture.rename(moved / "dog/cat.png")
    assert load(moved).fingerprint not in (first, changed)


# Equal images


def test_equal_images_stay_on_one_side(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=20)
    for kind, name in enumerate(CLASSES):
        for number in range(20):
            save(
                root / name / f"copy/{number}.bmp",
                draw(kind, number, 10 + number % 5, 16 - number % 3),
            )
    for seed in range(4):
        data = load(root, split={"seed": seed})
        assert sizes(data) == {"train": 86, "validation": 16, "test": 18}
        assert data.warnings == ()
        data = load(root, group_pattern="{digit}", split={"seed": seed})
        digests = [set(column_values(s, "measured", "digest")) for s in data.splits.values()]
        assert sum(map(len, digests)) == 60


def test_an_image_in_two_splits_is_told(tmp_path: Path):
    root = tmp_path / "pets"
    for number, name in enumerate(("train", "val", "test")):
        write_classes(root / name, per_class=4, start=10 * number)
    save(root / "test/cat/again.png", draw(0, 0, 10, 16))
    save(root / "val/cat/again.bmp", draw(0, 0, 10, 16))
    again, shares = "cat/again.png is", "shares 1 of its files with"
    expected = (
        f"validation {shares} train (val/cat/again.bmp is train/cat/0.png)",
        f"test {shares} train (test/{again} train/cat/0.png)",
        f"test {shares} validation (test/{again} val/cat/again.bmp)",
    )
    flatter = ", so its score may flatter the model"
    assert load(root).warnings == tuple(text + flatter for text in expected)
