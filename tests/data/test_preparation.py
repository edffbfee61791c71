"""Held-out rows don't leak, smaller sets stay in proportion, and unusable data is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import DatasetDict, concatenate_datasets

from hf_finetune.data import DataOptions, GivenData, load_data
from hf_finetune.data.corrupt_mnist import Options, load
from hf_finetune.data.hub import Options as Hub
from hf_finetune.data.preparation import pixel_statistics, prepare
from hf_finetune.data.splits import connect_groups, draw_rows, hold_out_groups, hold_out_rows
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

SAMPLE = "samples/corruptmnist"


def files_of(data, split: str) -> set[str]:
    return set(column_values(data.splits[split], "file"))


def test_messages_name_the_setting_that_the_data_come_from():
    given = DatasetDict(test=load(Options(root=SAMPLE))["test"])
    for options, key in (
        (Options(root=SAMPLE), "data.root"),
        (Hub(repo_id="a/b"), "data.repo_id"),
        (DataOptions(name="stripes"), "data"),
    ):
        with pytest.raises(DataError, match=rf"^{key}: there is no split to train on, only test"):
            prepare(GivenData(given), options)
    one_class = {name: rows.select([0, 0, 0]) for name, rows in load(Options(root=SAMPLE)).items()}
    split = {"group_by": "none", "validation_fraction": 0.4}
    with pytest.raises(DataError, match=r"^data.repo_id: the training split has rows of one class"):
        prepare(GivenData(DatasetDict(one_class)), Hub(repo_id="a/b", split=split))


@pytest.mark.parametrize("seed", range(6))
def test_validation_is_whole_files(seed: int):
    data = load_data(Options(root=SAMPLE, split={"seed": seed}))
    assert not files_of(data, "train") & files_of(data, "validation")
    assert len(files_of(data, "validation")) == 1
    assert data.warnings == ()


def test_the_seed_chooses_the_held_out_file():
    seeds = range(8)
    held = {
        tuple(files_of(load_data(Options(root=SAMPLE, split={"seed": s})), "validation"))
        for s in seeds
    }
    assert len(held) > 2


def test_the_fraction_chooses_how_many_files():
    data = load_data(Options(root=SAMPLE, split={"validation_fraction": 0.5}))
    assert len(files_of(data, "validation")) == 3


def test_splitting_rows_is_stratified_and_says_that_it_leaks():
    data = load_data(Options(root=SAMPLE, split={"group_by": "none", "validation_fraction": 0.1}))
    assert len(data.splits["validation"]) == 420
    counts = Counter(column_values(data.splits["validation"], "label"))
    share = np.array(data.class_counts) / sum(data.class_counts)
    assert np.abs(np.array([counts[i] for i in range(10)]) / 420 - share).max() < 0.005
    assert "validation shares 6 of its file keys with train" in data.warnings[0]


def test_no_row_is_lost_or_doubled():
    data = load_data(Options(root=SAMPLE))
    ids = [column_values(data.splits[name], "id") for name in ("train", "validation")]
    assert len(set(ids[0]) | set(ids[1])) == 4200
    assert not set(ids[0]) & set(ids[1])


def test_an_unknown_group_column_is_named():
    with pytest.raises(DataError, match=r"no column speaker. The data set has file"):
        load_data(Options(root=SAMPLE, split={"group_by": ["speaker"]}))


def test_one_group_alone_cannot_be_held_out(digits_root: Path):
    for number in (1, 2):
        (digits_root / f"train_images_{number}.pt").unlink()
    with pytest.raises(DataError, match=r"group_by: none"):
        load_data(Options(root=str(digits_root)))


def test_fewer_training_rows_keep_their_proportions():
    data = load_data(Options(root=SAMPLE, max_train_examples=350))
    whole = load_data(Options(root=SAMPLE))
    assert sum(data.class_counts) == 350
    assert np.abs(np.array(data.class_counts) - np.array(whole.class_counts) / 10).max() <= 1
    assert len(data.splits["validation"]) == 700
    assert data.fingerprint != whole.fingerprint


def test_drawn_rows_hold_every_class_and_the_exact_count():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    for count in (3, 4, 10, 50, 99):
        rows = draw_rows(labels, count, seed=1)
        assert len(rows) == len(set(rows.tolist())) == count
        assert set(labels[rows]) == {0, 1, 2}
    with pytest.raises(DataError, match="at least 3"):
        draw_rows(labels, 2, seed=1)
    assert len(draw_rows(labels, 1000, seed=1)) == 100


def test_groups_hang_together_through_any_key():
    speakers = ["a", "a", "b", "c", "d"]
    sentences = ["1", "2", "2", "3", "4"]
    groups = connect_groups([speakers, sentences])
    assert groups[0] == groups[1] == groups[2]
    assert len({groups[0], groups[3], groups[4]}) == 3


def test_held_out_groups_come_near_the_fraction():
    groups = np.repeat(np.arange(20), 5)
    for seed in range(5):
        kept, held = hold_out_groups(groups, np.zeros(100, np.int64), 0.2, seed)
        assert len(held) == 20
        assert not set(groups[kept]) & set(groups[held])


def test_too_small_classes_cannot_be_stratified():
    with pytest.raises(DataError, match=r"data.split"):
        hold_out_rows(np.array([0, 0, 0, 1]), 0.25, 0)


def test_one_class_alone_is_refused(digits_root: Path):
    for number in range(3):
        torch.save(torch.zeros(50, dtype=torch.int64), digits_root / f"train_target_{number}.pt")
    with pytest.raises(DataError, match="one class only"):
        load_data(Options(root=str(digits_root)))


def test_a_class_missing_in_training_is_refused(digits_root: Path):
    for number in range(3):
        torch.save(torch.arange(50) % 9, digits_root / f"train_target_{number}.pt")
    with pytest.raises(DataError, match="no rows of class 9"):
        load_data(Options(root=str(digits_root)))


def test_a_class_missing_in_the_test_is_a_warning(digits_root: Path):
    torch.save(torch.arange(40) % 9, digits_root / "test_target.pt")
    data = load_data(Options(root=str(digits_root)))
    assert data.warnings == ("the test split has no rows of class 9",)


def test_the_fingerprint_follows_the_content(digits_root: Path):
    before = load_data(Options(root=str(digits_root))).fingerprint
    assert load_data(Options(root=str(digits_root))).fingerprint == before
    images = torch.load(digits_root / "test_images.pt", weights_only=True)
    images[3, 5, 5] = 1 - images[3, 5, 5].round()
    torch.save(images, digits_root / "test_images.pt")
    assert load_data(Options(root=str(digits_root))).fingerprint != before


def test_rows_are_read_through_selections_and_chunks():
    whole = load(Options(root=SAMPLE))["train"]
    train = concatenate_datasets([whole.select(range(s, s + 700)) for s in range(0, 4200, 700)])
    assert train.data.table.column("image").num_chunks == 6
    plain = RowReader(train, ["image", "label"])
    everything = plain.read(np.arange(len(train)))
    chosen = np.array([4199, 0, 700, 699, 2100, 2100])
    assert np.array_equal(plain.read(chosen)["image"], everything["image"][chosen])
    views = {
        "select": (train.select([5, 3000, 10, 3999]), [5, 3000, 10, 3999]),
        "select twice": (train.select(range(100, 4000)).select([7, 0, 3000]), [107, 100, 3100]),
    }
    for view, rows in views.values():
        read = RowReader(view, ["image", "label"]).read(np.arange(len(view)))
        assert np.array_equal(read["image"], everything["image"][rows])
        assert np.array_equal(read["label"], everything["label"][rows])
        assert column_values(view, "label") == everything["label"][rows].tolist()
    shuffled = train.shuffle(seed=3)
    read = RowReader(shuffled, ["label"]).read(np.arange(50))["label"]
    assert read.tolist() == shuffled[:50]["label"]
    joined = concatenate_datasets([train.select(range(10)), train.select([4000])])
    assert (
        RowReader(joined, ["label"]).read(np.array([10]))["label"][0] == everything["label"][4000]
    )


def test_rows_are_views_of_the_table():
    train = load(Options(root=SAMPLE))["train"]
    reader = RowReader(train, ["image"])
    buffer = train.data.table.column("image").chunk(0).flatten().flatten().buffers()[1]
    assert reader._views["image"][0].ctypes.data == buffer.address


def test_rows_are_read_from_disk(tmp_path: Path):
    train = load(Options(root=SAMPLE))["train"].select(range(50, 2550))
    train.save_to_disk(tmp_path / "saved")
    from datasets import load_from_disk

    again = load_from_disk(tmp_path / "saved")
    rows = np.array([2499, 1000, 999, 0])
    assert np.array_equal(
        RowReader(again, ["image"]).read(rows)["image"],
        RowReader(train, ["image"]).read(rows)["image"],
    )


def test_pixel_statistics_equal_numpy():
    train = load(Options(root=SAMPLE))["train"].select(range(1000))
    images = RowReader(train, ["image"]).read(np.arange(1000))["image"] / 255
    mean, std = pixel_statistics(train)
    assert mean[0] == pytest.approx(images.mean(), rel=1e-9)
    assert std[0] == pytest.approx(images.std(), rel=1e-9)
