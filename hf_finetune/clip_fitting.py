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
from hf_finetune.data.preparation import audio_shape, reselect
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
        classifier: The model, which has a shortest clip and a sampling rate.

    Raises:
        DataError: Clips are too short, or of a rate that can't be resampled, with
            `on_bad_example: stop`; or nothing is left.
    """
    if data.audio_shape is None:
        return data
    from hf_finetune.features.audio import AudioCollator

    collator = collator_for(
        classifier.processor, config.features, config.seed, True, classifier.model.config
    )
    if not isinstance(collator, AudioCollator):
        return data  # of a plugin
    data = _leave_out_unfit(data, config, collator)
    warnings = _warn_of_length(data, config, collator)
    return replace(data, warnings=(*data.warnings, *warnings)) if warnings else data


def _warn_of_length(data: LoadedData, config: RunConfig, collator: AudioCollator) -> list[str]:
    longest = {name: audio_shape({name: rows}).most_seconds for name, rows in data.splits.items()}
    most = max(longest.values())
    if collator.most_seconds is None and most > _LONG_SECONDS:
        return [
            f"the longest clip lasts {most:,.0f} seconds and goes into its batch whole, which "
            "may not fit into memory; cut clips with features.audio.max_seconds, such as 10"
        ]
    most = max(longest["validation"], longest["test"])
    is_whole = config.features.audio.evaluation_windows == "whole"
    if is_whole and collator.extractor.most_samples is None and most > _LONG_SECONDS:
        return [
            f"the longest clip of validation and test lasts {most:,.0f} seconds and is evaluated "
            "whole, which may not fit into memory; set features.audio.evaluation_windows to a "
            "number of stretches, such as 10"
        ]
    return []


def _leave_out_unfit(data: LoadedData, config: RunConfig, collator: AudioCollator) -> LoadedData:
    problems: list[Problem] = []
    splits: dict[str, Dataset] = {}
    unused: list[Dataset] = []
    for name, split in data.splits.items():
        found = _find_unfit(split, collator)
        splits[name] = split
        if found:
            rows, is_fit = np.array([*found]), np.ones(len(split), bool)
            is_fit[rows] = False
            splits[name] = select_rows(split, np.flatnonzero(is_fit))
            unused.append(select_rows(split, rows))
            ids = column_values(split, "id")
            problems += [Problem(ids[row], reason) for row, reason in found.items()]
    if not problems:
        return data
    told = settle_problems(problems, f"data ({config.data.name})", config.data)
    fitted = replace(
        data,
        warnings=(*data.warnings, *told),
        skipped=(*data.skipped, *map(str, problems)),
        # The run's split file names them, too, so that the split can be given back.
        unused=(*data.unused, *unused),
    )
    return reselect(fitted, splits)


def _find_unfit(split: Dataset, collator: AudioCollator) -> dict[int, str]:
    """Rows that the model can't take, rising, and why."""
    frames, rates = (
        column_values(split, "audio", field) for field in ("num_frames", "sampling_rate_hz")
    )
    strange = {rate: _find_fault(rate, collator.extractor.sampling_rate_hz) for rate in {*rates}}
    found: dict[int, str] = {}
    for row, (count, rate) in enumerate(zip(frames, rates, strict=True)):
        fault = strange[rate]
        if fault is not None:
            found[row] = fault
        elif not collator.takes(count, rate):
            found[row] = (
                f"{count / rate:.4f} seconds are too short for the model, which takes "
                f"{collator.least_seconds:.4f} or more"
            )
    return found


def _find_fault(rate_hz: int, model_hz: int) -> str | None:
    """Why clips of a rate can't be brought to the model's, if they can't."""
    from hf_finetune.features.resampling import check_rates

    try:
        check_rates(rate_hz, model_hz)
    except ValueError as error:
        return str(error).rstrip(".")
    return None
