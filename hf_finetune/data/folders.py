"""Data sets of one file an example: where the files lie, what they are, and which can't be used.

Shared by image_folder and its like, which bring their file endings and the reading of one file.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from hf_finetune.data import Contradiction, DataOptions
from hf_finetune.data.example_table import TableColumns, list_table, read_header
from hf_finetune.data.folder_tree import list_files, list_tree
from hf_finetune.data.listing import Example, Listing, Problem, shown
from hf_finetune.data.name_keys import warn_of_columns
from hf_finetune.data.name_patterns import (
    check_pattern,
    choose_groups,
    keep_groups,
    part_names,
    read_names,
)
from hf_finetune.errors import DataError

_OWN_COLUMNS = ("id", "image", "audio", "label", "measured")
_SHOWN_PROBLEMS = 5


class FolderOptions(DataOptions):
    """What every data set of files understands."""

    root: str
    """Folder with a folder for each class, or with train, validation and test folders of class
    folders, or with the files that a table names, or with files whose names tell the class."""
    csv: str | None = None
    """A table, CSV or TSV, in `root`, with a row for each file; its folders then mean nothing."""
    path_column: str = "path"
    """Column of the file's path, from `root`."""
    label_column: str = "label"
    """Column of the class."""
    split_column: str = "split"
    """Column of train, validation (val, valid, dev) or test, where the table has one."""
    group_columns: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Columns whose equal values must stay in one split, such as patient or speaker; those that
    `split.group_by` and `split.leave_out` name are read in any case."""
    group_pattern: str | None = None
    """Takes group keys from the file's name, without its ending: `{patient}_*`, with `*` for what
    is no key. A part takes as little as it can. `{patient}/*` takes in the folder above."""
    name_pattern: str | None = None
    """Takes the class from the file's name, too: `{label}_{speaker}_{take}`; folders then mean
    nothing, but for train, validation and test. The other parts are group keys: with
    `split.group_by: auto` those, in their order, that can be kept together."""

    @field_validator("group_pattern")
    @classmethod
    def _names_parts(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value, _OWN_COLUMNS)
        return value

    @field_validator("name_pattern")
    @classmethod
    def _names_label(cls, value: str | None) -> str | None:
        if value is not None:
            check_pattern(value, [name for name in _OWN_COLUMNS if name != "label"])
            if "label" not in part_names(value):
                raise ValueError(
                    f"must say where the class stands, got {value!r}: {{label}}_* for example"
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
    def _one_source(self) -> Self:
        for key in ("csv", "group_pattern"):
            if self.name_pattern is not None and getattr(self, key) is not None:
                raise ValueError(f"name_pattern takes classes and keys from names; leave out {key}")
        return self

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
        contradictions: What of it stands under several classes.
    """

    root: Path
    examples: dict[str, list[Example]]
    facts: dict[str, dict[str, Any]]
    label_names: tuple[str, ...]
    group_columns: tuple[str, ...]
    warnings: tuple[str, ...]
    skipped: tuple[str, ...]
    contradictions: tuple[Contradiction, ...] = ()


def read_folder(options: FolderOptions, kind: FileKind) -> FolderContent:
    """Lists the examples and reads every file once.

    Raises:
        DataError: There is no such folder, nothing to use in it, its layout isn't known, or (with
            `on_bad_example: stop`) some examples can't be used.
    """
    root = Path(options.root)
    listing = _list_examples(root, options, kind)
    if not listing.examples and options.csv is None:  # the layout is another: say which are known
        raise DataError(_say_nothing_found(root, options, kind, listing))
    content = read_listing(root, listing, options, kind)
    if not any(content.examples.values()):
        raise DataError(_say_nothing_found(root, options, kind, listing))
    return content


def read_listing(
    root: Path, listing: Listing, options: DataOptions, kind: FileKind
) -> FolderContent:
    """Reads every file of a listing once, and sorts out what can't be used.

    Args:
        root: The folder.
        listing: Its examples.
        options: The data set's.
        kind: What the files are.

    Raises:
        DataError: Some examples can't be used, with `on_bad_example: stop`.
    """
    from hf_finetune.data.file_scan import scan_files

    place = f"data.root: {str(root)!r}"
    files = list(dict.fromkeys(example.id for example in listing.examples))
    scan = scan_files(root, files, kind.measure, kind.recipe)
    problems = [*listing.problems, *(Problem(*fault) for fault in scan.faults.items())]
    readable = [example for example in listing.examples if example.id in scan.facts]
    contradictions = find_contradictions(readable, scan.facts, kind.noun)
    problems += contradictions.values()
    examples = [example for example in readable if example.id not in contradictions]
    warnings = [*listing.warnings, *scan.warnings, *settle_problems(problems, place, options)]
    return FolderContent(
        root,
        {
            split: [example for example in examples if (example.split or "train") == split]
            for split in listing.splits or ("train",)
        },
        scan.facts,
        order_labels({example.label for example in listing.examples}),
        listing.group_columns,
        tuple(warnings),
        tuple(map(str, problems)),
        list_contradictions(readable, scan.facts),
    )


def describe_layouts(kind: FileKind) -> str:
    """The layouts that are accepted, in a sentence."""
    return (
        f"Accepted: a folder for each class (root/cat/1{kind.suffixes[0]}); such folders in train, "
        "validation and test; or a table (data.csv: labels.csv, with the columns path and label); "
        "or names that tell the class (data.name_pattern: {label}_*)."
    )


def _list_examples(root: Path, options: FolderOptions, kind: FileKind) -> Listing:
    if not root.is_dir():
        there = "is no folder" if root.exists() else "is not there"
        raise DataError(f"data.root: {options.root!r} {there}. {describe_layouts(kind)}")
    if options.csv is not None:
        table = root / options.csv
        columns = _choose_columns(table, options)
        listing = list_table(root, table, columns)
        if options.split.group_by == "auto" and not columns.groups and not options.group_pattern:
            used = (columns.path, columns.label, columns.split)
            listing.warnings += warn_of_columns(read_header(table), used)
    elif options.name_pattern is not None:
        listing = list_files(root, kind.suffixes, kind.noun)
    else:
        listing = list_tree(root, kind.suffixes, kind.noun)
        _refuse_wrapping(root, listing)
    for key in ("group_pattern", "name_pattern"):
        pattern: str | None = getattr(options, key)
        if pattern is not None:
            ending = Path(pattern).suffix
            if ending.lower() in kind.suffixes:
                pattern = pattern.removesuffix(ending)
            read_names(listing, pattern, key)
    _settle_groups(listing, options)
    return listing


def _refuse_wrapping(root: Path, listing: Listing) -> None:
    """Stops where the class folders lie in a single folder, as an archive unpacks them."""
    folders = {posixpath.dirname(example.id) for example in listing.examples}
    if listing.splits or listing.problems or not all("/" in folder for folder in folders):
        return
    above = posixpath.commonpath(folders) if len(folders) > 1 else ""
    if above:
        name, inner = above.partition("/")[0], root / above
        raise DataError(
            f"data.root: {str(root)!r} has a single class folder, {name!r}, with folders in it. "
            f"If those are the classes, name the folder that they lie in: {str(inner)!r}. "
            "Otherwise add a second class."
        )


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
                f"data.{key}: {table} has no column {name!r}. It has {', '.join(header)}. Name one "
                f"of them in data.{key}; or is its first row no header?"
            )
    groups = (*options.group_columns, *_columns_of_split(header, options))
    return TableColumns(options.path_column, options.label_column, split, groups)


def _columns_of_split(header: Sequence[str], options: FolderOptions) -> list[str]:
    """Further columns of a table that `data.split` names: they are group keys without a word."""
    taken = {*options.group_columns, *part_names(options.group_pattern or ""), *_OWN_COLUMNS}
    named = options.split.named_columns
    return [name for name in named if name in header and name not in taken]


def _settle_groups(listing: Listing, options: FolderOptions) -> None:
    """Of the parts of file names, leaves those that are wanted as groups."""
    parts = {*part_names(options.name_pattern or options.group_pattern or "")}
    named = {*options.split.named_columns}
    if named - {*listing.group_columns}:
        return  # `division` stops at it, and says which there are
    if parts & named:
        kept = [name for name in listing.group_columns if name in named or name not in parts]
        keep_groups(listing, kept)
    elif options.name_pattern is not None and options.split.group_by == "auto":
        made = {*listing.splits} - {"train"}
        folds = options.split.num_folds or 0
        keep_groups(listing, choose_groups(listing, 3 - len(made), folds))


def find_contradictions(
    examples: Sequence[Example], facts: dict[str, dict[str, Any]], noun: str
) -> dict[str, Problem]:
    """Examples with the same content in different classes, by id.

    Args:
        examples: Those that can be read.
        facts: By id; read is `digest`.
        noun: What one is called.
    """
    same: dict[str, dict[str, Example]] = defaultdict(dict)
    for example in examples:
        same[facts[example.id]["digest"]].setdefault(example.label, example)
    found: dict[str, Problem] = {}
    for example in examples:
        labels = same[facts[example.id]["digest"]]
        if len(labels) > 1:
            other = next(labels[label] for label in labels if label != example.label)
            two = f"the same {noun} is {example.label} here and {other.label} in "
            two += "another row" if other.id == example.id else shown(other.id)
            found.setdefault(example.id, Problem(example.id, f"{two}, so one label is wrong"))
    return found


def list_contradictions(
    examples: Sequence[Example], facts: dict[str, dict[str, Any]]
) -> tuple[Contradiction, ...]:
    """What `find_contradictions` finds, as sets of examples that have the same content."""
    same: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        same[facts[example.id]["digest"]].append(example)
    return tuple(
        Contradiction(tuple(one.id for one in rows), tuple(one.label for one in rows))
        for rows in same.values()
        if len({one.label for one in rows}) > 1
    )


def settle_problems(
    problems: Sequence[Problem], place: str, options: DataOptions
) -> tuple[str, ...]:
    """Stops at bad examples, or says in a warning that they were left out.

    Args:
        problems: The bad examples.
        place: What has them, to begin the message with.
        options: The data set's.

    Raises:
        DataError: There are some, and `on_bad_example` is stop.
    """
    if not problems:
        return ()
    count = f"{len(problems):,} bad example{'s' * (len(problems) > 1)}"
    if options.on_bad_example == "skip":
        return (f"{count} left out (data.on_bad_example: skip); run.json lists them all",)
    listed = "; ".join(map(str, problems[:_SHOWN_PROBLEMS]))
    more = len(problems) - _SHOWN_PROBLEMS
    raise DataError(
        f"{place} has {count}: {listed}"
        f"{f'; and {more:,} more' if more > 0 else ''}. Mend or remove them, or leave them out "
        "with data.on_bad_example: skip"
    )


def _say_nothing_found(root: Path, options: FolderOptions, kind: FileKind, listing: Listing) -> str:
    where = f"{str(root)!r} has" if options.csv is None else f"{str(root / options.csv)!r} names"
    reasons = [*listing.warnings, *map(str, listing.problems[:1])]
    if len(listing.problems) > 1:
        reasons.append(f"and {len(listing.problems) - 1:,} more")
    found = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"data.root: {where} no {kind.noun} that can be used{found}. {describe_layouts(kind)} "
        f"Endings: {' '.join(kind.suffixes)}."
    )


def order_labels(labels: set[str]) -> tuple[str, ...]:
    """Classes in order: whole numbers by size, names by the alphabet."""
    if all(label.isascii() and label.isdigit() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
