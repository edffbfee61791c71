"""Bad examples and faulty folders: each is one clear error, or is left out and written down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import CLASSES, draw, save, write_classes
from PIL import Image
from test_idx_and_cifar import write_mnist

from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.image_folder import Options
from hf_finetune.data.mnist import Options as Mnist
from hf_finetune.data.tables import column_values
from hf_finetune.errors import DataError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def ids(data: LoadedData) -> set[str]:
    return {name for split in data.splits.values() for name in column_values(split, "id")}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "pets")


def cut(root: Path) -> None:
    whole = (root / "cat/1.png").read_bytes()
    (root / "cat/1.png").write_bytes(whole[: len(whole) // 2])


def relabel(root: Path) -> None:
    shutil.copy(root / "cat/1.png", root / "dog/copy.png")


def loop(root: Path) -> None:
    (root / "cat/loop").symlink_to(root, target_is_directory=True)


def climb(root: Path) -> None:
    (root / "cat/up").symlink_to(root.parent, target_is_directory=True)


def misname(root: Path) -> None:
    (root / "cat/1.png").rename(os.fsdecode(os.fsencode(root / "cat") + b"/caf\xe9.png"))


def misname_folder(root: Path) -> None:
    (root / "cat").rename(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))


ONE = "cat/1.png"
# What is done to the folder, the files that are then bad, and what is said of the first.
BAD_FILES: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "empty": (lambda r: (r / ONE).write_bytes(b""), [ONE], "the file is empty. Copy it again"),
    "truncated": (cut, [ONE], "it can't be read as an image (image file is truncated)"),
    "text": (lambda r: (r / ONE).write_text("<html>"), [ONE], "it is no image of a known format"),
    "broken link": (
        lambda r: (r / "cat/x.png").symlink_to("nowhere"),
        ["cat/x.png"],
        "the link leads nowhere",
    ),
    "link to itself": (
        lambda r: (r / "cat/x.png").symlink_to("x.png"),
        ["cat/x.png"],
        "it can't be opened",
    ),
    "pipe": (lambda r: os.mkfifo(r / "cat/x.png"), ["cat/x.png"], "it is no regular file"),
    "folder loop": (loop, ["cat/loop"], "the link leads back to a folder that it lies in"),
    "loop above": (climb, ["cat/up"], "the link leads back to a folder that it lies in"),
    "name": (misname, [r"cat/caf\udce9.png"], "its name is not UTF-8; rename it"),
    "folder name": (misname_folder, [r"caf\udce9"], "its name is not UTF-8; rename it"),
    "no class": (lambda r: save(r / "x.png", draw(0, 50)), ["x.png"], "it lies in no class folder"),
    "empty class": (lambda r: (r / "emu").mkdir(), ["emu"], "the class folder holds no image"),
    "class of strays": (
        lambda r: ((r / "emu").mkdir(), (r / "emu/list.txt").touch()),
        ["emu"],
        "the class folder holds no image",
    ),
    "two classes": (
        relabel,
        [ONE, "dog/copy.png"],
        "the same image is cat here and dog in dog/copy.png, so one label is wrong",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_stop_the_run_or_are_left_out(name: str, pets: Path):
    spoil, bad, reason = BAD_FILES[name]
    before = ids(load(pets))
    spoil(pets)
    with pytest.raises(DataError) as caught:
        load(pets)
    message = str(caught.value)
    count = "1 bad example:" if len(bad) == 1 else f"{len(bad)} bad examples:"
    assert f"'{pets}' has {count} {bad[0]}: {reason}" in message
    assert "data.on_bad_example: skip" in message
    assert "\n" not in message
    data = load(pets, on_bad_example="skip")
    assert [text.split(": ")[0] for text in data.skipped] == bad
    assert data.skipped[0].startswith(f"{bad[0]}: {reason}")
    assert f"{len(bad)} bad example" in " ".join(data.warnings)
    assert [one.ids for one in data.contradictions] == [tuple(bad)] * (name == "two classes")
    gone = {"folder name": {name for name in before if name.startswith("cat")}, "name": {ONE}}
    assert ids(data) == before - gone.get(name, set(bad))


def test_five_bad_files_are_listed_and_all_are_counted(pets: Path):
    for number in range(7):
        (pets / f"cat/{number}.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"has 7 bad examples: (cat/\d.png: [^;]*; ){5}and 2 more\."
    ):
        load(pets)
    data = load(pets, on_bad_example="skip", group_pattern="{n}")
    assert len(data.skipped) == 7
    with pytest.raises(DataError, match=r"data.split: each class needs at least 3 rows.*cat has 1"):
        load(pets, on_bad_example="skip")


def test_a_class_that_is_all_bad_is_not_forgotten(pets: Path):
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no rows of class cat"):
        load(pets, on_bad_example="skip")


def test_stray_files_are_counted_and_litter_is_not(pets: Path):
    for name in ("cat/.DS_Store", "Thumbs.db", "dog/desktop.ini", "cat/._1.png"):
        (pets / name).touch()
    for folder in (".hidden", "__MACOSX", "cat/.ipynb_checkpoints"):
        save(pets / folder / "x.png", draw(0, 50))
    assert load(pets).warnings == ()
    for name in ("README", "labels.csv", "cat/a.txt", "cat/b.TXT", "cat/.1.png"):
        (pets / name).touch()
    data = load(pets)
    assert len(data.warnings) == 1
    assert data.warnings[0].startswith("5 files that are no images were passed over (2 .txt, 1 ")
    assert len(ids(data)) == 24


def test_links_to_other_folders_are_followed(pets: Path, tmp_path: Path):
    (pets / "cat").rename(tmp_path / "elsewhere")
    (pets / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(ids(load(pets))) == 24
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").symlink_to(tmp_path / "a", target_is_directory=True)
    (pets / "dog/a").symlink_to(tmp_path / "a", target_is_directory=True)
    with pytest.raises(DataError, match="dog/a/b: the link leads back"):
        load(pets)


LAYOUTS = (
    r"Accepted: a folder for each class .*; such folders in train, validation and test; or a table"
)


def test_missing_data_says_what_layouts_there_are(tmp_path: Path):
    with pytest.raises(DataError, match=rf"data.root: '.*nowhere' is not there. {LAYOUTS}"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=rf"data.root: '.*file' is no folder. {LAYOUTS}"):
        load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=rf"no image that can be used. {LAYOUTS}.*jpg.*webp"):
        load(tmp_path / "empty")
    (tmp_path / "empty/a.heic").touch()
    with pytest.raises(DataError, match=r"can be used \(1 file that is no image .*\(1 .heic\)"):
        load(tmp_path / "empty")
    for number in range(3):
        save(tmp_path / f"flat/{number}.png", draw(0, number))
    reason = r"can be used \(0.png: it lies in no class folder; and 2 more\). " + LAYOUTS
    with pytest.raises(DataError, match=reason):
        load(tmp_path / "flat")


def rename(old: str, new: str) -> Callable[[Path], Any]:
    return lambda root: (root / old).rename(root / new)


FOLDER_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "misspelt": (rename("val", "vall"), r"'vall', which is no name of a split. Did you mean 'val'"),
    "a class beside": (
        lambda r: save(r / "cat/1.png", draw(0, 50)),
        r"splits \(test, train, val\), and 'cat', which is no name of a split",
    ),
    "twice": (lambda r: shutil.copytree(r / "val", r / "dev"), "dev and val, which are both valid"),
    "no train": (lambda r: shutil.rmtree(r / "train"), "the split test, val, but none to train on"),
    "no rows": (
        lambda r: (shutil.rmtree(r / "test"), (r / "test").mkdir()),
        "the split test has no rows. Add some, or leave the split out",
    ),
    "no class in train": (
        lambda r: shutil.rmtree(r / "train/owl"),
        "the training split has no rows of class owl",
    ),
}


@pytest.mark.parametrize("name", FOLDER_FAULTS)
def test_faulty_split_folders_are_told(name: str, tmp_path: Path):
    for number, split in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "pets" / split, per_class=3, start=10 * number)
    spoil, message = FOLDER_FAULTS[name]
    spoil(tmp_path / "pets")
    for how in ("stop", "skip"):
        with pytest.raises(DataError, match=message):
            load(tmp_path / "pets", on_bad_example=how)


def test_a_folder_beside_the_splits_without_images_is_let_be(tmp_path: Path):
    for number, split in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "pets" / split, per_class=3, start=10 * number)
    (tmp_path / "pets/annotations").mkdir()
    (tmp_path / "pets/annotations/a.json").touch()
    assert len(ids(load(tmp_path / "pets"))) == 27


# Tables


def table(pets: Path, *lines: str, header: str = "path,label,split,owner") -> Path:
    good = [
        f"{name}/{number}.png,{name},{'train' if number < 6 else 'test'},o{number}"
        for name in CLASSES
        for number in range(8)
    ]
    (pets / "labels.csv").write_text("\n".join([header, *good, *lines]) + "\n", encoding="utf-8")
    return pets


TABLE_ROWS: dict[str, tuple[str, str]] = {
    "no file": ("cat/99.png,cat,train,o1", "cat/99.png: there is no such file"),
    "no label": ("cat/1.png,,train,o1", "labels.csv line 26: it has no label"),
    "no path": (",cat,train,o1", "labels.csv line 26: it has no path"),
    "no group": ("cat/1.png,cat,test, ", "labels.csv line 26: it has no owner"),
    "too short": ("cat/1.png,cat", "labels.csv line 26: it has 2 cells for 4 columns"),
    "too long": ("cat/1.png,cat,test,o1,", "labels.csv line 26: it has 5 cells for 4 columns"),
    "outside": ("../x.png,cat,train,o1", "../x.png: the path leads out of data.root (labels.csv"),
    "absolute": ("/etc/x.png,cat,train,o1", "/etc/x.png: the path leads out of data.root"),
    "a folder": ("cat,cat,train,o1", "cat: it is no regular file"),
    "split": (
        "cat/1.png,cat,tets,o1",
        "cat/1.png: unknown split 'tets' (labels.csv line 26; Did you mean 'test')",
    ),
    "no split": ("cat/1.png,cat,,o1", "cat/1.png: unknown split '' (labels.csv line 26; Allowed"),
    "null": ("cat/\0.png,cat,train,o1", "labels.csv line 26: its path has a null character"),
    "again": ("./cat/../cat/1.png,cat,train,o1", "line 26 names it again, after line 3"),
}


@pytest.mark.parametrize("name", TABLE_ROWS)
def test_bad_rows_stop_the_run_or_are_left_out(name: str, pets: Path):
    settings = {"csv": "labels.csv", "group_columns": ["owner"]}
    line, expected = TABLE_ROWS[name]
    whole = ids(load(table(pets), **settings))
    with pytest.raises(DataError) as caught:
        load(table(pets, line), **settings)
    assert "has 1 bad example: " in str(caught.value)
    assert expected in str(caught.value)
    data = load(pets, on_bad_example="skip", **settings)
    assert ids(data) == whole
    assert len(data.skipped) == 1


def test_a_file_with_two_labels_is_in_two_classes(pets: Path):
    table(pets, "cat/1.png,dog,train,o1")
    with pytest.raises(
        DataError,
        match=r"1 bad example: cat/1.png: the same image is cat here and dog in another row",
    ):
        load(pets, csv="labels.csv")
    data = load(pets, csv="labels.csv", on_bad_example="skip")
    assert "cat/1.png" not in ids(data)


TABLE_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "data.csv: there is no file '.*labels.csv'. It is looked for in"),
    "empty": (lambda t: t.write_text(""), "labels.csv: the table is empty"),
    "header alone": (lambda t: t.write_text("path,label\n"), "no image that can be used. Accepted"),
    "no UTF-8": (lambda t: t.write_bytes(b"path,label\n\xff\xfe,x"), "labels.csv: it is not UTF-8"),
    "quotes": (lambda t: t.write_text('path,label\n"x,y\n'), "can't be read as a table"),
    "header": (lambda t: t.write_text("file,label\n"), "no column 'path'. It has file, label"),
    "header twice": (lambda t: t.write_text("path,a,a\n"), "two columns are called 'a'"),
}


@pytest.mark.parametrize("name", TABLE_FAULTS)
def test_a_faulty_table_is_told(name: str, pets: Path):
    spoil, message = TABLE_FAULTS[name]
    spoil(table(pets) / "labels.csv")
    with pytest.raises(DataError, match=message):
        load(pets, csv="labels.csv")


def test_a_name_without_the_parts_of_the_pattern_is_bad(pets: Path):
    (pets / "cat/1.png").rename(pets / "cat/no.1.png")
    with pytest.raises(DataError, match=r"23 bad examples: cat/0.png: its name is not of the form"):
        load(pets, group_pattern="no.{n}")
    data = load(
        write_classes(pets, per_class=4, start=20), group_pattern="2{n}*", on_bad_example="skip"
    )
    assert data.group_columns == ("n",)
    assert len(data.skipped) == 24


def test_images_above_pillows_limit_are_bad(pets: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 14 * 15 - 1)
    with pytest.raises(DataError, match=r"3 bad examples: cat/4.png: it has more pixels than"):
        load(pets)


# Arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_of_no_bytes_is_told(suffix: str, tmp_path: Path):
    write_mnist(tmp_path, suffix)
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(b"")
    with pytest.raises(DataError, match=rf"train-labels-idx1-ubyte{suffix}: the file is empty"):
        load_data(Mnist(root=str(tmp_path)))
