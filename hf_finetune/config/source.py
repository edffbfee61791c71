"""A configuration as it is written: plain values, where each stands, and what is wrong so far.

`yaml_text` and `overrides` fill it, `check` reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hf_finetune.errors import ConfigError

KeyPath = tuple[str | int, ...]
FROM_OVERRIDE = 10**9
"""Rank of the first override's place; those of a file's lines are below."""


class Place(NamedTuple):
    """Where something is written, and its rank among the places."""

    rank: int
    text: str


class Source:
    """A configuration as it is written: plain values, their places, and the faults found so far.

    Attributes:
        where: The file, or another name for the text; may be empty.
        tree: Sections and values; overrides included.
        places: Where each key stands.
        overridden: Keys set by an override, with the value that stood there (None where none did).
        broken: Keys that a fault is known of.
    """

    def __init__(self, where: str, tree: dict[str, Any] | None = None) -> None:
        self.where = where
        self.tree = {} if tree is None else tree
        self.places: dict[KeyPath, Place] = {}
        self.overridden: dict[KeyPath, Any] = {}
        self.broken: set[KeyPath] = set()
        self._problems: dict[str, int] = {}

    def place(self, path: KeyPath) -> Place:
        """Where a key stands; for a key that isn't written, the section around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(0, self.where))

    def problem(self, path: KeyPath, text: str, place: Place | None = None) -> None:
        """Notes a fault of one key."""
        rank, where = place or self.place(path)
        self.broken.add(path)
        self._problems.setdefault(f"{where}: {text}" if where else text, rank)

    def is_broken(self, path: KeyPath) -> bool:
        """Whether a fault is known of this key or of one inside it."""
        return any(broken[: len(path)] == path for broken in self.broken)

    def raise_problems(self) -> None:
        """Raises all faults in the order of the file, overrides last.

        Raises:
            ConfigError: There are any.
        """
        if self._problems:
            raise ConfigError(sorted(self._problems, key=lambda text: self._problems[text]))


def dotted(path: KeyPath) -> str:
    """A key path as people write it: `train.schedule.name`."""
    return ".".join(str(part) for part in path)
