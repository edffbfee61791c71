"""Data sets in the Hub's layouts: what is read of them, what is chosen, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from pictures import CLASSES, draw, write_classes
from tables_of_files import (
    IMAGES,
    NAMES,
    flac,
    image_columns,
    load,
    pixels_of,
    png,
    texts,
    write_set,
)

from hf_finetune.config import config_from
from hf_finetune.data import image_files
from hf_finetune.data.tables import RowReader
from hf_finetune.engines.batches import BatchView
from hf_finetune.features.audio_decoding import read_audio

AUDIO = {"audio": datasets.Audio(), "emotion": datasets.Value("string")}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


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
