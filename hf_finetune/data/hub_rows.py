"""From the rows of a foreign table to splits as the data room's door describes them.

What `hub` does once it is settled which splits and columns are meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features
from datasets.fingerprint import generate_random_fingerprint
from datasets.table import InMemoryTable

from hf_finetune.data import Contradiction
from hf_finetune.data.file_scan import Facts
from hf_finetune.data.folders import (
    find_contradictions,
    list_contradictions,
    order_labels,
    settle_problems,
)
from hf_finetune.data.hub_columns import Columns
from hf_finetune.data.hub_content import Content, name_files
from hf_finetune.data.listing import Example, Problem
from hf_finetune.data.row_scan import scan_rows
from hf_finetune.data.tables import column_values, select_rows
from hf_finetune.errors import DataError

if TYPE_CHECKING:
    from hf_finetune.data.hub import Options


@dataclass(frozen=True)
class HubRows:
    """What became of the rows.

    Attributes:
        splits: By train, validation and test, as far as there are such.
        warnings: What was survived.
        skipped: Rows that were left out, each with the reason.
        contradictions: Those of them that stand under several classes.
    """

    splits: dict[str, Dataset]
    warnings: tuple[str, ...]
    skipped: tuple[str, ...]
    contradictions: tuple[Contradiction, ...] = ()


@dataclass
class _Split:
    """One split on its way.

    Attributes:
        table: Its rows; the files undecoded.
        ids: Name of each row.
        examples: Of each row, None where it can't be used.
        facts: What was measured of each row's file, None where it can't be read.
    """

    table: Dataset
    ids: list[str]
    examples: list[Example | None] = field(default_factory=list)
    facts: list[Facts | None] = field(default_factory=list)


def read_rows(
    found: Mapping[str, Dataset],
    chosen: Mapping[str, str],
    columns: Columns,
    content: Content,
    options: Options,
) -> HubRows:
    """Reads every file once, and leaves out what can't be used.

    Args:
        found: The data set's splits, by its own names for them.
        chosen: These names, by train, validation and test.
        columns: The columns to read.
        content: What the files are.
        options: The data set's options.

    Raises:
        DataError: Some rows can't be used (with `on_bad_example: stop`), or none of a split can.
    """
    splits = _name_rows(found, chosen, columns, content)
    problems: list[Problem] = []
    warnings: list[str] = []
    for name, split in splits.items():
        problems += _list_examples(name, split, columns)
        unreadable, news = _scan(split, columns, content)
        problems += unreadable
        warnings += news
    faults, contradictions = _drop_contradictions(splits, content)
    problems += faults
    place = f"data.repo_id: {options.repo_id!r}"
    warnings += settle_problems(problems, place, options)
    label_names, news = _name_classes(splits, columns)
    usable = (pair for split in splits.values() for pair in _usable(split))
    warnings += content.settle({example.id: facts for example, facts in usable})
    built = {name: _build(split, columns, content, label_names) for name, split in splits.items()}
    return HubRows(built, (*warnings, *news), tuple(map(str, problems)), contradictions)


def _name_rows(
    found: Mapping[str, Dataset], chosen: Mapping[str, str], columns: Columns, content: Content
) -> dict[str, _Split]:
    """The splits with a name for each row: its own `id` where all of them differ."""
    splits = {}
    for split, name in chosen.items():
        table = found[name]
        if len(table) == 0:
            raise DataError(f"data.{split}_split: the split {name!r} has no rows. Name another.")
        if table._indices is not None:
            table = table.flatten_indices()
        table = table.cast_column(columns.content, content.feature)
        splits[split] = _Split(table, [f"{name}/{row}" for row in range(len(table))])
    if "id" in splits["train"].table.column_names:
        own = {split: _texts(one.table, "id") for split, one in splits.items()}
        every = [text for texts in own.values() for text in texts]
        if all(every) and len(set(every)) == len(every):
            for split, texts in own.items():
                splits[split].ids = [text or "" for text in texts]
    return splits


def _texts(table: Dataset, column: str) -> list[str | None]:
    """A column of classes, text or whole numbers as text; None where there is nothing."""
    values = column_values(table, column)
    feature = table.features[column]
    if isinstance(feature, ClassLabel):
        names = feature.names
        return [names[value] if value is not None and value >= 0 else None for value in values]
    return [None if value is None else str(value).strip() or None for value in values]


def _list_examples(name: str, split: _Split, columns: Columns) -> list[Problem]:
    """Takes down class and group keys of each row; what is wrong with the others."""
    named = (columns.label, *columns.groups)
    texts = [_texts(split.table, column) for column in named]
    if not any(texts[0]):
        advice = "" if name == "train" else f", or leave it out with data.{name}_split: none"
        raise DataError(
            f"data.{name}_split: no row has a class (column {columns.label!r}). Name another "
            f"column in data.label_column{advice}."
        )
    problems = []
    for row_id, *values in zip(split.ids, *texts, strict=True):
        void = [column for column, value in zip(named, values, strict=True) if value is None]
        if void:
            problems.append(Problem(row_id, f"it has no {void[0]}"))
        split.examples.append(None if void else Example(row_id, values[0], name, tuple(values[1:])))
    return problems


def _scan(
    split: _Split, columns: Columns, content: Content
) -> tuple[list[Problem], tuple[str, ...]]:
    """Measures each file; what is wrong with those that can't be read, and warnings."""
    measured, warnings = scan_rows(
        split.table, columns.content, split.ids, content.column, content.measure, content.recipe
    )
    split.facts = [found if isinstance(found, dict) else None for found in measured]
    faults = [
        Problem(row_id, found)
        for row_id, found in zip(split.ids, measured, strict=True)
        if isinstance(found, str)
    ]
    return faults, warnings


def _usable(split: _Split) -> list[tuple[Example, Facts]]:
    pairs = zip(split.examples, split.facts, strict=True)
    return [(example, facts) for example, facts in pairs if example and facts]


def _drop_contradictions(
    splits: Mapping[str, _Split], content: Content
) -> tuple[list[Problem], tuple[Contradiction, ...]]:
    """Takes files out that are there with several classes."""
    pairs = [pair for split in splits.values() for pair in _usable(split)]
    examples = [example for example, _ in pairs]
    facts = {example.id: one for example, one in pairs}
    contradictions = list_contradictions(examples, facts)
    found = find_contradictions(examples, facts, content.column)
    for split in splits.values():
        split.examples = [
            None if example is None or example.id in found else example
            for example in split.examples
        ]
    return list(found.values()), contradictions


def _name_classes(
    splits: Mapping[str, _Split], columns: Columns
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes in the order of their ids, and a word on it where the data doesn't say it."""
    feature = splits["train"].table.features[columns.label]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names), ()
    labels = {example.label for split in splits.values() for example, _ in _usable(split)}
    names = order_labels(labels)
    kind = "text" if "string" in feature.dtype else feature.dtype
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return names, (
        f"the column {columns.label!r} is of type {kind}: its {len(names)} values, sorted, became "
        f"the classes ({listed})",
    )


def _build(
    split: _Split, columns: Columns, content: Content, label_names: Sequence[str]
) -> Dataset:
    """A split as the room's door has it; the files' bytes stay where they are."""
    numbers = {name: number for number, name in enumerate(label_names)}
    examples = split.examples
    rows = [row for row, pair in enumerate(zip(examples, split.facts, strict=True)) if all(pair)]
    paths, contents = name_files(split.table.data.table.column(columns.content), split.ids)
    arrays: dict[str, Any] = {"id": pa.array(split.ids, pa.string())}
    for place, name in enumerate(columns.groups):
        keys = [example and example.groups[place] for example in examples]
        arrays[name] = pa.array(keys, pa.string())
    arrays[content.column] = content.make_cells(paths, contents, split.facts)
    arrays["measured"] = pa.array(split.facts)
    labels = [numbers[example.label] if example else 0 for example in examples]
    arrays["label"] = pa.array(labels, pa.int64())
    # All columns in the same chunks, as `tables.RowReader` takes them.
    table = pa.Table.from_batches(pa.table(arrays).to_batches())
    features = Features.from_arrow_schema(table.schema)
    features["label"] = ClassLabel(names=list(label_names))
    table = InMemoryTable(table.cast(features.arrow_schema))
    # Without a fingerprint, datasets would hash every byte of the files.
    dataset = Dataset(table, fingerprint=generate_random_fingerprint())
    return dataset if len(rows) == len(dataset) else select_rows(dataset, np.array(rows))
