"""Says what an inspection of sound found, in words and pictures; the verb `inspect`.

Place: beside `data_report`, which hands over to it where the examples are clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hf_finetune.console import format_columns, format_table
from hf_finetune.data import LoadedData
from hf_finetune.data.inspection import Groups
from hf_finetune.data.listing import shown
from hf_finetune.data.sound_inspection import QUIET_DECIBELS, SoundInspection, inspect_sound
from hf_finetune.data.splits import draw_rows
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.data_report import format_class_counts, format_groups, list_findings
from hf_finetune.runs.pictures import check_own, write_picture
from hf_finetune.runs.sound_pictures import CLIPS, draw_clips, draw_lengths, spectrogram

_EXAMPLES, _LENGTHS = "examples.png", "lengths.png"
_NAMED = 3
_MOST_SHOWN_SECONDS = 30


def report_sound(data: LoadedData, name: str, kind: str, place: Path) -> str:
    """Looks at clips of sound, and draws pictures of them.

    Args:
        data: Loaded data, of sound.
        name: The configuration's name.
        kind: The data set's name.
        place: Folder of the pictures.

    Returns:
        What was found, in words, and where the pictures are.

    Raises:
        UserError: A file of another make is in a picture's place.
    """
    for picture in (_EXAMPLES, _LENGTHS):
        check_own(place / picture)
    found = inspect_sound(data)
    write_picture(place / _EXAMPLES, partial(_draw_examples, data, name))
    title = f"{name}: how long the clips are"
    write_picture(place / _LENGTHS, lambda path: draw_lengths(found.seconds, path, title))
    pictures = f"pictures  {place / _EXAMPLES}, {place / _LENGTHS}"
    return f"{format_sound(found, kind)}\n\n{pictures}"


def format_sound(found: SoundInspection, kind: str) -> str:
    """What was found, as text for people.

    Args:
        found: What was found.
        kind: The data set's name.
    """
    data = found.data
    total = sum(map(len, data.splits.values()))
    facts = {
        "data": f"{kind}: {total:,} clips of {len(data.label_names)} classes; "
        f"{data.split_description}",
        "clips": _describe_clips(found),
        "loudness": _describe_loudness(found),
        **list_findings(data, found.duplicates, "clips"),
    }
    parts = [format_table(facts), _format_splits(found)]
    parts += [format_class_counts(data.label_names, found.class_counts)]
    for column, rows in found.groups.items():
        parts.append(format_groups(Groups(column, rows, None), data.label_names))
    return "\n\n".join(parts)


def _describe_clips(found: SoundInspection) -> str:
    seconds = np.concatenate([*found.seconds.values()])
    ends = f"{seconds.min():.3g} to {seconds.max():,.4g}"
    length = f"{ends} seconds, {_say_time(seconds.sum())} in all"
    rates = " and ".join(f"{rate:,} Hz" for rate in found.rates_hz)
    if len(found.rates_hz) > 1:
        rates = ", ".join(f"{rate:,} Hz ({count:,})" for rate, count in found.rates_hz.items())
    names = {1: "mono", 2: "stereo"}
    channels = " and ".join(names.get(count, f"{count} channels") for count in found.channels)
    return "; ".join(part for part in (length, rates, channels) if part)


def _describe_loudness(found: SoundInspection) -> str:
    parts = []
    if len(found.decibels):
        low, high = found.decibels.min(), found.decibels.max()
        parts.append(f"{low:.0f} to {high:.0f} dB (mean power of a clip; 0 is full scale)")
    parts.append(_name_clips(found.silent, "all silence") or "no clip is all silence")
    parts.append(_name_clips(found.quiet, f"below {QUIET_DECIBELS:.0f} dB"))
    if found.clipped:
        parts.append(f"{found.clipped:,} reach full scale, and may be cut off there")
    return "; ".join(part for part in parts if part)


def _name_clips(ids: Sequence[str], what: str) -> str:
    if not ids:
        return ""
    named = ", ".join(map(shown, ids[:_NAMED])) + (", …" if len(ids) > _NAMED else "")
    return f"{len(ids):,} {'is' if len(ids) == 1 else 'are'} {what} ({named})"


def _format_splits(found: SoundInspection) -> str:
    header = ("split", "clips", "in all", "shortest", "median", "longest")
    rows = [
        (
            name,
            f"{len(seconds):,}",
            _say_time(seconds.sum()),
            *(f"{value:,.3g} s" for value in (seconds.min(), np.median(seconds), seconds.max())),
        )
        for name, seconds in found.seconds.items()
    ]
    return format_columns(header, rows)


def _say_time(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 36_000 else f"{seconds / 3600:,.1f} h"


def _draw_examples(data: LoadedData, name: str, path: Path) -> None:
    """A few training clips as they are, the classes in proportion."""
    import torch

    from hf_finetune.features.audio_decoding import read_audio

    train = data.splits["train"]
    labels = np.asarray(column_values(train, "label"))
    rows = draw_rows(labels, max(CLIPS, len(data.label_names)), seed=0)[:CLIPS]
    cells = RowReader(train, ["audio"]).read(rows)["audio"]
    rates = [cell["sampling_rate_hz"] for cell in cells]
    counts = [
        min(cell["num_frames"], _MOST_SHOWN_SECONDS * rate)
        for cell, rate in zip(cells, rates, strict=True)
    ]
    clips = [
        torch.from_numpy(read_audio(cell, 0, count))
        for cell, count in zip(cells, counts, strict=True)
    ]
    draw_clips(
        [spectrogram(clip, rate) for clip, rate in zip(clips, rates, strict=True)],
        [len(clip) / rate for clip, rate in zip(clips, rates, strict=True)],
        [data.label_names[label] for label in labels[rows]],
        path,
        f"{name}: training clips as they are",
    )
