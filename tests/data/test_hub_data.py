"""Data sets in the Hub's layouts: what is read of them, what is chosen, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from pictures import CLASSES, draw, save, write_classes
from tables_of_files import IMAGES, NAMES, flac, image_columns, png, write_set

from hf_finetune.config import config_from
from hf_finetune.data import LoadedData, image_files, load_data
from hf_finetune.data.hub import Options
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.engines.batches import BatchView
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.features.audio_decoding import read_audio

AUDIO = {"audio": datasets.Audio(), "emotion": datasets.Value("string")}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(repo_id=str(root), **settings))


def texts(split: datasets.Dataset, name: str) -> list[str]:
    return column_values(split, name)


def pixels_of(split: datasets.Dataset) -> list[np.ndarray]:
    """Every image as the collator decodes it, in batches of rows out of order."""
    rows = np.arange(len(split))[::-1]
    cells = RowReader(split, ["image"]).read(rows)["image"]
    return image_files.read_images(cells, 1)[::-1]


# What is read


def test_splits_ids_classes_keys_and_pixels(tmp_path: Path):
    root = write_set(
        tmp_path / "pets",
        {"train": image_columns(30), "val": image_columns(10, 30), "test": image_columns(10, 40)},
        IMAGES,
    )
    data = load(root, group_columns=("person",))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 30,
        "validation": 10,
        "test": 10,
    }
    assert data.label_names == NAMES
    assert data.group_columns == ("person",)
    assert data.warnings == data.skipped == ()
    assert texts(data.splits["validation"], "id") == [f"val/{row}" for row in range(10)]
    assert texts(data.splits["test"], "person") == ["p8"] * 5 + ["p9"] * 5
    start = 0
    for split in data.splits.values():
        for row, pixels in enumerate(pixels_of(split)):
            assert np.array_equal(pixels, draw((start + row) % 3, start + row))
        assert texts(split, "label") == [number % 3 for number in range(start, start + len(split))]
        start += len(split)


def test_what_is_missing_is_held_out_by_groups(tmp_path: Path):
    data = load(
        write_set(tmp_path / "pets", {"train": image_columns(60)}, IMAGES), group_columns=["person"]
    )
    keys = [set(texts(split, "person")) for split in data.splits.values()]
    assert sum(map(len, keys)) == 12
    assert len(set.union(*keys)) == 12
    held = data.splits["validation"]
    numbers = [int(name.split("/")[1]) for name in texts(held, "id")]
    for pixels, number in zip(pixels_of(held), numbers, strict=True):
        assert np.array_equal(pixels, draw(number % 3, number))


def test_a_batch_touches_only_its_own_rows(tmp_path: Path):
    data = load(write_set(tmp_path / "pets", {"train": image_columns(60)}, IMAGES, 5))
    train = data.splits["train"]
    column = train.data.table.column("image")
    assert column.num_chunks > 5
    batch = BatchView(train).__getitems__([(0, 8), (0, 0), (0, 8)])
    rows = train._indices.column(0).take([8, 0, 8]).to_pylist()
    names = [cell["path"] for cell in batch["image"]]
    assert names == [f"train/{row}" for row in rows]
    assert batch["label"].tolist() == [row % 3 for row in rows]
    # The bytes still lie where datasets has mapped the file, and nowhere a second time.
    mapped = datasets.load_dataset(str(tmp_path / "pets"), split="train").data.table
    theirs = mapped.column("image").combine_chunks().field("bytes").nbytes
    assert sum(chunk.field("content").nbytes for chunk in column.chunks) <= theirs + 8 * 60


def pets(tmp_path: Path) -> list[dict[str, Any]]:
    """The same images as a folder and as a table, in configurations for a small network."""
    root = write_classes(tmp_path / "pets")
    columns = {
        "id": [f"{name}/{number}.png" for name in CLASSES for number in range(8)],
        "image": [
            png(draw(kind, number, 10 + number % 5, 16 - number % 3))
            for kind in range(3)
            for number in range(8)
        ],
        "label": [kind for kind in range(3) for _ in range(8)],
    }
    types = {"id": datasets.Value("string"), "image": IMAGES["image"], "label": IMAGES["label"]}
    write_set(tmp_path / "table", {"train": columns}, types)
    network = {"channels": [4], "convolutions_per_block": 1, "image_size": 8}
    rest = {
        "model": {"name": "cnn", **network},
        "train": {"num_train_epochs": 2, "per_device_train_batch_size": 5},
        "compute": {"precision": "fp32", "device": "cpu", "num_threads": 1},
        "run": {"directory": str(tmp_path / "runs")},
    }
    return [
        {"data": {"name": "image_folder", "root": str(root)}, **rest},
        {"data": {"name": "hub", "repo_id": str(tmp_path / "table")}, **rest},
    ]


def test_the_same_batches_as_from_a_folder(tmp_path: Path):
    from hf_finetune.assembly import assemble

    folder, table = (assemble(config_from(tree)) for tree in pets(tmp_path))
    assert table.data.fingerprint == folder.data.fingerprint
    for one, other in zip(
        folder.make_loader("train", training=True),
        table.make_loader("train", training=True),
        strict=True,
    ):
        assert all(torch.equal(one[name], other[name]) for name in ("pixel_values", "labels"))


@pytest.mark.slow
def test_a_run_on_it_ends_as_one_on_a_folder(tmp_path: Path):
    from hf_finetune.finetuning import finetune

    folder, table = (finetune(config_from(tree), quiet=True) for tree in pets(tmp_path))
    assert table.metrics["test"]["loss"] == folder.metrics["test"]["loss"]
    assert (table.run.path / "examples.png").is_file()


def test_clips_are_decoded_from_the_table(tmp_path: Path):
    columns = {
        "audio": [flac(number) for number in range(40)],
        "emotion": [("sad", "glad")[number % 2] for number in range(40)],
    }
    data = load(write_set(tmp_path / "clips", {"train": columns}, AUDIO), label_column="emotion")
    assert data.label_names == ("glad", "sad")
    assert data.audio_shape is not None
    assert data.audio_shape.sampling_rate_hz == 8000
    for split in data.splits.values():
        for cell, name in zip(
            RowReader(split, ["audio"]).read(np.arange(len(split)))["audio"],
            texts(split, "id"),
            strict=True,
        ):
            seed = int(name.split("/")[1])
            assert (cell["num_frames"], cell["sampling_rate_hz"]) == (800 + 10 * seed, 8000)
            exact = np.random.default_rng(seed).normal(0, 0.1, 800 + 10 * seed)
            assert np.abs(read_audio(cell) - exact).max() < 2**-15


def test_what_save_to_disk_wrote(tmp_path: Path):
    whole = datasets.Dataset.from_dict(image_columns(30), features=datasets.Features(IMAGES))
    whole.select(range(29, -1, -1)).save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select(range(3))}).save_to_disk(
        tmp_path / "two"
    )
    data = load(tmp_path / "one", split={"num_folds": 3})
    assert sum(map(len, data.splits.values())) == 30
    for pixels, name in zip(
        pixels_of(data.splits["train"]), texts(data.splits["train"], "id"), strict=True
    ):
        number = 29 - int(name.split("/")[1])
        assert np.array_equal(pixels, draw(number % 3, number))
    assert len(load(tmp_path / "two").splits["test"]) == 3


def test_a_folder_of_single_images(tmp_path: Path):
    """datasets reads it as `imagefolder`: its cells are paths without bytes."""
    root = write_classes(tmp_path / "pets" / "train")
    data = load(root.parent)
    assert data.label_names == CLASSES
    cell = RowReader(data.splits["train"], ["image"]).read(np.array([0]))["image"][0]
    assert Path(cell["path"]).is_relative_to(root.resolve())
    assert cell["content"] is None
    assert pixels_of(data.splits["train"])[0].ndim == 3


def test_columns_of_their_own_id_name_the_rows_where_all_differ(tmp_path: Path):
    types = {**IMAGES, "id": datasets.Value("int64")}
    columns = {**image_columns(30), "id": [number * 7 for number in range(30)]}
    assert "203" in load_ids(write_set(tmp_path / "own", {"train": columns}, types))
    columns["id"][3] = 0
    assert "train/29" in load_ids(write_set(tmp_path / "twice", {"train": columns}, types))


def load_ids(root: Path) -> set[str]:
    return {name for split in load(root).splits.values() for name in texts(split, "id")}


def test_what_was_measured_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_set(tmp_path / "pets", {"train": image_columns(30)}, IMAGES)
    read, seen = image_files.read_image, []

    def note(*settings: Any) -> np.ndarray:
        seen.append(settings[0])
        return read(*settings)

    monkeypatch.setattr(image_files, "read_image", note)
    first = load(root)
    assert sorted(seen) == sorted(f"train/{row}" for row in range(30))
    seen.clear()
    assert load(root).fingerprint == first.fingerprint
    assert seen == []
    write_set(tmp_path / "pets", {"train": image_columns(31)}, IMAGES)
    assert load(root).fingerprint != first.fingerprint
    assert len(seen) == 31


def test_grey_and_colour(tmp_path: Path):
    grey = [png(draw(number % 3, number)[..., 0]) for number in range(30)]
    columns = {**image_columns(30), "image": grey}
    root = write_set(tmp_path / "grey", {"train": columns}, IMAGES)
    assert load(root).image_shape.channels == 1
    assert load(root, color="rgb").image_shape.channels == 3
    assert pixels_of(load(root, color="rgb").splits["test"])[0].shape == (12, 12, 3)
    columns = {**columns, "image": [*grey[:29], png(draw(0, 0))]}
    root = write_set(tmp_path / "mixed", {"train": columns}, IMAGES)
    assert load(root).image_shape.channels == 3
    assert load(root, color="grey").image_shape.channels == 1


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
