"""Looks at the clips of a data set before training: lengths, rates, loudness, copies, groups.

Place: the verb `inspect` prints and draws what is found here (`sound_report`). The samples were
read when the data was loaded, and nothing is decoded again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_finetune.data import LoadedData
from hf_finetune.data.division import key_columns
from hf_finetune.data.duplicates import Duplicate, find_duplicates
from hf_finetune.data.tables import column_values

QUIET_DECIBELS = -60.0
_LEAST_POWER = 1e-20


@dataclass(frozen=True)
class SoundInspection:
    """What was found.

    Attributes:
        data: What was looked at.
        class_counts: Rows of each class by split, in the order of the label ids.
        seconds: Length of each clip by split, float64 `[N]`.
        rates_hz: How many clips have each sampling rate.
        channels: How many clips have each number of channels; none where that isn't known.
        decibels: Mean power of each clip that isn't silent, float64, 0 is full scale.
        silent: Ids of clips whose samples are all 0.
        quiet: Ids of the other clips below -60 decibels.
        clipped: How many clips reach full scale.
        duplicates: Sets of clips with the same samples.
        groups: Rows of each group by split, by group column: `groups[column][group][split]`.
    """

    data: LoadedData
    class_counts: dict[str, tuple[int, ...]]
    seconds: dict[str, NDArray[np.float64]]
    rates_hz: dict[int, int]
    channels: dict[int, int]
    decibels: NDArray[np.float64]
    silent: tuple[str, ...]
    quiet: tuple[str, ...]
    clipped: int
    duplicates: tuple[Duplicate, ...]
    groups: dict[str, dict[str, dict[str, int]]]


def inspect_sound(data: LoadedData) -> SoundInspection:
    """Looks at every clip of every split.

    Args:
        data: Loaded data, of sound.
    """
    ids, labels = _collect(data, "id"), _collect(data, "label")
    size = len(data.label_names)
    frames = {n: np.array(column_values(s, "audio", "num_frames")) for n, s in data.splits.items()}
    rates = {
        n: np.array(column_values(s, "audio", "sampling_rate_hz")) for n, s in data.splits.items()
    }
    peaks = np.array(_collect(data, "measured", "peak"))
    power = np.array(_collect(data, "measured", "energy"))
    decibels = 10 * np.log10(np.maximum(power, _LEAST_POWER))
    fields = data.splits["train"].features["measured"]
    channels = _collect(data, "measured", "num_channels") if "num_channels" in fields else []
    is_quiet = (peaks > 0) & (decibels < QUIET_DECIBELS)
    splits = list(chain(*([name] * len(split) for name, split in data.splits.items())))
    digests = [bytes.fromhex(digest) for digest in _collect(data, "measured", "digest")]
    return SoundInspection(
        data=data,
        class_counts={
            name: tuple(np.bincount(column_values(split, "label"), minlength=size).tolist())
            for name, split in data.splits.items()
        },
        seconds={name: frames[name] / rates[name] for name in data.splits},
        rates_hz=dict(sorted(Counter(np.concatenate([*rates.values()]).tolist()).items())),
        channels=dict(sorted(Counter(channels).items())),
        decibels=decibels[peaks > 0],
        silent=tuple(ids[row] for row in np.flatnonzero(peaks == 0)),
        quiet=tuple(ids[row] for row in np.flatnonzero(is_quiet)),
        clipped=int((peaks >= 1).sum()),
        duplicates=find_duplicates(digests, ids, splits, labels),
        groups={name: _count_groups(data, name) for name in key_columns(data.splits["train"])},
    )


def _collect(data: LoadedData, column: str, field: str | None = None) -> list[Any]:
    return list(chain(*(column_values(split, column, field) for split in data.splits.values())))


def _count_groups(data: LoadedData, column: str) -> dict[str, dict[str, int]]:
    counts = {name: Counter(column_values(split, column)) for name, split in data.splits.items()}
    names = sorted({group for count in counts.values() for group in count})
    return {
        group: {name: count[group] for name, count in counts.items() if count[group]}
        for group in names
    }
