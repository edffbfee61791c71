"""A split that was written down comes back equal, and does so for no other data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from rows import ids, load, make_rows

from hf_finetune.data import LoadedData
from hf_finetune.data.split_files import SPLIT_FILE, write_split
from hf_finetune.errors import DataError

LABELS = [row % 3 for row in range(60)]


def write(path: Path, data: LoadedData) -> str:
    return write_split(
        path, {**{name: (rows,) for name, rows in data.splits.items()}, "unused": data.unused}
    )


@pytest.fixture
def given() -> dict[str, Dataset]:
    return {"train": make_rows(LABELS), "test": make_rows([2, 1, 0] * 3, start=60)}


@pytest.mark.parametrize("split", [{}, {"num_folds": 3, "fold": 2}, {"pool_given": True}])
def test_a_split_comes_back_equal(split: dict[str, Any], given: Any, tmp_path: Path):
    data = load(given, **split)
    digest = write(tmp_path / SPLIT_FILE, data)
    assert digest == hashlib.sha256((tmp_path / SPLIT_FILE).read_bytes()).hexdigest()
    for path in (tmp_path, tmp_path / SPLIT_FILE):
        again = load(given, file=str(path), seed=5)
        assert ids(again) == {name: sorted(rows, key=int) for name, rows in ids(data).items()}
        assert write(tmp_path / "again.csv", again) == digest
        assert again.split_description == f"validation and test as in {path}"
    if not split.get("pool_given"):
        assert again.fingerprint == data.fingerprint


def test_the_hash_tells_splits_apart(given: Any, tmp_path: Path):
    hashes = {write(tmp_path / SPLIT_FILE, load(given, seed=seed)) for seed in (0, 0, 1, 2)}
    assert len(hashes) == 3


def test_a_table_of_ones_own(given: Any, tmp_path: Path):
    names = ["train"] * 40 + ["TEST"] * 20 + ["unused"] * 9
    rows = "".join(f"{name},{row}\n" for row, name in enumerate(names))
    (tmp_path / "my.csv").write_text(f"split,id\n{rows}", encoding="utf-8")
    data = load(given, file=str(tmp_path / "my.csv"))
    assert ids(data)["test"] == [str(row) for row in range(40, 60)]
    assert len(data.splits["validation"]) == 6
    assert len(data.unused[0]) == 9
    assert data.split_description.startswith(f"test as in {tmp_path}/my.csv; validation is 6 ")


def test_other_data_are_refused(given: Any, tmp_path: Path):
    file = tmp_path / SPLIT_FILE
    write(file, load(given))
    fewer = {"train": make_rows(LABELS[:-2]), "test": given["test"]}
    with pytest.raises(DataError, match=r"names 2 ids \(58, 59\) that the data doesn't have. Take"):
        load(fewer, file=str(file))
    more = {"train": given["train"], "test": make_rows([2, 1, 0] * 4, start=60)}
    with pytest.raises(DataError, match=r"3 ids \(69, 70, 71\) .*the data has more"):
        load(more, file=str(file))
    labels = [2, *LABELS[1:]]
    with pytest.raises(DataError, match=r"content or label of 1 row \(0\) changed since"):
        load({"train": make_rows(labels), "test": given["test"]}, file=str(file))
    table = given["train"].data.table
    column = table.column("image").to_pylist()
    column[7][3][3] ^= 1
    pixels = np.asarray(column, np.uint8)
    from hf_finetune.data.tables import build_image_dataset

    names = [str(row) for row in range(60)]
    changed = build_image_dataset(
        [pixels], [np.asarray(LABELS)], given["train"].features["label"].names, {"id": [names]}
    )
    with pytest.raises(DataError, match=r"content or label of 1 row \(7\) changed since"):
        load({"train": changed, "test": given["test"]}, file=str(file))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "needs the columns id and split, and has none"),
        ("id,part\n0,train\n", "needs the columns id and split, and has id, part"),
        ("id,split\n0,trian\n", "line 2: unknown split 'trian'. Allowed"),
        ("id,split\n0,train\n0,test\n", "line 3: '0' stands there a second time"),
        ("id,split\n0,train\n1,train\n", "names no test rows"),
        ("id,split\n0,test\n1,test\n", "names no train rows"),
        ('id,split\n"0,train\n', "can't be read as a table"),
    ],
)
def test_a_faulty_table_is_refused(text: str, told: str, given: Any, tmp_path: Path):
    (tmp_path / "my.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        load(given, file=str(tmp_path / "my.csv"))
    with pytest.raises(DataError, match=r"data.split.file: '.*none.csv' is not there. Name"):
        load(given, file=str(tmp_path / "none.csv"))


def test_ids_that_stand_twice_cannot_be_followed(given: Any, tmp_path: Path):
    file = tmp_path / SPLIT_FILE
    write(file, load(given))
    twice = {"train": given["train"], "test": make_rows([0, 1, 2], start=0)}
    with pytest.raises(DataError, match=r"3 ids \(0, 1, 2\) of the data stand for several"):
        load(twice, file=str(file))


def test_a_run_keeps_its_split_and_gives_it_back(make_config: Callable[..., Any]):
    from hf_finetune.finetuning import finetune

    settings = {"train__max_steps": 1, "data__max_train_examples": 30}
    first = finetune(make_config(**settings, data__split__num_folds=3), quiet=True).run
    again = make_config(**settings, data__split__file=str(first.path), data__split__seed=9)
    second = finetune(again, quiet=True).run
    content = (first.path / "split.csv").read_bytes()
    assert first.status["split"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert second.status["split"]["sha256"] == first.status["split"]["sha256"]
    assert second.status["data_fingerprint"] == first.status["data_fingerprint"]
    assert second.status["split"]["leaks"] == "none: no file lies in two splits"
    lines = content.decode().splitlines()
    assert len(lines) == 1 + 190
    assert sum(",unused," in line for line in lines) == 20 + 40
