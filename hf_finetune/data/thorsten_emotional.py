"""The German Emotional-TTS set of Thorsten-Voice: 300 sentences, spoken in eight emotions each.

One speaker, so splits go by sentence: the same sentences lie in every emotion's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hf_finetune.data import DataOptions, GivenData
from hf_finetune.data.audio_folder import audio_kind, build_splits
from hf_finetune.data.folders import read_listing
from hf_finetune.data.listing import Example, Listing, Problem
from hf_finetune.errors import DataError

EMOTIONS = (
    *("amused", "angry", "disgusted", "drunk", "neutral", "sleepy", "surprised", "whisper"),
)
_FOLDER, _METADATA = "thorsten-emotional_v02", "thorsten-emotional-metadata.csv"
# The published archive lacks it, though its sentence is in the metadata.
_NEVER_RECORDED = "whisper/2cc2cc4a34b961ef1657cc82dbd18875.wav"
_GET = "Download it with: hf-finetune download thorsten_emotional, or name its folder in data.root."


class Options(DataOptions):
    """Options of the German Emotional-TTS set."""

    name: Literal["thorsten_emotional"] = "thorsten_emotional"
    root: str = "data/thorsten_emotional"
    """Folder of the eight emotions' folders, or the one above it."""


def load(options: Options) -> GivenData:
    """Lists the recordings, joins the sentences that they speak, and reads each of them once.

    Returns:
        `train` alone, with the columns `id` (the path below the root), `audio` (undecoded),
        `measured`, `label` (the emotion) and `sentence` (a group key).

    Raises:
        DataError: Folder or metadata are missing or faulty; or, with `on_bad_example: stop`,
            recordings are missing or can't be used (but for the one that was never published).

    Source:
        Müller and Kreutz, "Thorsten-Voice Dataset 2021.06 emotional", OpenSLR 110.
    """
    root = _find_root(Path(options.root))
    sentences = _read_sentences(root / _METADATA)
    return build_splits(
        read_listing(root, _list_recordings(root, sentences), options, audio_kind())
    )


def _find_root(root: Path) -> Path:
    """The folder that holds the emotions' folders."""
    for folder in (root, root / _FOLDER):
        if any((folder / emotion).is_dir() for emotion in EMOTIONS):
            return folder
    found = "has no folder of an emotion (amused, angry, …)" if root.exists() else "is not there"
    raise DataError(f"data.root: {str(root)!r} {found}. {_GET}")


def _read_sentences(path: Path) -> dict[str, str]:
    """What is spoken in each recording, by the stem of its name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"data.root: there is no file {str(path)!r}. {_GET}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: it can't be read as UTF-8 text ({error}). {_GET}") from error
    sentences: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        name, mark, sentence = (part.strip() for part in line.partition("|"))
        if not line.strip():
            continue
        if not (name and mark and sentence) or name in sentences:
            what = "names a recording again" if name in sentences else "is not of the form id|text"
            raise DataError(f"{path}:{number}: this line {what}, got {line!r}. {_GET}")
        sentences[name] = sentence
    if not sentences:
        raise DataError(f"{path}: it is empty. {_GET}")
    return sentences


def _list_recordings(root: Path, sentences: dict[str, str]) -> Listing:
    """Every recording that the metadata and the folders tell of; of the rest, what is wrong."""
    listing = Listing(group_columns=("sentence",))
    for emotion in EMOTIONS:
        there = {path.stem for path in (root / emotion).glob("[!.]*.wav")}
        for stem in sorted(there | sentences.keys()):
            file = f"{emotion}/{stem}.wav"
            if stem not in sentences:
                reason = f"{_METADATA} has no sentence for it, and so it has no group"
                listing.problems.append(Problem(file, reason))
            elif stem in there:
                listing.examples.append(Example(file, emotion, None, (sentences[stem],)))
            elif file == _NEVER_RECORDED:
                listing.warnings.append(f"{file} is not there: the published set lacks it, too")
            else:
                listing.problems.append(Problem(file, "the recording is not there"))
    return listing
