"""Data sets in the Hub's layouts: classes, rows that can't be used, choices, what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from pictures import draw, save
from tables_of_files import IMAGES, NAMES, flac, image_columns, load, pixels_of, texts, write_set

from hf_finetune.config import config_from
from hf_finetune.data import load_data
from hf_finetune.data.hub import Options
from hf_finetune.errors import ConfigError, DataError

AUDIO = {"audio": datasets.Audio(), "emotion": datasets.Value("string")}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


# Classes


@pytest.mark.parametrize(
    ("kind", "values", "names", "word"),
    [
        ("string", ["owl", "cat", "dog"], ("cat", "dog", "owl"), "text"),
        ("int64", [10, 9, 2], ("2", "9", "10"), "int64"),
        ("bool", [True, False, False], ("False", "True"), "bool"),
    ],
)
def test_other_values_become_classes_in_sorted_order(
    kind: str, values: list[Any], names: tuple[str, ...], word: str, tmp_path: Path
):
    columns = {**image_columns(30), "label": [values[number % 3] for number in range(30)]}
    types = {**IMAGES, "label": datasets.Value(kind)}
    data = load(write_set(tmp_path / "pets", {"train": columns}, types))
    assert data.label_names == names
    assert data.warnings == (
        f"the column 'label' is of type {word}: its {len(names)} values, sorted, became the "
        f"classes ({', '.join(names)})",
    )
    for split in data.splits.values():
        for label, name in zip(texts(split, "label"), texts(split, "id"), strict=True):
            assert names[label] == str(values[int(name.split("/")[1]) % 3])


def test_a_split_without_classes_is_left_out_on_request(tmp_path: Path):
    hidden = {**image_columns(9, 60), "label": [-1] * 9}
    root = write_set(tmp_path / "pets", {"train": image_columns(60), "test": hidden}, IMAGES)
    with pytest.raises(DataError, match=r"data\.test_split: no row has a class .*test_split: none"):
        load(root)
    data = load(root, test_split="none")
    assert all(name.startswith("train/") for name in texts(data.splits["test"], "id"))


# Rows that can't be used


def test_bad_rows_stop_the_run_or_are_left_out(tmp_path: Path):
    columns = image_columns(40)
    columns["image"][3] = {"bytes": b"no image", "path": None}
    columns["image"][4] = None
    columns["image"][5] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    columns["label"][8] = None
    columns["person"][9] = None
    columns["image"][11] = columns["image"][10]
    root = write_set(tmp_path / "pets", {"train": columns}, IMAGES)
    with pytest.raises(DataError) as stop:
        load(root, group_columns=["person"])
    expected = (
        f"data.repo_id: '{root}' has 7 bad examples: train/8: it has no label; "
        "train/9: it has no person; train/3: it is no image of a known format; "
        "train/4: it has no image; train/5: there is no such file; and 2 more."
    )
    assert str(stop.value).startswith(expected)
    data = load(root, group_columns=["person"], on_bad_example="skip")
    assert data.warnings[0].startswith("7 bad examples left out")
    assert "train/10: the same image is dog here and owl in train/11" in data.skipped[5]
    assert [one.ids for one in data.contradictions] == [("train/10", "train/11")]
    left = {
        int(name.split("/")[1]) for split in data.splits.values() for name in texts(split, "id")
    }
    assert left == set(range(40)) - {3, 4, 5, 8, 9, 10, 11}
    for split in data.splits.values():
        for pixels, name in zip(pixels_of(split), texts(split, "id"), strict=True):
            number = int(name.split("/")[1])
            assert np.array_equal(pixels, draw(number % 3, number))


def test_bad_clips_are_named_by_their_row(tmp_path: Path):
    columns = {
        "audio": [*(flac(number) for number in range(40)), {"bytes": b"RIFF", "path": "x.wav"}],
        "emotion": ["sad", "glad"] * 20 + ["sad"],
    }
    root = write_set(tmp_path / "clips", {"train": columns}, AUDIO)
    with pytest.raises(DataError, match=r"1 bad example: train/40: it can't be read as audio"):
        load(root, label_column="emotion")


def test_clips_beyond_full_scale_are_a_warning(tmp_path: Path):
    file = io.BytesIO()
    soundfile.write(file, np.full(900, 3000.0), 8000, format="WAV", subtype="FLOAT")
    columns = {
        "audio": [*map(flac, range(39)), {"bytes": file.getvalue(), "path": None}],
        "emotion": ["sad", "glad"] * 20,
    }
    data = load(write_set(tmp_path / "clips", {"train": columns}, AUDIO), label_column="emotion")
    assert "1 clip lies beyond full scale, up to 3,000 times (train/39)" in " ".join(data.warnings)


# Choices


@pytest.mark.parametrize(
    ("types", "settings", "message"),
    [
        (
            {"image": datasets.Image(), "mask": datasets.Image()},
            {},
            r"image_column: image, mask could be meant\. The data set has image \(Image\), mask",
        ),
        ({}, {}, r"image_column: no column is of type Image or Audio.*label \(ClassLabel\)"),
        ({}, {"image_column": "imge"}, r"image_column: there is no column 'imge'"),
        ({}, {"image_column": "person"}, r"'person' is of type string\. Allowed: type Image"),
        ({"image": datasets.Image()}, {"label_column": "lable"}, r"Did you mean 'label'\?"),
        ({"image": datasets.Image()}, {"label_column": "image"}, r"'image' is of type Image"),
        ({"image": datasets.Image()}, {"group_columns": ["who"]}, r"group_columns: there is no"),
        ({"image": datasets.Image()}, {"group_columns": ["score"]}, r"'score' is of type float32"),
        (
            {"image": datasets.Image()},
            {"label_column": "person", "group_columns": ["person"]},
            r"'person' is what is learnt",
        ),
    ],
)
def test_columns_that_can_not_be_told_are_listed(
    types: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
):
    plain = {"label": IMAGES["label"], "person": IMAGES["person"]}
    types = {**types, **plain, "score": datasets.Value("float32")}
    columns = {name: image_columns(6).get(name, [None] * 6) for name in types}
    root = write_set(tmp_path / "pets", {"train": columns}, types)
    with pytest.raises(DataError, match=message):
        load(root, **settings)


def test_the_only_column_of_class_labels_is_the_label(tmp_path: Path):
    columns = image_columns(30)
    columns["kind"] = columns.pop("label")
    types = {"image": IMAGES["image"], "kind": IMAGES["label"], "person": IMAGES["person"]}
    root = write_set(tmp_path / "one", {"train": columns}, types)
    assert load(root).label_names == NAMES
    columns["breed"], types["breed"] = columns["kind"], types["kind"]
    root = write_set(tmp_path / "two", {"train": columns}, types)
    with pytest.raises(DataError, match="label_column: kind, breed could be meant"):
        load(root)


def test_undeclared_structs_are_images_where_they_are_named(tmp_path: Path):
    types = {
        **IMAGES,
        "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
    }
    root = write_set(tmp_path / "pets", {"train": image_columns(30)}, types)
    with pytest.raises(DataError, match=r"image \(a struct of bytes, path\)"):
        load(root)
    assert np.array_equal(
        pixels_of(load(root, image_column="image").splits["train"])[0].shape, (12, 12, 3)
    )


def test_splits_are_chosen_by_name(tmp_path: Path):
    names = ("learn", "dev", "extra", "holdout")
    splits = {name: image_columns(15, 15 * place) for place, name in enumerate(names)}
    root = write_set(tmp_path / "pets", splits, IMAGES)
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        + "".join(f"  - split: {name}\n    path: data/{name}-*\n" for name in names)
        + "---\n"
    )
    with pytest.raises(DataError, match=r"train_split: it can't be told .*learn, dev, extra"):
        load(root)
    with pytest.raises(DataError, match=r"data\.train_split: there is no split 'train'"):
        load(root, train_split="train")
    with pytest.raises(DataError, match=r"data\.test_split: 'learn' is another split already"):
        load(root, train_split="learn", test_split="learn")
    data = load(root, train_split="learn", test_split="holdout")
    assert texts(data.splits["validation"], "id")[0] == "dev/0"
    assert texts(data.splits["test"], "id")[0] == "holdout/0"
    assert data.warnings == ("the split extra of the data set is left aside",)


def test_configurations_are_listed_and_chosen(tmp_path: Path):
    root = tmp_path / "pets"
    for place, name in enumerate(("small", "large")):
        write_set(root / name, {"train": image_columns(15 + 15 * place)}, IMAGES)
    (root / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(f"- config_name: {n}\n  data_files: {n}/data/*\n" for n in ("small", "large"))
        + "---\n"
    )
    for wrong in (None, "lrge"):
        with pytest.raises(DataError, match=r"has the configurations small, large\. Name one in"):
            load(root, config_name=wrong)
    assert sum(map(len, load(root, config_name="large").splits.values())) == 30


# Sources


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("./nowhere", "mnist", "a/b/c", "/nowhere"):
        with pytest.raises(DataError, match=f"there is no folder '{name}' .*Write owner/name"):
            load(Path(name)) if name != "./nowhere" else load_data(Options(repo_id=name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.repo_id: 'empty' can't be read as a data set"):
        load_data(Options(repo_id="empty"))
    with pytest.raises(DataError, match=r"data\.revision: 'empty' is a folder, which has no rev"):
        load_data(Options(repo_id="empty", revision="v1"))
    save(tmp_path / "spoilt/train/cat/1.png", draw(0, 0))
    (tmp_path / "spoilt/data").mkdir()
    (tmp_path / "spoilt/data/train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"'spoilt' can't be read as a data set"):
        load_data(Options(repo_id="spoilt"))


def test_faults_of_the_section_are_found_without_the_data():
    tree = {"data": {"name": "hub"}, "model": {"name": "cnn"}}
    with pytest.raises(ConfigError, match="repo_id"):
        config_from(tree)
    tree["data"] |= {"repo_id": "a/b", "image_column": "x", "audio_column": "y"}
    with pytest.raises(ConfigError, match="either image_column or audio_column"):
        config_from(tree)
    tree["data"] |= {"audio_column": None, "group_columns": ["label"]}
    with pytest.raises(ConfigError, match="'label' is a column of the toolkit's own"):
        config_from(tree)
