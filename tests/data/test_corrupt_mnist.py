"""Every layout of the corrupted MNIST, and every way in which its files can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_digits
from datasets import ClassLabel, Dataset, DatasetDict

from hf_finetune.data import load_data
from hf_finetune.data.corrupt_mnist import Options, load
from hf_finetune.data.tables import RowReader
from hf_finetune.errors import DataError


def read_all(split: Dataset) -> dict[str, np.ndarray]:
    return RowReader(split, ["image", "label"]).read(np.arange(len(split)))


def test_the_sample_is_real_and_whole():
    data = load_data(Options(root="samples/corruptmnist"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 3500,
        "validation": 700,
        "test": 1000,
    }
    assert min(data.class_counts) > 250
    size = sum(path.stat().st_size for path in Path("samples/corruptmnist").iterdir())
    assert size < 1_600_000


def test_pt_rows_equal_the_files(digits_root: Path):
    given = load(Options(root=str(digits_root)))
    assert isinstance(given, DatasetDict)
    assert type(given["train"]) is Dataset
    assert isinstance(given["train"].features["label"], ClassLabel)
    rows = read_all(given["train"])
    images = np.concatenate([draw_digits(50, number)[0] for number in range(3)])
    assert rows["image"].dtype == np.uint8
    assert np.array_equal(rows["image"].astype(np.float32) / np.float32(255), images)
    assert given["train"]["id"][50] == "train_images_1.pt/0"
    assert given["train"][120]["file"] == "train_images_2.pt"


def test_files_are_taken_in_the_order_of_their_numbers(digits_root: Path):
    for part in ("images", "target"):
        (digits_root / f"train_{part}_2.pt").rename(digits_root / f"train_{part}_10.pt")
    files = load(Options(root=str(digits_root)))["train"].unique("file")
    assert files == ["train_images_0.pt", "train_images_1.pt", "train_images_10.pt"]


def test_npz_gives_the_same_rows(digits_root: Path, tmp_path: Path):
    root = tmp_path / "npz"
    root.mkdir()
    for number in range(3):
        images, labels = draw_digits(50, number)
        # The course's older files: float64, and a stray third key.
        np.savez(
            root / f"train_{number}.npz",
            images=images.astype(np.float64),
            labels=labels,
            stray=np.array(False),
        )
    images, labels = draw_digits(40, 9)
    np.savez(root / "test.npz", images=images.astype(np.float64), labels=labels)
    from_npz, from_pt = (load(Options(root=str(folder))) for folder in (root, digits_root))
    for split in ("train", "test"):
        for column, values in read_all(from_pt[split]).items():
            assert np.array_equal(read_all(from_npz[split])[column], values)


def test_fractions_of_levels_stay_floats(digits_root: Path):
    images = torch.rand(50, 28, 28)
    torch.save(images, digits_root / "train_images_0.pt")
    rows = read_all(load(Options(root=str(digits_root)))["train"])
    assert rows["image"].dtype == np.float32
    assert np.array_equal(rows["image"][:50], images.numpy())


def test_a_channel_axis_and_whole_levels_are_understood(digits_root: Path):
    expected = read_all(load(Options(root=str(digits_root)))["train"])
    images = torch.load(digits_root / "train_images_0.pt", weights_only=True)
    levels = (images * 255).round().to(torch.uint8)
    torch.save(levels[:, None], digits_root / "train_images_0.pt")
    found = read_all(load(Options(root=str(digits_root)))["train"])
    assert np.array_equal(found["image"], expected["image"])


def test_full_data_is_read(shared_data: Path):
    data = load_data(Options(root=str(shared_data / "corruptmnist")))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 25000,
        "validation": 5000,
        "test": 5000,
    }


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save(name: str, value: Any) -> Callable[[Path], None]:
    return lambda root: torch.save(value, root / name)


def make_pointer(root: Path) -> None:
    (root / "train_images_1.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 15680000\n"
    )


class Pickled:
    pass


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing labels": (
        lambda root: (root / "train_target_1.pt").unlink(),
        "train_target_1.pt is missing. Download it with: hf-finetune download corrupt_mnist",
    ),
    "missing test": (lambda root: (root / "test_images.pt").unlink(), "test_images.pt is missing"),
    "truncated": (lambda root: truncate(root / "train_images_1.pt"), "truncated"),
    "empty file": (lambda root: (root / "test_target.pt").write_bytes(b""), "the file is empty"),
    "pointer": (make_pointer, "Git LFS pointer"),
    "pickled": (save("train_images_1.pt", Pickled()), "pickled Python objects"),
    "no tensor": (save("train_images_1.pt", {"a": torch.ones(2)}), "expected one tensor, got dict"),
    "unequal count": (save("train_target_1.pt", torch.zeros(49, dtype=torch.int64)), "49 labels"),
    "label out of range": (
        save("train_target_1.pt", torch.full((50,), 10)),
        "label 10 in row 0 is out of range (50 such rows). Allowed: 0 to 9",
    ),
    "negative label": (save("train_target_1.pt", torch.full((50,), -1)), "label -1 in row 0"),
    "float labels": (save("train_target_1.pt", torch.zeros(50)), "labels are float32"),
    "NaN": (
        save("train_images_1.pt", torch.full((50, 28, 28), torch.nan)),
        "50 images hold NaN or infinite pixels, the first in row 0",
    ),
    "out of range pixels": (save("train_images_1.pt", torch.full((50, 28, 28), -3.0)), "from -3"),
    "no rows": (save("train_images_1.pt", torch.ones(0, 28, 28)), "shape [0, 28, 28]"),
    "wrong axes": (save("train_images_1.pt", torch.ones(50, 784)), "shape [50, 784]"),
    "unequal sizes": (save("train_images_1.pt", torch.ones(50, 20, 20)), "differ in size"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_one_clear_error(name: str, digits_root: Path):
    spoil, expected = FAULTS[name]
    spoil(digits_root)
    with pytest.raises(DataError) as caught:
        load_data(Options(root=str(digits_root)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_foreign_folder_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="there is no folder"):
        load(Options(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="it is empty"):
        load(Options(root=str(tmp_path)))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"it holds notes.txt"):
        load(Options(root=str(tmp_path)))


def test_pickled_npy_is_refused_unopened(tmp_path: Path):
    np.save(tmp_path / "train_images.npy", np.array([Pickled()], dtype=object))
    with pytest.raises(DataError, match="can run code"):
        load(Options(root=str(tmp_path)))


def test_pickled_npz_is_refused_unopened(tmp_path: Path):
    np.savez(tmp_path / "train_0.npz", images=np.array([Pickled()], object), labels=np.zeros(1))
    with pytest.raises(DataError, match="pickled objects"):
        load(Options(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "truncated"),
        (lambda path: np.savez(path, labels=np.zeros(3, int)), "has no images, only labels"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "an .npy file under another name"),
    ],
)
def test_a_faulty_npz_is_one_clear_error(spoil: Any, expected: str, tmp_path: Path):
    images, labels = draw_digits(20, 0)
    for name in ("train_0.npz", "train_1.npz", "test.npz"):
        np.savez(tmp_path / name, images=images, labels=labels)
    spoil(tmp_path / "train_1.npz")
    with pytest.raises(DataError, match=expected):
        load(Options(root=str(tmp_path)))


def test_two_layouts_at_once_must_be_chosen_between(digits_root: Path):
    images, labels = draw_digits(20, 0)
    for name in ("train_0.npz", "test.npz"):
        np.savez(digits_root / name, images=images, labels=labels)
    with pytest.raises(DataError, match="holds both"):
        load(Options(root=str(digits_root)))
    assert len(load(Options(root=str(digits_root), layout="npz"))["train"]) == 20
    assert len(load(Options(root=str(digits_root), layout="pt"))["train"]) == 150


def test_the_sample_is_what_its_page_says():
    import hashlib

    folder = Path("samples/corruptmnist")
    page = (folder / "README.md").read_text()
    files = sorted(folder.glob("*.pt"))
    assert len(files) == 14
    for path in files:
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in page


def test_the_sample_is_made_from_the_full_files(shared_data: Path, tmp_path: Path):
    import runpy

    script = runpy.run_path("scripts/make_samples.py")
    script["make_corruptmnist"](shared_data / "corruptmnist", tmp_path)
    for path in Path("samples/corruptmnist").glob("*.pt"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_the_sample_is_not_made_from_other_files(tmp_path: Path):
    import runpy

    script = runpy.run_path("scripts/make_samples.py")
    for name in script["SOURCE_SHA256"]["corruptmnist"]:
        torch.save(torch.zeros(3), tmp_path / name)
    with pytest.raises(SystemExit, match="its SHA-256 is"):
        script["make_corruptmnist"](tmp_path, tmp_path / "out")
