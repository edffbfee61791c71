"""What is known of the examples of a folder before any of them is opened.

The words that `folders`, `folder_tree` and `example_table` share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# What people call the splits, in small letters.
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


class Problem(NamedTuple):
    """A file that can't be used.

    Attributes:
        file: Its path below the root, or the place in a table.
        reason: What is wrong with it.
    """

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.file)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Example:
    """One file with its class.

    Attributes:
        id: Its path below the root, with `/`.
        label: Name of its class.
        split: train, validation or test; None where the data doesn't say.
        groups: Group keys, in the order of the listing's `group_columns`.
    """

    id: str
    label: str
    split: str | None
    groups: tuple[str, ...] = ()


@dataclass
class Listing:
    """The examples of a folder.

    Attributes:
        examples: Those that were found.
        problems: What can't be used, and why.
        warnings: What was survived.
        splits: The splits that the data names; none where it has no splits.
        group_columns: Names of the group keys of each example.
    """

    examples: list[Example] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    splits: tuple[str, ...] = ()
    group_columns: tuple[str, ...] = ()


def find_split(word: str) -> str | None:
    """The split that a word means, or None."""
    return SPLIT_WORDS.get(word.strip().lower())


def is_unicode(text: str) -> bool:
    """Whether a file name is text; bytes that are no UTF-8 come from the system as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def shown(text: str) -> str:
    r"""Text as one printable line: what can't be printed, or is no UTF-8, as `\n`, `\udcff`, …."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
