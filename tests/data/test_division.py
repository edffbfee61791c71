"""The ways to choose a split: folds, what is left out, what the data gives, and all of it anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rows import every, ids, load, make_rows, sides

from hf_finetune.config import config_from
from hf_finetune.data.tables import column_values
from hf_finetune.errors import ConfigError, DataError

LABELS = [row % 3 for row in range(90)]
SPEAKERS = [f"speaker {row // 9}" for row in range(90)]
TAKES = [f"take {row // 3 % 3}" for row in range(90)]


def talk() -> Any:
    return make_rows(LABELS, speaker=SPEAKERS, take=TAKES)


@pytest.mark.parametrize("columns", [{}, {"speaker": SPEAKERS}])
def test_each_row_is_tested_in_one_fold(columns: dict[str, list[str]]):
    rows = make_rows(LABELS, **columns)
    folds = [load(rows, num_folds=5, fold=fold) for fold in range(1, 6)]
    tested = [row for data in folds for row in ids(data)["test"]]
    assert sorted(tested) == sorted(column_values(rows, "id"))
    for number, data in enumerate(folds, start=1):
        assert sorted(every(data)) == sorted(tested)
        assert data.split_description.startswith(f"test is fold {number} of 5, ")
        assert data.warnings == ()
        for column in columns:
            by_split = list(sides(data, column).values())
            assert len(set.union(*by_split)) == sum(map(len, by_split))


def test_a_group_is_left_out_and_validation_is_groups_too():
    data = load(talk(), leave_out={"speaker": "speaker 4"}, validation_fraction=0.2)
    assert data.group_columns == ("speaker",)
    keys = sides(data, "speaker")
    assert keys["test"] == {"speaker 4"}
    assert len(keys["validation"]) == 2
    assert len(keys["train"]) == 7
    assert data.split_description.startswith("test is speaker speaker 4; validation is whole gr")
    assert data.warnings == tuple(
        f"{name} shares 3 of its take keys with train, so its score may flatter the model"
        for name in ("validation", "test")
    )


def test_several_groups_are_left_out_and_single_rows_held_out():
    data = load(talk(), leave_out={"take": ["take 0", "take 1"]}, group_by="none")
    assert sides(data, "take") == {
        "train": {"take 2"},
        "validation": {"take 2"},
        "test": {"take 0", "take 1"},
    }
    assert len(data.splits["validation"]) == 5


def test_what_cannot_be_left_out_is_told():
    with pytest.raises(DataError, match=r"no training row has speaker 'spaeker 4'. Did you mea"):
        load(talk(), leave_out={"speaker": "spaeker 4"})
    with pytest.raises(DataError, match=r"leave_out: there is no column sex. The data set has spe"):
        load(talk(), leave_out={"sex": "f"})
    takes = ["take 0", "take 1", "take 2"]
    with pytest.raises(DataError, match="every training row has take"):
        load(talk(), leave_out={"take": takes})
    with pytest.raises(DataError, match=r"by speaker and take .* belong to 1 group, and 2 splits"):
        load(talk(), leave_out={"speaker": "speaker 4"}, group_by=["speaker", "take"])


def test_too_many_folds_are_told():
    with pytest.raises(DataError, match=r"11 folds need as many groups.* belong to 10"):
        load(talk(), group_by=["speaker"], num_folds=11)
    with pytest.raises(DataError, match="one has 30"):
        load(talk(), group_by="none", num_folds=31)


def test_the_data_s_own_test_split_is_left_aside_and_said_to_be():
    given = {"train": make_rows(LABELS), "test": make_rows([0, 1, 2] * 4, start=90)}
    data = load(given, num_folds=3)
    assert "own test split (12 rows) is left aside" in data.warnings[0]
    assert all(int(row) < 90 for row in every(data))
    assert [column_values(rows, "id") for rows in data.unused] == [ids(load(given))["test"]]
    assert load(given).unused == ()


def test_the_data_s_own_splits_are_joined_where_asked():
    given = {"train": make_rows(LABELS), "test": make_rows([0, 1, 2] * 4, start=90)}
    data = load(given, num_folds=3, pool_given=True)
    assert data.warnings == ()
    assert sorted(map(int, every(data))) == list(range(102))
    folds = [load(given, num_folds=3, fold=fold, pool_given=True) for fold in (1, 2, 3)]
    tested = [int(row) for fold in folds for row in ids(fold)["test"]]
    assert sorted(tested) == list(range(102))
    anew = load(given, pool_given=True, test_fraction=0.5)
    assert len(anew.splits["test"]) == 51
    assert any(int(row) < 90 for row in ids(anew)["test"])


def test_the_data_s_own_validation_stays():
    given = {"train": make_rows(LABELS), "validation": make_rows([0, 1, 2], start=90)}
    data = load(given, num_folds=3)
    assert ids(data)["validation"] == ["90", "91", "92"]
    assert "validation as given by the data" in data.split_description


def test_groups_of_given_splits_are_refused_unless_allowed():
    given = {
        "train": make_rows([0, 1, 2] * 4, speaker=["anna", "bert"] * 6),
        "test": make_rows([0, 1, 2], start=12, speaker=["anna", "cleo", "cleo"]),
        "validation": make_rows([0, 1, 2], start=15, speaker=["cleo", "dora", "dora"]),
    }
    with pytest.raises(DataError, match=r"test shares 1 of its speaker keys with train \(anna\)"):
        load(given)
    data = load(given, allow_overlap=True)
    assert data.warnings == (
        "test shares 1 of its speaker keys with train, so its score may flatter the model",
        "test shares 1 of its speaker keys with validation, so its score may flatter the model",
    )
    assert len(load(given, group_by="none").warnings) == 1
    anew = load(given, pool_given=True)
    by_split = list(sides(anew, "speaker").values())
    assert len(set.union(*by_split)) == sum(map(len, by_split)) == 4


def test_rows_thinned_out_are_known():
    from datasets import DatasetDict

    from hf_finetune.data import DataOptions, GivenData
    from hf_finetune.data.preparation import prepare

    options = DataOptions(name="rows", max_train_examples=12)
    data = prepare(GivenData(DatasetDict({"train": make_rows(LABELS)})), options)
    everything = [*every(data), *column_values(data.unused[0], "id")]
    assert len(data.splits["train"]) == 12
    assert sorted(map(int, everything)) == list(range(90))


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({"num_folds": 3, "file": "x"}, "num_folds and file exclude each other"),
        ({"num_folds": 3, "fold": 4}, "fold must be at most 3, got 4"),
        ({"fold": 2}, "fold must be at most num_folds, which is missing"),
        ({"leave_out": {"a": "b", "c": "d"}}, "data.split.leave_out: must name one column"),
        ({"leave_out": {}}, "data.split.leave_out: must name one column"),
        ({"num_folds": 1}, "data.split.num_folds: must be a whole number of at least 2"),
    ],
)
def test_contradictions_are_told_before_anything_is_read(split: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=told):
        config_from({"data": {"name": "corrupt_mnist", "split": split}, "model": {"name": "cnn"}})


def test_options_come_back_as_they_were():
    from hf_finetune.config import dump_config, parse_config

    split = {"leave_out": {"take": [0, 1]}, "group_by": "none"}
    data = {"name": "corrupt_mnist", "split": split}
    config = config_from({"data": data, "model": {"name": "cnn"}})
    assert config.data.split.left_out == ("take", ("0", "1"))
    assert parse_config(dump_config(config)) == config


def test_stratified_groups_hold_out_rare_classes():
    speakers = [f"s{row // 3}" for row in range(180)]
    labels = [0 if row // 3 % 5 else 1 + (row // 3 // 5) % 2 for row in range(180)]
    for seed in range(5):
        data = load(make_rows(labels, speaker=speakers), seed=seed)
        for name in ("validation", "test"):
            counts = np.bincount(column_values(data.splits[name], "label"), minlength=3)
            assert counts.min() >= 3
