"""Writes the card of a data set: what the Hugging Face Hub shows of it, and reads from its head.

Place: beside the parquet files of the folder that `data_publishing` makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from datasets import DatasetInfo
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData

from hf_finetune import __version__
from hf_finetune.data import LoadedData
from hf_finetune.data.division import key_columns, read_labels
from hf_finetune.data.leaks import find_overlaps
from hf_finetune.data.parquet_files import FOLDER, WrittenSplit
from hf_finetune.data.tables import distinct_values
from hf_finetune.hub.card import MARKER

_MOST_CLASSES = 100  # of which the card has a row each


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond the data itself.

    Attributes:
        title: Its heading.
        license: As the Hub calls it; None where the user named none.
        languages: ISO 639 codes.
        origin: What the data set was made of.
        section: The `data` section that reads the data set back.
    """

    title: str
    license: str | None
    languages: Sequence[str]
    origin: str
    section: Mapping[str, Any]


def write_card(data: LoadedData, written: Mapping[str, WrittenSplit], facts: CardFacts) -> str:
    """The card: metadata that the Hub reads, then a page for people.

    Args:
        data: The data set.
        written: Its splits as they were written.
        facts: What else it says.
    """
    head = _make_metadata(data, written, facts)
    parts = [
        f"# {facts.title}",
        _describe_content(data),
        "## Splits and classes",
        _tabulate_classes(data),
        _describe_groups(data),
        "## Columns",
        _tabulate_columns(data),
        "## Use",
        _describe_use(facts),
        "## Origin",
        f"Written by hf_finetune {__version__} from {facts.origin}. "
        f"Splits: {_end(data.split_description)} "
        f"Fingerprint of rows and splits: `{data.fingerprint}`.",
    ]
    return f"---\n{head.to_yaml()}\n---\n{MARKER}\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def renew_metadata(card: str, fresh: str) -> str:
    """A card whose metadata say of the files what another card says; all else stays as it is.

    Args:
        card: Somebody's own.
        fresh: One that `write_card` wrote.

    Raises:
        ValueError: The metadata are none that the datasets library reads; so do KeyError and
            yaml.YAMLError.
    """
    own, new = DatasetCard(card), DatasetCard(fresh)
    for kind in (DatasetInfosDict, MetadataConfigs):  # both keep what is said of other subsets
        kind.from_dataset_card_data(new.data).to_dataset_card_data(own.data)
    return str(own)


def _make_metadata(
    data: LoadedData, written: Mapping[str, WrittenSplit], facts: CardFacts
) -> DatasetCardData:
    splits = {
        name: SplitInfo(name, num_bytes=one.num_bytes, num_examples=one.num_examples)
        for name, one in written.items()
    }
    info = DatasetInfo(
        features=written["train"].features,
        splits=SplitDict(splits),
        download_size=sum(one.download_bytes for one in written.values()),
        dataset_size=sum(one.num_bytes for one in written.values()),
    )
    head = DatasetCardData(
        license=facts.license,
        language=list(facts.languages) or None,
        task_categories=[f"{_content(data)}-classification"],
        size_categories=[_name_size(sum(one.num_examples for one in written.values()))],
        pretty_name=facts.title,
        configs=[
            {
                "config_name": "default",
                # By their number, too: what else lies there is not read.
                "data_files": [
                    {"split": name, "path": f"{FOLDER}/{name}-*-of-{len(one.files):05d}.parquet"}
                    for name, one in written.items()
                ],
            }
        ],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(head)
    return head


def _content(data: LoadedData) -> str:
    return "audio" if data.image_shape is None else "image"


def _name_size(count: int) -> str:
    """The Hub's word for a number of examples."""
    limits = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6, "1M<n<10M": 1e7}
    return next((word for word, limit in limits.items() if count < limit), "10M<n<100M")


def _describe_content(data: LoadedData) -> str:
    total = sum(len(split) for split in data.splits.values())
    text = f"{total:,} {'clips' if data.image_shape is None else 'images'}"
    if data.image_shape is not None:
        shape = data.image_shape
        color = "grey" if shape.channels == 1 else "colour"
        size = f", {shape.width} × {shape.height} pixels" if shape.width and shape.height else ""
        text += f" in {color}{size}"
    elif data.audio_shape is not None:
        sound = data.audio_shape
        rate = f" at {sound.sampling_rate_hz:,} Hz" if sound.sampling_rate_hz else ""
        text += f"{rate}, {sound.least_seconds:.2f} to {sound.most_seconds:.2f} seconds long"
    return f"{text}, in {len(data.label_names)} classes."


def _tabulate_classes(data: LoadedData) -> str:
    """Rows of each class by split; of very many classes the sums alone."""
    size = len(data.label_names)
    counts = {
        name: np.bincount(read_labels(split), minlength=size) for name, split in data.splits.items()
    }
    rows = [
        [_escape(label), *(f"{counts[name][number]:,}" for name in counts)]
        for number, label in enumerate(data.label_names[:_MOST_CLASSES])
    ]
    if size > _MOST_CLASSES:
        rows = [[f"all {size:,}", *(f"{len(split):,}" for split in data.splits.values())]]
    else:
        rows.append(["**all**", *(f"{len(split):,}" for split in data.splits.values())])
    return _tabulate(["class", *counts], rows)


def _describe_groups(data: LoadedData) -> str:
    """Whether rows that belong together lie in two splits."""
    sentences = []
    for column in key_columns(data.splits["train"]):
        found = find_overlaps(data.splits, [column])
        shared = [
            f"{' and '.join(one.splits)} share {len(one.keys):,} of its values" for one in found
        ]
        verdict = "; ".join(shared) or "no value lies in two splits"
        sentences.append(f"`{column}` tells which rows belong together: {verdict}.")
    return " ".join(sentences)


def _tabulate_columns(data: LoadedData) -> str:
    train = data.splits["train"]
    content = _content(data)
    rows = [
        ["`id`", "text", "name of the example"],
        [f"`{content}`", content, "the file; its bytes lie in the table"],
        ["`label`", "class", "one of the classes above"],
    ]
    for column in key_columns(train):
        distinct = set().union(*(distinct_values(one, column) for one in data.splits.values()))
        rows.append([f"`{column}`", "text", f"group key, {len(distinct):,} different values"])
    return _tabulate(["column", "type", "meaning"], rows)


def _describe_use(facts: CardFacts) -> str:
    section = yaml.safe_dump({"data": dict(facts.section)}, sort_keys=False, allow_unicode=True)
    words = [json.dumps(facts.section["repo_id"])]
    if "revision" in facts.section:
        words.append(f"revision={json.dumps(facts.section['revision'])}")
    return (
        "In a configuration of hf_finetune, which reads the same rows and splits:\n\n"
        f"```yaml\n{section}```\n\nWith the datasets library:\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        f"splits = load_dataset({', '.join(words)})\n```"
    )


def _tabulate(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _end(text: str) -> str:
    return f"{text.rstrip('.')}." if text else ""
