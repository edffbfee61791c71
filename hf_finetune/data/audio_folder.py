"""Clips of sound of your own, in folders or in a table, or told apart by their names.

They are decoded when their batch is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.data import GivenData
from hf_finetune.data.folders import FileKind, FolderOptions, read_folder

if TYPE_CHECKING:
    import datasets

    from hf_finetune.data.folders import FolderContent


class Options(FolderOptions):
    """Options of a folder of sound."""

    name: Literal["audio_folder"] = "audio_folder"


def load(options: Options) -> GivenData:
    """Lists the clips and reads each of them once (see `folders.read_folder`).

    wav, flac, ogg, mp3 and what else libsndfile reads, at any rate, with any number of channels,
    which are mixed by their mean; m4a and others with torchcodec (the extra `audio`).

    Returns:
        The splits that the folders or the table name, or `train` alone, with the columns `id` (the
        path below the root), `audio` (undecoded), `measured`, `label`, and any group keys.

    Raises:
        DataError: Folder, layout or table can't be used; or, with `on_bad_example: stop`, some
            clips can't.
    """
    return build_splits(read_folder(options, audio_kind()))


def audio_kind() -> FileKind:
    """What the files of sound are, for `folders`."""
    from hf_finetune.data.audio_files import RECIPE, SUFFIXES, measure_file

    return FileKind("clip", SUFFIXES, measure_file, RECIPE)


def build_splits(content: FolderContent) -> GivenData:
    """The splits of clips that were found, with a warning on those that are silent or too loud."""
    from datasets import DatasetDict

    from hf_finetune.data.audio_files import find_overdriven, find_silence

    ids = [example.id for examples in content.examples.values() for example in examples]
    splits = {split: _build_split(content, split) for split in content.examples}
    doubts = (*find_silence(ids, content.facts), *find_overdriven(ids, content.facts))
    warnings = (*content.warnings, *doubts)
    return GivenData(DatasetDict(splits), warnings, content.skipped, content.contradictions)


def _build_split(content: FolderContent, split: str) -> datasets.Dataset:
    from hf_finetune.data.audio_files import audio_cell
    from hf_finetune.data.tables import build_file_dataset

    examples = content.examples[split]
    columns = {"id": [example.id for example in examples]}
    for number, name in enumerate(content.group_columns):
        columns[name] = [example.groups[number] for example in examples]
    facts = [content.facts[example.id] for example in examples]
    paths = [content.root / example.id for example in examples]
    return build_file_dataset(
        {"audio": [audio_cell(*pair) for pair in zip(paths, facts, strict=True)]},
        facts,
        [content.label_names.index(example.label) for example in examples],
        content.label_names,
        columns,
    )
