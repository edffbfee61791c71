"""Takes classes and group keys out of file names, by patterns such as `{label}_{speaker}_{take}`.

Place: `folders` applies it to what `folder_tree` or `example_table` has listed, and says there in
its options how patterns are written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from hf_finetune.data.listing import Listing, Problem
from hf_finetune.errors import DataError

_PART = re.compile(r"\{([^{}]*)\}|(\*)")


def part_names(pattern: str) -> list[str]:
    """Names of a pattern's parts, in their order."""
    return [part[1] for part in _PART.finditer(pattern) if part[2] is None]


def check_pattern(pattern: str, reserved: Sequence[str]) -> None:
    """Makes sure that a pattern names parts, each once, and none by a reserved word.

    Raises:
        ValueError: It doesn't.
    """
    names = part_names(pattern)
    for name in names:
        if not name.isidentifier() or name in reserved:
            raise ValueError(
                f"{name!r} can't name a part of a pattern; take a word like patient or speaker"
            )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"must name parts, each once, in braces, got {pattern!r}: {{patient}}_* for example"
        )


def read_names(listing: Listing, pattern: str, key: str) -> None:
    """Adds the parts of each file's name to its group keys; the part `label` is its class.

    Args:
        listing: What to add to; a name that doesn't match becomes one of its problems.
        pattern: Checked by `check_pattern`; file endings don't count.
        key: The setting that it comes from, for messages.

    Raises:
        DataError: A part has the name of a column of the table.
    """
    names = [name for name in part_names(pattern) if name != "label"]
    taken = [name for name in names if name in listing.group_columns]
    if taken:
        raise DataError(
            f"data.{key}: {taken[0]!r} is a column of the table already. Rename the part."
        )
    examples = []
    for example in listing.examples:
        match = _match(example.id, pattern)
        if match is None:
            reason = f"its name is not of the form {pattern!r} (data.{key})"
            listing.problems.append(Problem(example.id, reason))
            continue
        groups = (*example.groups, *(match[name] for name in names))
        label = match.groupdict().get("label", example.label)
        examples.append(replace(example, label=label, groups=groups))
    listing.examples = examples
    listing.group_columns = (*listing.group_columns, *names)


def match_names(names: Sequence[str], pattern: str) -> list[dict[str, str]]:
    """The parts of each name that is of a pattern's form.

    Args:
        names: Paths of files.
        pattern: Checked by `check_pattern`; an ending that the files have doesn't count.
    """
    ending = Path(pattern).suffix
    if ending.lower() in {Path(name).suffix.lower() for name in names}:
        pattern = pattern.removesuffix(ending)
    matches = (_match(name, pattern) for name in names)
    return [match.groupdict() for match in matches if match is not None]


def _match(name: str, pattern: str) -> re.Match[str] | None:
    return _compile(pattern).search(name.removesuffix(Path(name).suffix))


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression for the end of a path without its ending."""
    text, end = r"(?:^|/)", 0
    for part in _PART.finditer(pattern):
        text += re.escape(pattern[end : part.start()])
        text += "[^/]*?" if part[2] else f"(?P<{part[1]}>[^/]+?)"
        end = part.end()
    return re.compile(text + re.escape(pattern[end:]) + r"\Z")


def keep_groups(listing: Listing, names: Sequence[str]) -> None:
    """Leaves only some of the group columns."""
    places = [listing.group_columns.index(name) for name in names]
    listing.examples = [
        replace(example, groups=tuple(example.groups[place] for place in places))
        for example in listing.examples
    ]
    listing.group_columns = tuple(names)


def choose_groups(listing: Listing, num_splits: int, num_folds: int) -> list[str]:
    """The group columns that can be kept together at once.

    In their order, each that leaves enough groups, and cuts across no splits that are given: of the
    spoken digits' speaker and take the speaker, since by both all rows hang together. The first is
    kept across given splits, too, so that it is found to leak; and with too few groups for the
    folds, so that whoever asks for them hears of it.

    Args:
        listing: The examples; a warning is added to it where a column is left out.
        num_splits: How many splits are to be made of the groups.
        num_folds: How many folds; 0 for none.
    """
    chosen: list[str] = []
    for name in listing.group_columns:
        needed = max(num_splits, num_folds) if chosen else num_splits
        enough = _count_groups(listing, [*chosen, name]) >= needed
        if enough and (not chosen or _lies_apart(listing, name)):
            chosen.append(name)
    left = " and ".join(name for name in listing.group_columns if name not in chosen)
    if left:
        kept = f"keeps {' and '.join(chosen)} together" if chosen else "keeps nothing together"
        listing.warnings.append(
            f"data.split.group_by: auto {kept}, and {left} not, by which no splits could be kept "
            "apart. Name there what matters"
        )
    return chosen


def _lies_apart(listing: Listing, name: str) -> bool:
    """Whether no group of a column lies in two of the given splits."""
    place = listing.group_columns.index(name)
    places = {(example.groups[place], example.split) for example in listing.examples}
    return len(places) == len({key for key, _ in places})


def _count_groups(listing: Listing, names: Sequence[str]) -> int:
    from hf_finetune.data.splits import connect_groups

    places = [listing.group_columns.index(name) for name in names]
    keys = [[example.groups[place] for example in listing.examples] for place in places]
    return len({*connect_groups(keys).tolist()}) if listing.examples else 0
