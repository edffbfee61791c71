"""Data sets of one file an example: where the files lie, what they are, and which can't be used.

Shared by image_folder and its like, which bring their file endings and the reading of one file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from hf_finetune.data import DataOptions
from hf_finetune.data.example_table import TableColumns, list_table, read_header
from hf_finetune.data.folder_tree import list_tree
from hf_finetune.data.listing import Example, Listing, Problem, shown
from hf_finetune.errors import DataError

_OWN_COLUMNS = ("id", "image", "audio", "label", "measured")
_SHOWN_PROBLEMS = 5
_PART = re.compile(r"\{([^{}]*)\}|(\*)")


class FolderOptions(DataOptions):
    """What every data set of files understands."""

    root: str
    """Folder with a folder for each class, or with train, validation and test folders of class
    folders, or with the files that a table names."""
    csv: str | None = None
    """A table, CSV or TSV, in `root`, with a row for each file; its folders then mean nothing."""
    path_column: str = "path"
    """Column of the file's path, from `root`."""
    label_column: str = "label"
    """Column of the class."""
    split_column: str = "split"
    """Column of train, validation (val, valid, dev) or test, where the table has one."""
    group_columns: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Columns whose equal values must stay in one split, such as patient or speaker."""
    group_pattern: str | None = None
    """Takes group keys from the file's name, without its ending: `{patient}_*`, with `*` for what
    is no key. A part takes as little as it can. `{patient}/*` takes in the folder above."""

    @field_validator("group_pattern")
    @classmethod
    def _names_parts(cls, value: str | None) -> str | None:
        names = [] if value is None else _part_names(value)
        for name in names:
            if not name.isidentifier() or name in _OWN_COLUMNS:
                raise ValueError(
                    f"{name!r} can't name a part of a pattern; take a word like patient"
                )
        if value is not None and (not names or len(set(names)) < len(names)):
            raise ValueError(
                f"must name parts, each once, in braces, got {value!r}: {{patient}}_* for example"
            )
        return value

    @field_validator("group_columns")
    @classmethod
    def _free_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({*value} & {*_OWN_COLUMNS})
        if taken:
            raise ValueError(f"{taken[0]!r} is a column of the toolkit's own; rename it")
        return value

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> Self:
        for key in ("path_column", "label_column", "split_column", "group_columns"):
            if self.csv is None and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} is for a table, and csv names none. Name the table, or leave {key} out "
                    "(group_pattern takes group keys from file names)"
                )
        return self


@dataclass(frozen=True)
class FileKind:
    """What the files of a data set are.

    Attributes:
        noun: What one is called, in messages.
        suffixes: Endings of file names, in small letters, the most usual one first.
        measure: Reads a file whole; answers with plain values, among them `digest`, which two
            files share only if their content is the same; raises DataError for a bad file.
        recipe: Says what `measure` does, so that facts of another recipe aren't taken for it.
    """

    noun: str
    suffixes: tuple[str, ...]
    measure: Callable[[Path], dict[str, Any]]
    recipe: str


@dataclass(frozen=True)
class FolderContent:
    """The examples of a folder that can be used.

    Attributes:
        root: The folder.
        examples: By split, in the order of the listing; all are `train` where the data has none.
        facts: What the kind's `measure` found, by the example's id.
        label_names: Classes: whole numbers by size, names by the alphabet.
        group_columns: Names of the examples' group keys.
        warnings: What was survived.
        skipped: What was left out, and why, one phrase each.
    """

    root: Path
    examples: dict[str, list[Example]]
    facts: dict[str, dict[str, Any]]
    label_names: tuple[str, ...]
    group_columns: tuple[str, ...]
    warnings: tuple[str, ...]
    skipped: tuple[str, ...]


def read_folder(options: FolderOptions, kind: FileKind) -> FolderContent:
    """Lists the examples and reads every file once.

    Raises:
        DataError: There is no such folder, nothing to use in it, its layout isn't known, or (with
            `on_bad_example: stop`) some examples can't be used.
    """
    from hf_finetune.data.file_scan import scan_files

    root = Path(options.root)
    listing = _list_examples(root, options, kind)
    files = list(dict.fromkeys(example.id for example in listing.examples))
    scan = scan_files(root, files, kind.measure, kind.recipe)
    problems = [*listing.problems, *(Problem(*fault) for fault in scan.faults.items())]
    readable = [example for example in listing.examples if example.id in scan.facts]
    contradictions = _find_contradictions(readable, scan.facts, kind)
    problems += contradictions.values()
    examples = [example for example in readable if example.id not in contradictions]
    warnings = [*listing.warnings, *scan.warnings, *_settle(problems, options, kind)]
    if not examples:
        raise DataError(_say_nothing_found(root, options, kind, listing))
    return FolderContent(
        root,
        {
            split: [example for example in examples if (example.split or "train") == split]
            for split in listing.splits or ("train",)
        },
        scan.facts,
        _order_labels({example.label for example in listing.examples}),
        listing.group_columns,
        tuple(warnings),
        tuple(map(str, problems)),
    )


def describe_layouts(kind: FileKind) -> str:
    """The layouts that are accepted, in a sentence."""
    return (
        f"Accepted: a folder for each class (root/cat/1{kind.suffixes[0]}); such folders in train, "
        "validation and test; or a table (data.csv: labels.csv, with the columns path and label)."
    )


def _list_examples(root: Path, options: FolderOptions, kind: FileKind) -> Listing:
    if not root.is_dir():
        there = "is no folder" if root.exists() else "is not there"
        raise DataError(f"data.root: {options.root!r} {there}. {describe_layouts(kind)}")
    if options.csv is None:
        listing = list_tree(root, kind.suffixes, kind.noun)
    else:
        table = root / options.csv
        listing = list_table(root, table, _choose_columns(table, options))
    if options.group_pattern is not None:
        _add_groups(listing, options.group_pattern, options.split.group_by)
    return listing


def _choose_columns(table: Path, options: FolderOptions) -> TableColumns:
    header = read_header(table)
    split: str | None = options.split_column
    if split not in header and split == FolderOptions.model_fields["split_column"].default:
        split = None
    keys = [
        ("path_column", options.path_column),
        ("label_column", options.label_column),
        ("split_column", split),
        *(("group_columns", name) for name in options.group_columns),
    ]
    for key, name in keys:
        if name is not None and name not in header:
            raise DataError(
                f"data.{key}: {table} has no column {name!r}. It has {', '.join(header)}."
            )
    return TableColumns(options.path_column, options.label_column, split, options.group_columns)


def _add_groups(listing: Listing, pattern: str, group_by: str | tuple[str, ...]) -> None:
    """Adds the parts of each file's name to its group keys; of several, those asked for."""
    names = _part_names(pattern)
    if not isinstance(group_by, str):
        names = [name for name in names if name in group_by] or names
    taken = [name for name in names if name in listing.group_columns]
    if taken:
        raise DataError(
            f"data.group_pattern: {taken[0]!r} is a column of the table already. Rename the part."
        )
    matcher = _compile(pattern)
    examples = []
    for example in listing.examples:
        match = matcher.search(example.id.removesuffix(Path(example.id).suffix))
        if match is None:
            reason = f"its name is not of the form {pattern!r} (data.group_pattern)"
            listing.problems.append(Problem(example.id, reason))
        else:
            keys = (*example.groups, *(match[name] for name in names))
            examples.append(replace(example, groups=keys))
    listing.examples = examples
    listing.group_columns = (*listing.group_columns, *names)


def _part_names(pattern: str) -> list[str]:
    return [part[1] for part in _PART.finditer(pattern) if part[2] is None]


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for the end of a path without its ending."""
    text, end = r"(?:^|/)", 0
    for part in _PART.finditer(pattern):
        text += re.escape(pattern[end : part.start()])
        text += "[^/]*?" if part[2] else f"(?P<{part[1]}>[^/]+?)"
        end = part.end()
    return re.compile(text + re.escape(pattern[end:]) + r"\Z")


def _find_contradictions(
    examples: Sequence[Example], facts: dict[str, dict[str, Any]], kind: FileKind
) -> dict[str, Problem]:
    """Files with the same content in different classes, by id."""
    same: dict[str, dict[str, Example]] = defaultdict(dict)
    for example in examples:
        same[facts[example.id]["digest"]].setdefault(example.label, example)
    found: dict[str, Problem] = {}
    for example in examples:
        labels = same[facts[example.id]["digest"]]
        if len(labels) > 1:
            other = next(labels[label] for label in labels if label != example.label)
            two = f"the same {kind.noun} is {example.label} here and {other.label} in "
            two += "another row" if other.id == example.id else shown(other.id)
            found.setdefault(example.id, Problem(example.id, f"{two}, so one label is wrong"))
    return found


def _settle(problems: list[Problem], options: FolderOptions, kind: FileKind) -> list[str]:
    """Stops at bad examples, or says in a warning that they were left out."""
    if not problems:
        return []
    count = f"{len(problems):,} bad example{'s' * (len(problems) > 1)}"
    if options.on_bad_example == "skip":
        return [f"{count} left out (data.on_bad_example: skip); run.json lists them all"]
    listed = "; ".join(map(str, problems[:_SHOWN_PROBLEMS]))
    more = len(problems) - _SHOWN_PROBLEMS
    raise DataError(
        f"data.root: {options.root!r} has {count}: {listed}"
        f"{f'; and {more:,} more' if more > 0 else ''}. Mend or remove them, or leave them out "
        "with data.on_bad_example: skip"
    )


def _say_nothing_found(root: Path, options: FolderOptions, kind: FileKind, listing: Listing) -> str:
    where = f"{str(root)!r} has" if options.csv is None else f"{str(root / options.csv)!r} names"
    found = f" ({'; '.join(listing.warnings)})" if listing.warnings else ""
    return (
        f"data.root: {where} no {kind.noun} that can be used{found}. {describe_layouts(kind)} "
        f"Endings: {' '.join(kind.suffixes)}."
    )


def _order_labels(labels: set[str]) -> tuple[str, ...]:
    if all(label.isascii() and label.isdigit() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
