"""Pictures of sound: a sheet of spectrograms, and how long the clips of a data set are.

Place: beside `plots`; the run directory shows what the model hears, `inspect` what the files hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hf_finetune.features.audio import AudioCollator
from hf_finetune.runs.plots import BLUE, DOTS_PER_INCH, GREEN, ORANGE, save_figure, shorten

CLIPS = 32
_WINDOW_SECONDS, _HOP_SECONDS = 0.032, 0.008
_RANGE_DECIBELS = 80.0  # what is quieter than the loudest by more is drawn as silence
_BINS = 40


def spectrogram(clip: Tensor, rate_hz: int) -> np.ndarray:
    """Power of each frequency over time, for the eye.

    Args:
        clip: float32 `[T]`, at least one sample.
        rate_hz: Its sampling rate.

    Returns:
        float32 `[frequencies, frames]` in decibels, 0 the loudest and -80 the least; low
        frequencies first, up to half the rate.
    """
    size, hop = (max(2, round(rate_hz * part)) for part in (_WINDOW_SECONDS, _HOP_SECONDS))
    power = torch.stft(
        clip, size, hop, window=torch.hann_window(size), pad_mode="constant", return_complex=True
    ).abs()
    decibels = 20 * torch.log10(power.clamp(min=1e-8))
    return np.asarray((decibels - decibels.max()).clamp(min=-_RANGE_DECIBELS).numpy())


def hear(collator: AudioCollator, raw: dict[str, object]) -> tuple[list[np.ndarray], list[float]]:
    """Pictures of a raw batch as the model gets it, and the seconds of each.

    The model's own features where these are spectrograms, else spectrograms of its waveforms.

    Args:
        collator: The split's.
        raw: Raw batch; see `hf_finetune.features`.

    Returns:
        float32 `[frequencies, frames]` each, low frequencies first; and seconds.
    """
    extractor = collator.extractor
    clips, _ = collator.read_clips(raw)
    seconds = [len(clip) / extractor.sampling_rate_hz for clip in clips]
    if not extractor.makes_spectrograms:
        return [spectrogram(clip, extractor.sampling_rate_hz) for clip in clips], seconds
    frames = extractor.frames(collator(raw))
    counts = [max(1, extractor.count_frames(len(clip))) for clip in clips]
    pictures = [one[:count].T.numpy() for one, count in zip(frames, counts, strict=True)]
    return pictures, seconds


def draw_clips(
    pictures: Sequence[np.ndarray],
    seconds: Sequence[float],
    labels: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Draws a sheet of up to 32 spectrograms, 8 in a row, all on the same scale of time.

    Args:
        pictures: float `[frequencies, frames]` each, low frequencies first.
        seconds: Length of each.
        labels: What to write above each.
        path: The PNG file to write.
        title: Stands above the sheet.

    Raises:
        ValueError: There are no clips, or not as many labels and lengths.
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    if not len(pictures) == len(seconds) == len(labels) or not pictures:
        raise ValueError(
            f"need clips, and a label and a length for each, got {len(pictures)} clips, "
            f"{len(labels)} labels and {len(seconds)} lengths"
        )
    columns = min(8, len(pictures))
    rows = -(-min(CLIPS, len(pictures)) // columns)
    longest = max(seconds[:CLIPS])
    size = (max(columns * 1.5, 3.2), rows * 1.3 + 0.8)
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, length, label in zip(grid.flat, pictures, seconds, labels, strict=False):
        extent = (0.0, length, 0.0, 1.0)
        axes.imshow(picture, origin="lower", aspect="auto", cmap="magma", extent=extent)
        axes.set_xlim(0, longest)
        name = f"{shorten(label, 12)}  {length:.2g} s"
        axes.set_title(name, fontsize=9, pad=3, loc="left", parse_math=False)
    figure.suptitle(title, fontsize=13, parse_math=False)
    save_figure(figure, path)


def draw_lengths(seconds: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """Draws how long the clips of each split are.

    Args:
        seconds: float `[N]` by split.
        path: The PNG file to write.
        title: Stands above.

    Raises:
        OSError: The file can't be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    names = [f"{name} ({len(values):,} clips)" for name, values in seconds.items()]
    colors = [BLUE, ORANGE, GREEN][: len(names)]
    axes.hist(list(seconds.values()), bins=_BINS, stacked=True, label=names, color=colors)
    axes.set_xlabel("seconds")
    axes.set_ylabel("clips")
    axes.set_xlim(left=0)
    axes.legend(fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=12.5, loc="left", parse_math=False)
    save_figure(figure, path)
