"""The course's corrupted MNIST (DTU MLOps): rotated digits, one angle and so one group a file.

Layouts: `train_images_<i>.pt` with `train_target_<i>.pt` (any number) and `test_images.pt` with
`test_target.pt`; or the older `train_<i>.npz` (keys `images`, `labels`) and `test.npz`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions
from hf_finetune.errors import DataError

if TYPE_CHECKING:
    import datasets

    from hf_finetune.data.table_cache import Rows

LABEL_NAMES = tuple("0123456789")
_TRAIN_FILE = {
    "pt": re.compile(r"^train_images_(0|[1-9]\d*)\.pt$"),
    "npz": re.compile(r"^train_(0|[1-9]\d*)\.npz$"),
}
_HOW_TO_GET = (
    "Download it with: hf-finetune download corrupt_mnist, or use the sample that comes with the "
    "toolkit: data.root=samples/corruptmnist"
)


class Options(DataOptions):
    """Options of the corrupted MNIST."""

    name: Literal["corrupt_mnist"] = "corrupt_mnist"
    root: str = "data/corruptmnist"
    """Folder with train_images_0.pt and its like, or train_0.npz and its like."""
    layout: Literal["auto", "pt", "npz"] = "auto"
    """Which of the two layouts to read where a folder has both."""


def load(options: Options) -> datasets.DatasetDict:
    """Reads every training file and the test file.

    Returns:
        `train` and `test` with the columns `id` (`train_images_0.pt/17`), `file` (the group),
        `image` (uint8 `[28][28]`, or float32 where the values are not whole levels) and `label`.

    Raises:
        DataError: A file is missing, unreadable, not what its name says, or inconsistent.
    """
    from datasets import DatasetDict

    from hf_finetune.data.table_cache import LARGE_BYTES, load_table

    root = Path(options.root)
    layout = _find_layout(root, options.layout)
    names = _list_parts(root, layout)
    every = [name for members in names.values() for name in members]
    files = [path for name in every for path in _files_of(root, layout, name)]
    missing = [path for path in files if not path.exists()]
    if missing and layout == "pt":  # the other can't be downloaded any more
        raise DataError(f"data.root: {missing[0]} is missing. {_HOW_TO_GET}")
    num_bytes = sum(_size_as_levels(root / name) for name in every)
    read: Callable[[str], Rows] = partial(_read_part, root, layout)
    if num_bytes <= LARGE_BYTES:
        read = cache(read)  # the rows of all files are held anyway: read each once
    splits = {}
    for split, members in names.items():
        # Every file has a say in the type of the pixels; the split's own come first in its key.
        sources = [*members, *(name for name in every if name not in members)]
        splits[split] = load_table(
            partial(_read_alike, read, members, every),
            LABEL_NAMES,
            [path for name in sources for path in _files_of(root, layout, name)],
            num_bytes,
        )
    return DatasetDict(splits)


def _find_layout(root: Path, wanted: str) -> str:
    """`pt` or `npz`, by what the folder holds."""
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {str(root)!r}. {_HOW_TO_GET}")
    names = [path.name for path in root.iterdir()]
    found = [layout for layout, pattern in _TRAIN_FILE.items() if any(map(pattern.match, names))]
    if wanted != "auto" and wanted not in found:
        raise DataError(f"data.layout: {str(root)!r} holds no {wanted} training files.")
    if wanted != "auto":
        return wanted
    if len(found) == 2:
        raise DataError(
            f"data.root: {str(root)!r} holds both .pt and .npz training files. "
            "Say which to read with data.layout: pt or data.layout: npz"
        )
    if found:
        return found[0]
    if any(name.endswith(".npy") for name in names):
        from hf_finetune.data.array_files import NPY_ADVICE

        raise DataError(
            f"data.root: {str(root)!r} holds .npy files of pickled objects. {NPY_ADVICE}"
        )
    content = "it is empty" if not names else f"it holds {', '.join(sorted(names)[:3])}, …"
    raise DataError(
        f"data.root: {str(root)!r} has no train_images_0.pt and no train_0.npz ({content}). "
        f"{_HOW_TO_GET}"
    )


def _list_parts(root: Path, layout: str) -> dict[str, list[str]]:
    """File names by split, training files in the order of their numbers."""
    matches = [_TRAIN_FILE[layout].match(path.name) for path in root.iterdir()]
    numbers = sorted(int(match[1]) for match in matches if match)
    if layout == "pt":
        return {"train": [f"train_images_{i}.pt" for i in numbers], "test": ["test_images.pt"]}
    return {"train": [f"train_{i}.npz" for i in numbers], "test": ["test.npz"]}


def _files_of(root: Path, layout: str, name: str) -> tuple[Path, ...]:
    """The files of a part: its images, and its labels where they lie apart."""
    if layout == "npz":
        return (root / name,)
    return root / name, root / name.replace("images", "target")


def _size_as_levels(path: Path) -> int:
    """About how many bytes a file's images are as uint8; they lie there as floats."""
    size = path.stat().st_size if path.is_file() else 0
    return size // (4 if path.suffix == ".pt" else 8)


def _read_part(root: Path, layout: str, name: str) -> Rows:
    from hf_finetune.data.array_files import check_images, check_labels, read_npz, read_pt
    from hf_finetune.data.table_cache import Rows

    paths = _files_of(root, layout, name)
    if layout == "pt":
        images, labels = map(read_pt, paths)
    else:
        images, labels = read_npz(paths[0], ("images", "labels")).values()
    images = check_images(paths[0], images)
    labels = check_labels(paths[-1], labels, len(images), len(LABEL_NAMES))
    ids = [f"{name}/{row}" for row in range(len(labels))]
    return Rows(images, labels, {"id": ids, "file": [name] * len(labels)})


def _kind_of_images(rows: Rows) -> tuple[tuple[int, ...], str]:
    """Size and type; the rows themselves are let go."""
    return rows.images.shape[1:], rows.images.dtype.name


def _read_alike(
    read: Callable[[str], Rows], names: Sequence[str], every: Sequence[str]
) -> Iterator[Rows]:
    """Parts by name; where one of `every` part needs floats, all are floats.

    Raises:
        DataError: The parts' images differ in size.
    """
    kinds = {name: _kind_of_images(read(name)) for name in every}
    sizes = {size: name for name, (size, _) in kinds.items()}
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {h}x{w}" for (h, w), name in sizes.items())
        raise DataError(f"data.root: the images of the files differ in size ({listed}).")
    mixed = len({dtype for _, dtype in kinds.values()}) > 1
    for name in names:
        rows = read(name)
        if mixed and rows.images.dtype == "uint8":
            rows = replace(rows, images=rows.images.astype("float32") / 255)
        yield rows
