"""Reads arrays of images and labels from `.pt` and `.npz` files; says what is wrong with a file.

Nothing here ever unpickles: a file that needs it is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np

from hf_finetune.errors import DataError

_LFS_MARK = b"version https://git-lfs"
_NPY_MARK = b"\x93NUMPY"
NPY_ADVICE = (
    "Files that need unpickling are not read, because unpickling can run code. Take the .pt "
    "or the .npz generation of the data set."
)


def require_file(path: Path) -> Path:
    """The path, if a real file with content lies there.

    Raises:
        DataError: It is missing, empty, or a Git LFS pointer.
    """
    if not path.is_file():
        raise DataError(f"data.root: {path} is missing.")
    with path.open("rb") as file:
        start = file.read(len(_LFS_MARK))
    if not start:
        raise DataError(f"{path}: the file is empty. Copy it again.")
    if start == _LFS_MARK:
        raise DataError(
            f"{path}: this is a Git LFS pointer, a short text that stands for the file, not the "
            "file itself. Fetch the content with: git lfs pull"
        )
    return path


def read_pt(path: Path) -> np.ndarray:
    """The tensor of a `.pt` file, read with `weights_only=True`.

    Raises:
        DataError: The file is missing, truncated, pickled otherwise, or holds no tensor.
    """
    import torch

    require_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: it holds pickled Python objects, which are not loaded because they can run "
            "code. Save the tensor alone: torch.save(tensor, path)"
        ) from error
    except Exception as error:  # torch's readers raise whatever a broken file leads them to
        raise DataError(
            f"{path}: it can't be read; it is truncated or no .pt file. Copy it again."
        ) from error
    if not isinstance(content, torch.Tensor):
        raise DataError(f"{path}: expected one tensor, got {type(content).__name__}.")
    content = content.detach().to_dense()
    if content.dtype is torch.bfloat16:  # NumPy has no such type; every value fits float32
        content = content.float()
    array: np.ndarray = content.numpy()
    return array


def read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Arrays of an `.npz` file by key; other keys are left alone.

    Raises:
        DataError: The file is missing, truncated, lacks a key, or needs unpickling.
    """
    require_file(path)
    with path.open("rb") as file:
        if file.read(len(_NPY_MARK)) == _NPY_MARK:
            raise DataError(f"{path}: this is an .npy file under another name. {NPY_ADVICE}")
    try:
        # Opened here, since NumPy leaves its own file open when the archive is broken.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise DataError(
                    f"{path}: it has no {' and no '.join(missing)}, "
                    f"only {', '.join(archive.files) or 'nothing'}."
                )
            return {key: archive[key] for key in keys}
    except ValueError as error:
        if "pickle" not in str(error):
            raise DataError(f"{path}: it can't be read ({error}). Copy it again.") from error
        raise DataError(f"{path}: its arrays are pickled objects. {NPY_ADVICE}") from error
    except (OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{path}: it can't be read; it is truncated or no .npz file. Copy it again."
        ) from error


def check_images(path: Path, images: np.ndarray) -> np.ndarray:
    """Brings images to `[rows, height, width]`, as uint8 wherever that loses nothing.

    Args:
        path: The file, for messages.
        images: `[rows, height, width]` or `[rows, 1, height, width]`; 0…1 as floats, or 0…255.

    Returns:
        uint8 0…255, where every value is a whole level; else float32 0…1.

    Raises:
        DataError: Wrong axes, no rows, NaN or infinite values, or values outside both ranges.
    """
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3 or 0 in images.shape:
        raise DataError(
            f"{path}: images have the shape {list(images.shape)}. Expected [rows, height, width]."
        )
    if images.dtype == np.uint8:
        return images
    if not (np.issubdtype(images.dtype, np.floating) or np.issubdtype(images.dtype, np.integer)):
        raise DataError(f"{path}: images are {images.dtype}. Expected float32 0…1 or uint8 0…255.")
    faulty = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2)))
    if len(faulty):
        raise DataError(
            f"{path}: {len(faulty)} images hold NaN or infinite pixels, the first in row "
            f"{faulty[0]}. Mend or remove them."
        )
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        raise DataError(f"{path}: pixels run from {low:g} to {high:g}. Expected 0…1 or 0…255.")
    scale = 255.0 if high <= 1 and np.issubdtype(images.dtype, np.floating) else 1.0
    levels = np.rint(images * scale).astype(np.uint8)
    restored = levels.astype(np.float32) / np.float32(scale)
    if np.array_equal(restored, images.astype(np.float32)):
        return levels
    if scale == 1.0:
        raise DataError(
            f"{path}: pixels run from {low:g} to {high:g} with fractions. Expected 0…1 or whole "
            "levels 0…255."
        )
    return images.astype(np.float32)


def check_labels(path: Path, labels: np.ndarray, rows: int, num_classes: int) -> np.ndarray:
    """Brings labels to int64 `[rows]`.

    Raises:
        DataError: Wrong axes or type, another count than `rows`, or a label out of range.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: labels are {labels.dtype} of the shape {list(labels.shape)}. "
            "Expected whole numbers [rows]."
        )
    if len(labels) != rows:
        raise DataError(f"{path}: {len(labels)} labels for {rows} images. The counts must agree.")
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise DataError(
            f"{path}: label {labels[outside[0]]} in row {outside[0]} is out of range "
            f"({len(outside)} such rows). Allowed: 0 to {num_classes - 1}."
        )
    return labels.astype(np.int64)
