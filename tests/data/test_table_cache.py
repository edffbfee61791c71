"""Large tables are written once and memory-mapped: same rows, no more memory, never out of date."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_digits
from test_idx_and_cifar import write_cifar, write_idx, write_mnist

from hf_finetune.data import idx_files, load_data, table_cache
from hf_finetune.data.cifar10 import Options as Cifar
from hf_finetune.data.corrupt_mnist import Options as CorruptMnist
from hf_finetune.data.mnist import Options as Mnist
from hf_finetune.data.tables import RowReader, column_values, select_rows
from hf_finetune.engines.batches import BatchView
from hf_finetune.errors import DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_cache, "LARGE_BYTES", 0)
    monkeypatch.setattr(idx_files, "LARGE_BYTES", 16 * 28 * 28)  # so many rows a block


def cached_files(cache: Path) -> list[Path]:
    return [path for path in sorted(cache.rglob("*")) if path.is_file()]


def write_three_kinds(folder: Path) -> dict[str, object]:
    write_mnist(folder / "mnist")
    write_cifar(folder / "cifar")
    pt = folder / "pt"
    pt.mkdir()
    for number, name in enumerate(("train_images_0", "train_images_1", "test_images")):
        images, labels = draw_digits(40, number)
        if number == 1:  # one file of values between the levels: all files become floats
            images *= np.float32(0.999)
        torch.save(torch.from_numpy(images), pt / f"{name}.pt")
        torch.save(torch.from_numpy(labels), pt / f"{name.replace('images', 'target')}.pt")
    return {
        "mnist": Mnist(root=str(folder / "mnist")),
        "cifar": Cifar(root=str(folder / "cifar")),
        "corrupt_mnist": CorruptMnist(root=str(pt)),
    }


@pytest.mark.parametrize("kind", ["mnist", "cifar", "corrupt_mnist"])
def test_a_mapped_table_has_the_rows_of_one_in_memory(
    kind: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    options = write_three_kinds(tmp_path)[kind]
    held = load_data(options)
    assert cached_files(cache) == []
    monkeypatch.setattr(table_cache, "LARGE_BYTES", 0)
    monkeypatch.setattr(idx_files, "LARGE_BYTES", 16 * 28 * 28)
    for _ in range(2):  # written, then found
        mapped = load_data(options)
        assert mapped.fingerprint == held.fingerprint
        for name, split in held.splits.items():
            other = mapped.splits[name]
            assert other.features == split.features == held.splits["train"].features
            assert other.cache_files
            assert other.data.table.column("image").num_chunks == 1
            for column in split.column_names:
                if column != "image":
                    assert column_values(other, column) == column_values(split, column)
            rows = np.random.default_rng(0).permutation(len(split))
            images = [RowReader(one, ["image"]).read(rows)["image"] for one in (split, other)]
            assert images[0].dtype == images[1].dtype
            assert np.array_equal(*images)
    assert len(cached_files(cache)) == 2


@pytest.mark.usefixtures("all_is_large")
def test_a_source_that_changed_is_read_again(tmp_path: Path, cache: Path):
    write_mnist(tmp_path / "mnist", "")
    options = Mnist(root=str(tmp_path / "mnist"))
    before = load_data(options)
    files = cached_files(cache)
    assert load_data(options).fingerprint == before.fingerprint
    assert cached_files(cache) == files
    images, _ = draw_digits(100, 5)
    write_idx(tmp_path / "mnist" / "train-images-idx3-ubyte", images * 255)
    assert load_data(options).fingerprint != before.fingerprint
    now = cached_files(cache)
    assert len(now) == 2  # what is out of date doesn't stay
    assert len(set(now) & set(files)) == 1


@pytest.mark.usefixtures("all_is_large")
def test_a_faulty_source_leaves_nothing_behind(tmp_path: Path, cache: Path):
    write_mnist(tmp_path / "mnist", "")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"promises 78,400 bytes, but 78,391 follow"):
        load_data(Mnist(root=str(tmp_path / "mnist")))
    assert cached_files(cache) == []


@pytest.mark.usefixtures("all_is_large")
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "a file").touch()
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "a file"))
    with pytest.raises(
        DataError, match=r"can't keep the 0 MB .* \(Not a directory\).*HF_FINETUNE_"
    ):
        load_data(Mnist(root=str(tmp_path / "mnist")))


@pytest.mark.usefixtures("all_is_large", "cache")
def test_a_worker_process_maps_the_file_itself(tmp_path: Path):
    folder = tmp_path / "mnist"
    write_mnist(folder)
    images, labels = draw_digits(2000, 3)
    write_idx(folder / "train-images-idx3-ubyte.gz", images * 255)
    write_idx(folder / "train-labels-idx1-ubyte.gz", labels)
    view = BatchView(load_data(Mnist(root=str(folder))).splits["train"])
    sent = pickle.dumps(view)
    assert len(sent) < 0.1 * images.size
    keys = [(0, row) for row in (3, 0, 1500)]
    assert np.array_equal(
        pickle.loads(sent).__getitems__(keys)["image"], view.__getitems__(keys)["image"]
    )


def test_rows_are_selected_as_datasets_does_it():
    train = load_data(CorruptMnist(root="samples/corruptmnist")).splits["train"]
    first, second = np.array([30, 2, 2000, 7, 7]), np.array([4, 0, 2])
    ours = select_rows(select_rows(train, first), second)
    theirs = train.select(first).select(second)
    assert ours.features == theirs.features
    assert ours["id"][:] == theirs["id"][:]
    images = [RowReader(one, ["image"]).read(np.arange(3))["image"] for one in (ours, theirs)]
    assert np.array_equal(*images)


LOAD_AND_READ = """
import sys
import numpy as np
from hf_finetune.data import idx_files, load_data, table_cache
table_cache.LARGE_BYTES = idx_files.LARGE_BYTES = 2**20
from hf_finetune.data.mnist import Options
from hf_finetune.data.preparation import pixel_statistics
from hf_finetune.data.tables import RowReader
train = load_data(Options(root=sys.argv[1])).splits["train"]
pixel_statistics(train)
reader = RowReader(train, ["image", "label"])
for rows in np.array_split(np.random.default_rng(0).permutation(len(train)), len(train) // 256):
    reader.read(rows)
"""


def peak_private_bytes(folder: Path) -> int:
    """Most memory of its own that a process held while it read a folder; mapped files apart."""
    process = subprocess.Popen([sys.executable, "-c", LOAD_AND_READ, str(folder)])
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "RssAnon:" in status:  # not once it has ended
            peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)
        time.sleep(0.005)
    assert process.returncode == 0
    return peak


@pytest.mark.usefixtures("cache")
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what a process holds")
def test_ten_times_the_rows_take_no_more_memory(tmp_path: Path):
    peaks = []
    for rows in (2_000, 20_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        for prefix in ("train", "t10k"):
            count = rows if prefix == "train" else 100
            labels = np.arange(count) % 10
            images = np.broadcast_to(labels[:, None, None].astype(np.uint8), (count, 64, 64))
            write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
            write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)
        peaks.append(peak_private_bytes(folder))
    more_pixels = 18_000 * 64 * 64
    assert peaks[1] - peaks[0] < 0.2 * more_pixels
