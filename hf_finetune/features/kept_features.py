"""Keeps what a model's frozen part makes of each clip, and makes batches of it.

Every clip goes through that part once, alone; the features lie in the user's cache folder and
are memory-mapped from then on. `keeping` (above the rooms) says when; the collator here stands in
for the audio collator, and gives the same columns.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_finetune.data.cache_folder import cache_folder
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError
from hf_finetune.features.audio import AudioCollator
from hf_finetune.features.clip_lengths import common_width
from hf_finetune.progress_bar import progress_bar

if TYPE_CHECKING:
    from hf_finetune.models.frozen_backbone import FrozenBackbone
    from hf_finetune.models.frozen_part import FrozenPart

_FORMAT = 1  # raise it where the same clips are to become other features
_FEATURES, _INDEX = "features.bin", "index.npz"
_UNUSED_SECONDS = 30 * 24 * 3600  # after which features are removed
_PLAIN = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.uint16}

Stretch = tuple[Tensor, int]
"""Features `[frames, channels]` of a part of a clip, and the samples that it was made of."""


@dataclass(frozen=True)
class KeptFeatures:
    """The kept features of a split.

    Attributes:
        folder: Where they lie.
        dtype: float32, bfloat16 or float16.
        num_channels: Numbers in a frame.
    """

    folder: Path
    dtype: torch.dtype
    num_channels: int

    def __getstate__(self) -> dict[str, Any]:
        # Sent to a worker process: it maps the file itself.
        return {name: getattr(self, name) for name in ("folder", "dtype", "num_channels")}

    @cached_property
    def _index(self) -> dict[str, NDArray[np.int64]]:
        """`rows` `[N + 1]`: first stretch of each row; `starts` `[S + 1]`, `samples` `[S]`."""
        with (self.folder / _INDEX).open("rb") as file, np.load(file) as index:
            return dict(index)

    @cached_property
    def _features(self) -> Tensor:
        """`[frames of all stretches, channels]`, mapped; never written to."""
        shape = (int(self._index["starts"][-1]), self.num_channels)
        if shape[0] == 0:
            return torch.empty(shape, dtype=self.dtype)
        plain = np.memmap(self.folder / _FEATURES, _PLAIN[self.dtype], mode="c", shape=shape)
        return torch.from_numpy(plain).view(self.dtype)

    @property
    def num_bytes(self) -> int:
        """Size of the features."""
        return int(self._index["starts"][-1]) * self.num_channels * self.dtype.itemsize

    @property
    def num_missing(self) -> int:
        """Rows without any: they are cut at random, anew in every epoch."""
        return int((np.diff(self._index["rows"]) == 0).sum())

    def is_whole(self) -> bool:
        """Whether the features are there, to the last byte; the index is written after them."""
        try:
            return (self.folder / _FEATURES).stat().st_size == self.num_bytes
        except (OSError, KeyError, ValueError, EOFError, BadZipFile):
            return False

    def read(self, row: int) -> list[Stretch]:
        """The kept stretches of a row: one, or one for each window that is evaluated; or none."""
        index = self._index
        return [
            (
                self._features[index["starts"][number] : index["starts"][number + 1]],
                int(index["samples"][number]),
            )
            for number in range(index["rows"][row], index["rows"][row + 1])
        ]

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """The features of some rows that have one frame each: `[B, channels]`."""
        return self._features[torch.from_numpy(rows)]

    def write(self, clips: Iterator[list[Stretch]]) -> None:
        """Writes the stretches of every row; whoever reads meanwhile finds nothing."""
        rows, starts, samples = [0], [0], []
        unfinished = self.folder / f".{_FEATURES}.unfinished"
        with unfinished.open("wb") as file:
            for stretches in clips:
                for features, count in stretches:
                    features.view(dtype=_torch_type(self.dtype)).numpy().tofile(file)
                    starts.append(starts[-1] + len(features))
                    samples.append(count)
                rows.append(len(samples))
        unfinished.replace(self.folder / _FEATURES)
        unfinished = self.folder / f".{_INDEX}.unfinished"
        with unfinished.open("wb") as file:
            whole = [np.array(numbers, np.int64) for numbers in (rows, starts, samples)]
            np.savez(file, rows=whole[0], starts=whole[1], samples=whole[2])
        unfinished.replace(self.folder / _INDEX)
        self.__dict__.pop("_index", None)


def _torch_type(dtype: torch.dtype) -> torch.dtype:
    """A type of the same size that NumPy knows."""
    return dtype if dtype == torch.float32 else torch.uint16


class KeptFeatureCollator:
    """Raw audio batch in, model batch of ready features out.

    What the model takes is `[B, frames, channels]`, padded with zeros. Where clips of unequal
    length give more or fewer frames, there is an `attention_mask` (of samples, as ever) even for
    models that take waveforms without one: since each clip came through that part alone, nothing
    of its batch is left in its answer then.

    Args:
        collator: Reads and cuts the clips that aren't kept.
        clips: The kept features of the split that the batches are drawn from.
        frozen_part: Made them.
        least_frames: Frames that a batch is wide at least.
    """

    def __init__(
        self,
        collator: AudioCollator,
        clips: KeptFeatures,
        frozen_part: FrozenPart,
        least_frames: int,
    ) -> None:
        self.collator = collator
        self.clips = clips
        self._frozen_part = frozen_part.on_cpu()
        self._least_frames = least_frames

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """Makes one model batch.

        Raises:
            DataError: As `AudioCollator`, for clips that aren't kept.
        """
        stretches = [self.clips.read(int(row)) for row in raw_batch["index"]]
        self._compute_missing(stretches, raw_batch)
        parts = [part for own in stretches for part in own]
        batch = self._pad(parts)
        if self.collator.num_windows > 1:
            counts = torch.tensor([len(own) for own in stretches])
            batch["example"] = torch.arange(len(stretches)).repeat_interleave(counts)
        return batch | self.collator.columns(raw_batch)

    def padded_seconds(self, seconds: float) -> float:
        """What a batch of unequal clips is padded to, whose longest has this length."""
        if not self.collator.rounds_widths:
            return seconds
        rate: float = self._frozen_part.frames_per_second
        return self._find_width(round(seconds * rate)) / rate

    def _find_width(self, longest: int) -> int:
        """Frames to pad a batch of unequal clips to."""
        return common_width(longest) if self.collator.rounds_widths else longest

    def _compute_missing(self, stretches: list[list[Stretch]], raw_batch: dict[str, Any]) -> None:
        """Fills in the clips that are cut at random."""
        places = [place for place, own in enumerate(stretches) if not own]
        if not places:
            return
        missing = {name: [values[place] for place in places] for name, values in raw_batch.items()}
        for place, clip in zip(places, self.collator.read_clips(missing)[0], strict=True):
            stretches[place] = [compute_stretch(self._frozen_part, self.collator, clip)]

    def _pad(self, parts: Sequence[Stretch]) -> dict[str, Tensor]:
        widths = [len(features) for features, _ in parts]
        width = max(widths)
        if min(widths) < width:
            width = self._find_width(width)
        width = max(width, self._least_frames)
        values = torch.zeros(len(parts), width, self.clips.num_channels, dtype=self.clips.dtype)
        for row, (features, _) in zip(values, parts, strict=True):
            row[: len(features)] = features
        batch = {self._frozen_part.input_name: values}
        if self.collator.extractor.gives_mask or min(widths) < width:
            samples = torch.tensor([count for _, count in parts])
            filled = torch.arange(int(samples.max())) < samples[:, None]
            batch["attention_mask"] = filled.to(torch.int32)
        return batch


def compute_stretch(frozen_part: FrozenPart, collator: AudioCollator, clip: Tensor) -> Stretch:
    """What the frozen part makes of one clip.

    Args:
        frozen_part: The model's.
        collator: Normalises the clip.
        clip: float32 `[T]`, at the model's rate.
    """
    features = collator.extractor.extract([clip])[frozen_part.input_name]
    return frozen_part.compute(features), len(clip)


def keep_clips(
    split: datasets.Dataset, collator: AudioCollator, frozen_part: FrozenPart
) -> KeptFeatures:
    """The features of a split's clips, from the cache folder, or computed now and put there.

    Training clips that are cut at random are left out.

    Args:
        split: A plain Dataset with the column `audio`.
        collator: That of the split: it reads and cuts the clips.
        frozen_part: Makes the features.

    Raises:
        DataError: A clip can't be read or is too short; or the cache folder can't be written to.
    """
    return keep_features(
        split,
        "audio",
        frozen_part,
        collator.describe_clips(),
        lambda: _compute_all(split, collator, frozen_part),
    )


def keep_features(
    split: datasets.Dataset,
    column: str,
    part: FrozenPart | FrozenBackbone,
    how: list[Any],
    compute: Callable[[], Iterator[list[Stretch]]],
) -> KeptFeatures:
    """A split's features, from the cache folder, or computed now and put there.

    Args:
        split: A plain Dataset.
        column: What the features are made of: `audio` or `image`.
        part: Makes them.
        how: What decides about them beside it and the content; plain values.
        compute: Makes the stretches of every row, in order.

    Raises:
        DataError: The cache folder can't be written to; or as `compute`.
    """
    folder = cache_folder() / "frozen_parts" / _key(split, column, [part.fingerprint(), how])
    kept = KeptFeatures(folder, part.dtype, part.num_channels)
    if kept.is_whole():
        with suppress(OSError):
            (folder / _INDEX).touch()  # so that it is known to be in use
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_unused(folder.parent)
        with _only_writer(folder):
            if not kept.is_whole():  # another process may have written them meanwhile
                kept.write(compute())
    except OSError as error:
        raise DataError(
            f"{folder}: can't keep what the model's frozen part makes of the examples here "
            f"({error.strerror or error}). Make room, name another folder with the environment "
            "variable HF_FINETUNE_CACHE, or write features.keep_frozen: off."
        ) from error
    return kept


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Waits until no other process writes here; a kill lets go."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_unused(folder: Path) -> None:
    """Removes features that no run has used for a long time."""
    for index in folder.glob(f"*/{_INDEX}"):
        with suppress(OSError):  # of another process that does the same
            if time.time() - index.stat().st_mtime > _UNUSED_SECONDS:
                index.unlink()
                shutil.rmtree(index.parent)


def _compute_all(
    split: datasets.Dataset, collator: AudioCollator, frozen_part: FrozenPart
) -> Iterator[list[Stretch]]:
    """The stretches of every row, in order."""
    reader = RowReader(split, ["audio"])
    with progress_bar(len(split), f"frozen {frozen_part.name}", "clip", delay_seconds=1) as bar:
        for row in range(len(split)):
            rows = np.array([row])
            raw = {**reader.read(rows), "epoch": np.zeros(1, np.int64), "index": rows}
            if collator.cuts_at_random(raw["audio"][0]):
                yield []
            else:
                clips, _ = collator.read_clips(raw)
                yield [compute_stretch(frozen_part, collator, clip) for clip in clips]
            bar.update()


def _key(split: datasets.Dataset, column: str, how: list[Any]) -> str:
    """Names the features by everything that decides about them."""
    digest = hashlib.sha256(json.dumps([_FORMAT, *how], sort_keys=True, default=str).encode())
    for content in _contents(split, column):
        digest.update(content)
    return digest.hexdigest()[:32]


def _contents(split: datasets.Dataset, column: str) -> Iterator[bytes]:
    """A hash of each example's content, in the order of the rows."""
    features = split.features
    if "measured" in features and "digest" in features["measured"]:
        for known in column_values(split, "measured", "digest"):
            yield f"{known}\0".encode()
        return
    reader = RowReader(split, [column])
    for row in range(len(split)):
        [example] = reader.read(np.array([row]))[column]
        if isinstance(example, dict):
            names = {"bytes", "content"} & example.keys()
            content = next((example[name] for name in names if example[name] is not None), None)
            yield repr([example.get(name) for name in ("color", "background")]).encode()
            yield hashlib.sha256(content or Path(example["path"]).read_bytes()).digest()
        else:
            yield hashlib.sha256(f"{example.dtype} {example.shape}".encode()).digest()
            yield hashlib.sha256(example.tobytes()).digest()
