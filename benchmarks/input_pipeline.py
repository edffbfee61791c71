"""The way from rows to batches: milliseconds a batch, and memory, beside the usual ways.

    python benchmarks/input_pipeline.py [--root DIR] [--quick]

Three tables: batches of small images, the collator beside the processors of well-known
checkpoints, and what ten times the rows cost.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

# As the command line does; read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import datasets
import numpy as np
import pyarrow as pa
import torch
from measurement import (
    describe_machine,
    format_table,
    make_parser,
    resident_megabytes,
    take_turns,
)
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_finetune.data import LoadedData, idx_files, load_data, table_cache
from hf_finetune.data.fashion_mnist import Options
from hf_finetune.data.idx_files import read_idx
from hf_finetune.data.tables import RowReader
from hf_finetune.engines.batches import make_loader
from hf_finetune.engines.compute import settle_compute
from hf_finetune.engines.options import ComputeOptions
from hf_finetune.features import AugmentationOptions, FeatureOptions, collator_for
from hf_finetune.models.image_processing import ClassifierImageProcessor

FULL, SAMPLE = Path("data/fashion_mnist"), Path("samples/fashion_mnist")
BATCH, CHECKPOINT_BATCH = 256, 64
AUGMENTATION = AugmentationOptions(rotation_degrees=45, shift_fraction=0.1, scale_ratio=1.1)
MEAN, STD = 0.5, 0.25

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# Their classes, with the sizes, filters, means and deviations that these checkpoints are used with.
PROCESSORS: dict[str, Callable[[], Any]] = {
    "DeiT (deit-tiny-patch16-224)": partial(DeiTImageProcessorPil, **IMAGENET),
    "ViT (vit-base-patch16-224)": ViTImageProcessorPil,
    "ConvNeXt (convnext-tiny-224)": partial(
        ConvNextImageProcessorPil,
        size={"shortest_edge": 224},
        crop_pct=0.875,
        resample=3,
        **IMAGENET,
    ),
    "Swin (swin-tiny-patch4-window7-224)": partial(ViTImageProcessorPil, resample=3, **IMAGENET),
    "DINOv2 (dinov2-small)": partial(
        BitImageProcessorPil,
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=3,
        **IMAGENET,
    ),
}


class Items(Dataset[tuple[torch.Tensor, int]]):
    """One example at a time, for torch's own loader."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, augments: bool) -> None:
        self.images, self.labels, self.augments = images, labels, augments
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = self.images[row]
        if self.augments:
            angle, scale, x, y = self.random.uniform(-1, 1, 4)
            cos, sin = np.cos(0.78 * angle) / 1.1**scale, np.sin(0.78 * angle) / 1.1**scale
            start = 14 - 14 * cos + 14 * sin + 2.8 * x, 14 - 14 * sin - 14 * cos + 2.8 * y
            inverse = (cos, -sin, start[0], sin, cos, start[1])
            picture = Image.fromarray(image)
            image = np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, inverse, 2))
        return _normalise(image), int(self.labels[row])


def _normalise(image: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(image.astype(np.float32))[None] / 255 - MEAN) / STD


def _transform(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    images = [_normalise(np.array(image, np.uint8).reshape(28, 28)) for image in rows["image"]]
    return {"pixel_values": images, "label": rows["label"]}


def time_batches(loader: DataLoader[Any], count: int) -> float:
    """Seconds of some batches, once the loader has started."""
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return time.perf_counter() - start


def compare_loaders(data: LoadedData, count: int, repeats: int) -> str:
    """Milliseconds a batch of the toolkit's loader and of the usual ones."""
    small = data.splits["train"]
    split = small.select(np.resize(np.arange(len(small)), max(len(small), BATCH * (count + 1))))
    plain = RowReader(split, ["image", "label"]).read(np.arange(len(split)))
    # One list a row is the quickest layout for datasets' own formats.
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(plain["image"].reshape(-1)), 28 * 28)
    rows = datasets.Dataset(pa.table({"image": pixels, "label": plain["label"]}))
    processor = ClassifierImageProcessor(num_channels=1, image_mean=MEAN, image_std=STD)

    def ours(augmentation: AugmentationOptions) -> DataLoader[Any]:
        options = FeatureOptions(augmentation=augmentation)
        collator = collator_for(processor, options, 0, training=True)
        return make_loader(split, collator, BATCH, seed=0, shuffle=True)

    def items(augments: bool) -> Items:
        return Items(plain["image"], plain["label"], augments)

    usual = partial(DataLoader, batch_size=BATCH, shuffle=True)
    loaders = {
        "hf_finetune": ours(AugmentationOptions()),
        "hf_finetune, rotated, shifted, scaled": ours(AUGMENTATION),
        "torch dataset, item by item": usual(items(False)),
        "torch dataset, item by item, Pillow's affine": usual(items(True)),
        "datasets, torch format": usual(rows.with_format("torch", dtype=torch.uint8)),
        "datasets, with_transform": usual(rows.with_transform(_transform)),
    }
    clocks = {name: partial(time_batches, loader, count) for name, loader in loaders.items()}
    turns = take_turns(clocks, repeats)
    first, augmented, *_ = loaders
    table = []
    for name in loaders:
        own = augmented if "affine" in name or name == augmented else first
        ratio = turns.times_as_fast(own, name)
        table.append([name, f"{1000 * turns.median(name) / count:.2f}", f"{ratio:.1f}"])
    return format_table([f"batches of {BATCH}, shuffled", "ms a batch", "/ ours"], table)


def compare_processors(images: np.ndarray, repeats: int) -> str:
    """Milliseconds of the collator and of the processors that it stands in for."""
    batch = images[:CHECKPOINT_BATCH]
    coloured = [np.stack([image] * 3, axis=-1) for image in batch]
    table = []
    for name, make_processor in PROCESSORS.items():
        processor = make_processor()
        collator = collator_for(processor, FeatureOptions(), 0, training=False)
        turns = take_turns(
            {
                "ours": partial(_time_call, collator, {"image": batch}),
                "theirs": partial(_time_call, processor, coloured, return_tensors="pt"),
            },
            repeats,
        )
        ours = collator({"image": batch})["pixel_values"]
        theirs = processor(coloured, return_tensors="pt")["pixel_values"]
        levels = torch.tensor(processor.image_std)[:, None, None] / processor.rescale_factor
        apart = ((ours - theirs) * levels).abs().max().item()
        numbers = [1000 * turns.median(way) for way in ("theirs", "ours")]
        ratio = turns.times_as_fast("ours", "theirs")
        table.append([name, *(f"{n:.1f}" for n in numbers), f"{ratio:.0f}", f"{apart:.4f}"])
    header = [f"{CHECKPOINT_BATCH} images, 28 to 224", "its own, ms", "collator, ms", "ratio"]
    return format_table([*header, "levels apart"], table)


def _time_call(function: Callable[..., Any], *arguments: Any, **more: Any) -> float:
    start = time.perf_counter()
    function(*arguments, **more)
    return time.perf_counter() - start


def compare_sizes(root: Path, times: int, num_batches: int, num_loads: int) -> str:
    """Start, speed and memory at some rows and at so many times as many."""
    with tempfile.TemporaryDirectory() as place:
        table = []
        for factor, limit in ((1, None), (1, 0), (times, 0)):
            folder = Path(place) / f"fashion-{factor}"
            write_repeated(root, folder, factor)
            loads = range(num_loads)
            facts = [_in_new_process(folder, place, limit, num_batches) for _ in loads]
            rows, _, speed, private, mapped = facts[-1]
            first, last = (f"{one[1]:.1f}" for one in (facts[0], facts[-1]))
            kind = "in memory" if limit is None else "mapped"
            table.append([f"{rows:,} rows, {kind}", first, last])
            table[-1] += [f"{1000 * speed:.2f}", f"{private:.0f}", f"{mapped:.0f}"]
    header = ["Fashion-MNIST", "first load, s", "next load, s", "ms a batch"]
    return format_table([*header, "own memory, MB", "mapped file, MB"], table)


def write_repeated(root: Path, folder: Path, times: int) -> None:
    """The idx files of a folder, with their training rows so many times over."""
    folder.mkdir(exist_ok=True)
    for path in root.glob("*.gz"):
        rows = read_idx(path, axes=3 if "images" in path.name else 1)
        repeats = times if path.name.startswith("train") else 1
        with (folder / path.stem).open("wb") as file:
            shape = (len(rows) * repeats, *rows.shape[1:])
            file.write(bytes([0, 0, 8, rows.ndim]) + struct.pack(f">{rows.ndim}I", *shape))
            for _ in range(repeats):
                file.write(rows.data)


def _in_new_process(*arguments: Any) -> tuple[float, ...]:
    spawn = multiprocessing.get_context("spawn")  # a fork would begin with this one's memory
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(read_table, *arguments).result()


def read_table(
    folder: Path, cache: str, limit: int | None, num_batches: int
) -> tuple[float, float, float, float, float]:
    """Rows, seconds to load, seconds a batch; growth in MB of own memory, and of mapped files."""
    os.environ["HF_FINETUNE_CACHE"] = cache
    if limit is not None:
        table_cache.LARGE_BYTES = limit
        idx_files.LARGE_BYTES = 2**24
    own, mapped = resident_megabytes()
    start = time.perf_counter()
    split = load_data(Options(root=str(folder))).splits["train"]
    seconds = time.perf_counter() - start
    processor = ClassifierImageProcessor(num_channels=1, image_mean=MEAN, image_std=STD)
    collator = collator_for(processor, FeatureOptions(), 0, training=True)
    loader = make_loader(split, collator, BATCH, seed=0, shuffle=True)
    speed = statistics.median(_batch_seconds(loader, num_batches))
    own_now, mapped_now = resident_megabytes()
    return len(split), seconds, speed, own_now - own, mapped_now - mapped


def _batch_seconds(loader: DataLoader[Any], count: int) -> Iterator[float]:
    batches = iter(loader)
    for _ in range(min(count, len(loader))):
        yield _time_call(next, batches)


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder with the full Fashion-MNIST, gzipped")
    arguments = parser.parse_args()
    root = arguments.root or (FULL if FULL.is_dir() and not arguments.quick else SAMPLE)
    data = load_data(Options(root=str(root)))
    settle_compute(ComputeOptions())  # threads as in a run
    images = read_idx(root / "t10k-images-idx3-ubyte.gz", axes=3)
    count, repeats, images_repeats, *sizes = (
        (2, 1, 1, 2, 4, 1) if arguments.quick else (50, 5, 21, 10, 300, 2)
    )
    print(f"Input pipeline: images of {root}; {describe_machine()}\n")
    print(compare_loaders(data, count, repeats) + "\n")
    print(compare_processors(images, images_repeats) + "\n")
    print(compare_sizes(root, *sizes))


if __name__ == "__main__":
    main()
