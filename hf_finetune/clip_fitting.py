"""Fits clips of sound to a model before the first batch: what is too short for it, or too long.

Place: `assembly` asks it once data and model are there, since neither of them knows alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hf_finetune.config import RunConfig
from hf_finetune.data import LoadedData
from hf_finetune.data.folders import settle_problems
from hf_finetune.data.listing import Problem
from hf_finetune.data.preparation import reselect
from hf_finetune.data.tables import column_values, select_rows
from hf_finetune.features import collator_for
from hf_finetune.models import Classifier

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_finetune.features.audio import AudioCollator

# Of a whole clip: a minute is a thousand times what a batch of short commands holds.
_LONG_SECONDS = 60.0


def fit_clips(data: LoadedData, config: RunConfig, classifier: Classifier) -> LoadedData:
    """The data without clips that the model can't take, and with a warning on very long ones.

    Args:
        data: Loaded data; images come back as they are.
        config: What is done with bad examples, and where clips are cut.
        classifier: The model, which has a shortest clip.

    Raises:
        DataError: Clips are too short, with `on_bad_example: stop`; or nothing is left.
    """
    if data.audio_shape is None:
        return data
    from hf_finetune.features.audio import AudioCollator

    collator = collator_for(
        classifier.processor, config.features, config.seed, True, classifier.model.config
    )
    if not isinstance(collator, AudioCollator):
        return data  # of a plugin
    data = _leave_out_short(data, config, collator)
    longest = data.audio_shape.most_seconds if data.audio_shape else 0.0
    if collator.most_seconds is None and longest > _LONG_SECONDS:
        warning = (
            f"the longest clip lasts {longest:,.0f} seconds and goes into its batch whole, which "
            "may not fit into memory; cut clips with features.audio.max_seconds, such as 10"
        )
        return replace(data, warnings=(*data.warnings, warning))
    return data


def _leave_out_short(data: LoadedData, config: RunConfig, collator: AudioCollator) -> LoadedData:
    problems: list[Problem] = []
    splits: dict[str, Dataset] = {}
    for name, split in data.splits.items():
        frames, rates = (
            column_values(split, "audio", field) for field in ("num_frames", "sampling_rate_hz")
        )
        fits = np.array([collator.takes(*pair) for pair in zip(frames, rates, strict=True)])
        splits[name] = split if fits.all() else select_rows(split, np.flatnonzero(fits))
        if not fits.all():
            ids = column_values(split, "id")
            problems += [
                Problem(
                    ids[row],
                    f"{frames[row] / rates[row]:.4f} seconds are too short for the model, which "
                    f"takes {collator.least_seconds:.4f} or more",
                )
                for row in np.flatnonzero(~fits)
            ]
    if not problems:
        return data
    told = settle_problems(problems, f"data ({config.data.name})", config.data)
    skipped = (*data.skipped, *map(str, problems))
    return reselect(replace(data, warnings=(*data.warnings, *told), skipped=skipped), splits)
