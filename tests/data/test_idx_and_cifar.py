"""MNIST, Fashion-MNIST and CIFAR-10: every layout of their files, and every fault."""

from __future__ import annotations

import gzip
import hashlib
import runpy
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_digits

from hf_finetune.data import load_data
from hf_finetune.data.cifar10 import Options as Cifar
from hf_finetune.data.fashion_mnist import Options as Fashion
from hf_finetune.data.mnist import Options as Mnist
from hf_finetune.data.tables import RowReader
from hf_finetune.errors import DataError


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, suffix: str = ".gz", dot: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (prefix, rows) in enumerate({"train": 100, "t10k": 30}.items()):
        images, labels = draw_digits(rows, seed)
        joint = "." if dot else "-"
        write_idx(folder / f"{prefix}-images{joint}idx3-ubyte{suffix}", images * 255)
        write_idx(folder / f"{prefix}-labels{joint}idx1-ubyte{suffix}", labels)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        *((options, place) for options in (Mnist, Fashion) for place in (".", "raw")),
        (Mnist, "MNIST/raw"),
        (Fashion, "FashionMNIST/raw"),
    ],
)
def test_idx_files_are_found_and_read(options: Any, place: str, suffix: str, tmp_path: Path):
    write_mnist(tmp_path / place, suffix, dot=place == "raw")
    data = load_data(options(root=str(tmp_path)))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 85,
        "validation": 15,
        "test": 30,
    }
    images, labels = draw_digits(30, 1)
    rows = RowReader(data.splits["test"], ["image", "label"]).read(np.arange(30))
    assert rows["image"].dtype == np.uint8
    assert np.array_equal(rows["image"], (images * 255).astype(np.uint8))
    assert np.array_equal(rows["label"], labels)
    assert data.splits["test"]["id"][3] == "t10k-images/3"
    assert data.label_names[9] == ("9" if options is Mnist else "Ankle boot")


def test_torchvisions_folders_beside_each_other_are_told_apart(tmp_path: Path):
    for rows, name in enumerate(("FashionMNIST", "KMNIST", "MNIST"), start=100):
        for prefix in ("train", "t10k"):
            folder = tmp_path / name / "raw"
            folder.mkdir(parents=True, exist_ok=True)
            images, labels = draw_digits(rows, 0)
            write_idx(folder / f"{prefix}-images-idx3-ubyte", images * 255)
            write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
    for options, rows in ((Fashion, 100), (Mnist, 102)):
        assert len(load_data(options(root=str(tmp_path))).splits["test"]) == rows
    (tmp_path / "MNIST").rename(tmp_path / "QMNIST")
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte.*hf-finetune download mnist"):
        load_data(Mnist(root=str(tmp_path)))


def test_images_and_labels_come_from_one_place(tmp_path: Path):
    write_mnist(tmp_path / "raw")
    write_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="has no train-labels-idx1-ubyte"):
        load_data(Mnist(root=str(tmp_path)))


def test_the_true_files_are_read(shared_data: Path):
    for options, folder in ((Mnist, "mnist"), (Fashion, "fashion-mnist")):
        data = load_data(options(root=str(shared_data / folder)))
        assert sum(len(split) for split in data.splits.values()) == 70_000
        assert len(data.splits["test"]) == 10_000
    rows = RowReader(data.splits["test"], ["label"]).read(np.arange(10_000))["label"]
    assert np.bincount(rows).tolist() == [1000] * 10


def test_the_sample_is_what_its_page_says():
    folder = Path("samples/fashion_mnist")
    page = (folder / "README.md").read_text()
    files = sorted(folder.glob("*.gz"))
    assert len(files) == 4
    for path in files:
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" in page
    data = load_data(Fashion(root=str(folder)))
    assert (sum(data.class_counts), len(data.splits["test"])) == (1700, 1000)


def test_the_sample_is_made_from_the_full_files(shared_data: Path, tmp_path: Path):
    script = runpy.run_path("scripts/make_samples.py")
    script["make_fashion_mnist"](shared_data / "fashion-mnist", tmp_path)
    for path in Path("samples/fashion_mnist").glob("*.gz"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))  # type: ignore[func-returns-value]


IDX_FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing": ("", lambda root: (root / "t10k-labels-idx1-ubyte").unlink(), "no t10k-labels"),
    "wrong magic": (
        "",
        spoil("train-images-idx3-ubyte", lambda old: b"\x00\x00\x0d\x03" + old[4:]),
        "it begins with 00 00 0d 03",
    ),
    "labels for images": (
        "",
        lambda root: write_idx(root / "train-images-idx3-ubyte", np.zeros(100)),
        "no idx file of bytes on 3 axes",
    ),
    "truncated": ("", spoil("train-images-idx3-ubyte", lambda old: old[:-9]), "promises 78,400"),
    "short header": (
        "",
        spoil("train-images-idx3-ubyte", lambda old: old[:9]),
        "within its header",
    ),
    "unequal": (
        "",
        lambda root: write_idx(root / "train-labels-idx1-ubyte", np.zeros(99)),
        "99 labels for 100 images",
    ),
    "label out of range": (
        "",
        lambda root: write_idx(root / "train-labels-idx1-ubyte", np.full(100, 10)),
        "label 10 in row 0 is out of range",
    ),
    "no rows": (
        "",
        lambda root: write_idx(root / "train-images-idx3-ubyte", np.zeros((0, 28, 28))),
        "it holds no rows",
    ),
    "corrupt gzip": (
        ".gz",
        spoil("train-images-idx3-ubyte.gz", lambda old: old[:50] + bytes(40) + old[90:]),
        "the gzip file is corrupt",
    ),
    "cut gzip": (".gz", spoil("train-images-idx3-ubyte.gz", lambda old: old[:90]), "corrupt"),
    "no gzip": (".gz", spoil("train-images-idx3-ubyte.gz", lambda old: b"<html>"), "corrupt"),
}


@pytest.mark.parametrize("name", IDX_FAULTS)
def test_a_faulty_idx_file_is_one_clear_error(name: str, tmp_path: Path):
    suffix, change, expected = IDX_FAULTS[name]
    write_mnist(tmp_path, suffix)
    change(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(Mnist(root=str(tmp_path)))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path):
    for options in (Mnist, Fashion, Cifar):
        with pytest.raises(DataError, match="there is no folder"):
            load_data(options(root=str(tmp_path / "nowhere")))
    with pytest.raises(DataError, match="it is empty"):
        load_data(Mnist(root=str(tmp_path)))


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_cifar(folder: Path) -> np.ndarray:
    """Six files of 30 records; returns the planes of the first, uint8 `[30, 3, 32, 32]`."""
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    generator = np.random.default_rng(0)
    first = None
    for name in [*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]:
        planes = generator.integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)
        first = planes if first is None else first
        labels = (np.arange(30) % 10).astype(np.uint8)
        records = np.concatenate([labels[:, None], planes.reshape(30, -1)], axis=1)
        (folder / name).write_bytes(records.tobytes())
    assert first is not None
    return first


@pytest.mark.parametrize("named", [True, False])
def test_cifar_is_read(named: bool, tmp_path: Path):
    planes = write_cifar(tmp_path / "cifar-10-batches-bin")
    data = load_data(Cifar(root=str(tmp_path if named else tmp_path / "cifar-10-batches-bin")))
    assert data.label_names == tuple(NAMES)
    assert (data.image_shape.height, data.image_shape.channels) == (32, 3)
    train = data.splits["train"]
    row = train["id"].index("data_batch_1.bin/7") if "data_batch_1.bin/7" in train["id"] else None
    split = train if row is not None else data.splits["validation"]
    row = split["id"].index("data_batch_1.bin/7")
    image = RowReader(split, ["image"]).read(np.array([row]))["image"][0]
    assert np.array_equal(image, planes[7].transpose(1, 2, 0))
    assert split[row]["label"] == 7


def test_faulty_cifar_files_are_named(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-bin"
    write_cifar(folder)
    path = folder / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin: 92,189 bytes are no whole number"):
        load_data(Cifar(root=str(tmp_path)))
    path.write_bytes(bytes([77]) + whole[1:])
    with pytest.raises(DataError, match="label 77 in row 0"):
        load_data(Cifar(root=str(tmp_path)))
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing. .*hf-finetune download ci"):
        load_data(Cifar(root=str(tmp_path)))


def test_the_pickled_cifar_is_refused_by_name(tmp_path: Path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"x")
    for root in (tmp_path, folder):
        with pytest.raises(DataError, match=r"-py is the pickled version.*download cifar10"):
            load_data(Cifar(root=str(root)))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", b"cat dog"])
def test_names_of_other_classes_than_cifars_are_told(content: bytes, tmp_path: Path):
    write_cifar(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin/batches.meta.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"batches.meta.txt: it holds \d class names, expected 10"):
        load_data(Cifar(root=str(tmp_path)))


def test_colour_images_train(tmp_path: Path, make_config: Callable[..., Any]):
    from hf_finetune.finetuning import finetune

    write_cifar(tmp_path / "cifar-10-batches-bin")
    data = {"name": "cifar", "root": str(tmp_path)}
    result = finetune(make_config(data=data, train__num_train_epochs=1), quiet=True)
    assert result.metrics["test"]["num_examples"] == 30
