"""Finds the examples in a folder of class folders, and whatever else lies there.

One of the two ways in which `folders` lists examples; the other is a table of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hf_finetune.data.listing import (
    SPLIT_WORDS,
    Example,
    Listing,
    Problem,
    find_split,
    is_unicode,
    shown,
)
from hf_finetune.errors import DataError
from hf_finetune.registry import nearest

# What operating systems and tools leave about; nobody means it as data. Hidden folders and the
# halves of files that macOS writes (._x) are left out by their first letters.
_LITTER = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "icon\r", ".directory", ".localized"),
    *(
        "__macosx",
        "__pycache__",
        "@eadir",
        "$recycle.bin",
        "lost+found",
        ".gitkeep",
        ".gitignore",
        ".gitattributes",
    ),
}


def list_tree(root: Path, suffixes: tuple[str, ...], noun: str) -> Listing:
    """Lists the files of class folders: `cat/…/1.png`, or `train/cat/…/1.png`.

    Args:
        root: The folder; there are splits if it has a folder called `train` or the like.
        suffixes: Endings of the files that count, in small letters.
        noun: What they are, for messages.

    Raises:
        DataError: A folder beside those of the splits holds examples, or two are the same split.
    """
    tree = _Tree(root, suffixes)
    above = tuple(_number(folder) for folder in root.resolve().parents)
    paths = [PurePosixPath(path) for path in tree.walk("", above)]
    folders = [PurePosixPath(path) for path in tree.folders]
    splits = _find_splits(root, [path for path in folders if len(path.parts) == 1], paths)
    depth = 1 if splits else 0
    listing = Listing(problems=tree.problems, warnings=_say_strays(tree.strays, noun))
    for path in paths:
        if len(path.parts) < depth + 2:
            listing.problems.append(Problem(str(path), "it lies in no class folder"))
            continue
        split = splits[path.parts[0]] if splits else None
        listing.examples.append(Example(str(path), path.parts[depth], split))
    listing.splits = tuple(dict.fromkeys(splits.values()))
    filled = {example.label for example in listing.examples}
    for folder in folders:
        is_class = len(folder.parts) == depth + 1 and (not splits or folder.parts[0] in splits)
        if is_class and folder.name not in filled:
            listing.problems.append(Problem(str(folder), f"the class folder holds no {noun}"))
    return listing


def list_files(root: Path, suffixes: tuple[str, ...], noun: str) -> Listing:
    """Lists files whose names tell their class: `7_anna_0.wav`, or `train/7_anna_0.wav`.

    Args:
        root: The folder, searched with all folders in it.
        suffixes: Endings of the files that count, in small letters.
        noun: What they are, for messages.

    Raises:
        DataError: As `list_tree`.
    """
    tree = _Tree(root, suffixes)
    above = tuple(_number(folder) for folder in root.resolve().parents)
    paths = [PurePosixPath(path) for path in tree.walk("", above)]
    top = [path for path in map(PurePosixPath, tree.folders) if len(path.parts) == 1]
    splits = _find_splits(root, top, paths)
    listing = Listing(problems=tree.problems, warnings=_say_strays(tree.strays, noun))
    for path in paths:
        if splits and len(path.parts) < 2:
            listing.problems.append(Problem(str(path), "it lies in the folder of no split"))
        else:
            split = splits[path.parts[0]] if splits else None
            listing.examples.append(Example(str(path), "", split))
    listing.splits = tuple(dict.fromkeys(splits.values()))
    return listing


class _Tree:
    """Walks through a folder, links included, and notes what it meets.

    Attributes:
        folders: Folders below the root.
        strays: Files of other kinds, counted by their ending.
        problems: What can't be used.
    """

    def __init__(self, root: Path, suffixes: tuple[str, ...]) -> None:
        self.root = root
        self.suffixes = suffixes
        self.folders: list[str] = []
        self.strays: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def walk(self, folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
        """Paths of the files that count, in the order of their names.

        Args:
            folder: Path below the root.
            above: What `_number` says of each folder above this one.
        """
        try:
            number = _number(self.root / folder)
            if number in above:
                reason = "the link leads back to a folder that it lies in"
                self.problems.append(Problem(folder, reason))
                return
            with os.scandir(self.root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            reason = f"the folder can't be opened ({error.strerror})"
            self.problems.append(Problem(folder or ".", reason))
            return
        if folder:
            self.folders.append(folder)
        for entry in found:
            yield from self._enter(entry, folder, (*above, number))

    def _enter(
        self, entry: os.DirEntry[str], folder: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[str]:
        path = f"{folder}/{entry.name}" if folder else entry.name
        if _is_litter(entry.name):
            return
        # An entry knows it without a look at the disk, but fails at a link to itself.
        is_folder = Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()
        if is_folder and entry.name.startswith("."):
            return
        suffix = Path(entry.name).suffix.lower()
        if not is_folder and (suffix not in self.suffixes or entry.name.startswith(".")):
            self.strays[suffix or entry.name] += 1
        elif not is_unicode(entry.name):
            self.problems.append(Problem(path, "its name is not UTF-8; rename it"))
        elif is_folder:
            yield from self.walk(path, above)
        else:
            yield path


def _number(folder: Path) -> tuple[int, int]:
    """What tells a folder from any other, under whatever name."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_litter(name: str) -> bool:
    return name.startswith("._") or name.lower() in _LITTER


def _find_splits(
    root: Path, folders: list[PurePosixPath], paths: list[PurePosixPath]
) -> dict[str, str]:
    """The split of each folder that is one; none where the folders are classes."""
    splits = {path.name: find_split(path.name) for path in folders}
    named = {name: split for name, split in splits.items() if split is not None}
    if not named:
        return {}
    filled = {path.parts[0] for path in paths if len(path.parts) > 1}
    for name in sorted(filled - set(named)):
        raise DataError(
            f"data.root: {str(root)!r} has folders of splits ({', '.join(named)}), and "
            f"{name!r}, which is no name of a split. {nearest(name.lower(), list(SPLIT_WORDS))} "
            "Rename it or move it away; where it is a class, list the files in a table (data.csv)."
        )
    for split in set(named.values()):
        twice = [name for name, other in named.items() if other == split]
        if len(twice) > 1:
            raise DataError(
                f"data.root: {str(root)!r} has {' and '.join(twice)}, which are both {split}. "
                "Keep one of them."
            )
    if "train" not in named.values():
        raise DataError(
            f"data.root: {str(root)!r} has the split {', '.join(named)}, but none to train on. "
            "Add a folder called train, with a folder for each class."
        )
    return named


def _say_strays(strays: Counter[str], noun: str) -> list[str]:
    """One sentence on files that were passed over."""
    if not strays:
        return []
    kinds = ", ".join(f"{count} {shown(kind)}" for kind, count in strays.most_common(5))
    more = ", …" if len(strays) > 5 else ""
    total = strays.total()
    what = f"{total} files that are no {noun}s were"
    if total == 1:
        what = f"1 file that is no {noun} was"
    return [f"{what} passed over ({kinds}{more})"]
