"""Reads a clip of sound once, from end to end, and keeps what is worth knowing of it.

Place: the data sets of sound scan their files with it. Samples come through
`features.audio_decoding`, so that the scan and the batches see the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from hf_finetune.data.listing import shown
from hf_finetune.errors import DataError
from hf_finetune.features.audio_decoding import AudioFile, describe_audio, read_audio

SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".mp3", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd"),
    *(".w64", ".rf64", ".caf"),
    # These need torchcodec; without it, each is a bad example that says so.
    *(".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka", ".amr", ".3gp"),
)
# Facts of another recipe are not taken for these; the number rises with what is checked.
RECIPE = f"audio 2, soundfile {soundfile.__version__}"
_BLOCK_FRAMES = 2**22  # read at a time: clips may last hours
_NAMED = 3
# Floats beyond full scale are no fault, but this far beyond it they are no floats of -1…1.
_MOST_PEAK = 16


def measure_file(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """What `measure_audio` finds in a file, its header first.

    Args:
        path: The file, or what to call it where its content is given.
        content: The file's bytes; None to read the file.

    Raises:
        DataError: The file is missing, no audio, holds less than it promises or no samples, or a
            sample is no finite number.
    """
    try:
        audio, header = describe_audio(path, content)
        return {"num_channels": header.num_channels, **measure_audio(audio)}
    except DataError as error:
        # As the scan names it: it shows what can't be printed itself.
        raise DataError(str(error).replace(shown(str(path)), str(path), 1)) from error


def measure_audio(audio: AudioFile) -> dict[str, Any]:
    """Facts of a clip, as all its samples tell them.

    Args:
        audio: The clip, undecoded.

    Returns:
        `digest` (SHA-256 of the rate and the samples, hex), `num_frames`, `sampling_rate_hz`,
        `peak` (the largest magnitude of a sample, 1 is full scale) and `energy` (the mean square).

    Raises:
        DataError: See `features.audio_decoding.read_audio`.
    """
    digest = hashlib.sha256(f"{audio['sampling_rate_hz']} Hz".encode())
    peak, energy = 0.0, 0.0
    for samples in _read_blocks(audio):
        digest.update(samples.data)
        peak = max(peak, float(np.abs(samples).max()))
        energy += float(np.square(samples, dtype=np.float64).sum())
    return {
        "digest": digest.hexdigest(),
        "num_frames": audio["num_frames"],
        "sampling_rate_hz": audio["sampling_rate_hz"],
        "peak": peak,
        "energy": energy / audio["num_frames"],
    }


def _read_blocks(audio: AudioFile) -> Iterator[NDArray[Any]]:
    """All samples in order, float32 `[T]`, some at a time."""
    for start in range(0, audio["num_frames"], _BLOCK_FRAMES):
        samples = read_audio(audio, start, min(_BLOCK_FRAMES, audio["num_frames"] - start))
        if len(samples):
            yield np.ascontiguousarray(samples, np.float32)


def audio_cell(path: Path, facts: Mapping[str, Any]) -> AudioFile:
    """A measured file as an `audio` column holds it."""
    rate = facts["sampling_rate_hz"]
    return AudioFile(
        path=str(path), bytes=None, num_frames=facts["num_frames"], sampling_rate_hz=rate
    )


def find_silence(ids: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning on the clips in which nothing at all is heard, if there are any.

    Args:
        ids: The examples.
        facts: What was measured, by id.
    """
    silent = [name for name in ids if facts[name]["peak"] == 0]
    if not silent:
        return []
    what = "1 clip is" if len(silent) == 1 else f"{len(silent):,} clips are"
    return [f"{what} all silence: every sample is 0 ({_name_some(silent)})"]


def find_overdriven(ids: Sequence[str], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning on the clips that lie far beyond full scale, if there are any.

    Args:
        ids: The examples.
        facts: What was measured, by id.
    """
    loud = [name for name in ids if facts[name]["peak"] > _MOST_PEAK]
    if not loud:
        return []
    what = "1 clip lies" if len(loud) == 1 else f"{len(loud):,} clips lie"
    peak = max(facts[name]["peak"] for name in loud)
    return [
        f"{what} beyond full scale, up to {peak:,.0f} times ({_name_some(loud)}): whole numbers "
        "that were written as floats? Divide them by the largest that their type holds"
    ]


def _name_some(ids: Sequence[str]) -> str:
    return ", ".join(map(shown, ids[:_NAMED])) + (", …" if len(ids) > _NAMED else "")
