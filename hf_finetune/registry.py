"""Finds the kinds of a room: a name in a configuration is the name of a file in the room's folder.

A file is a kind when it defines its room's verb at top level (`load` for a data set, `build` for a
model or a loss, `fit` for an engine, `start` for a tracker); the rest of the folder is what the
kinds share. Listing reads the files as text, so that it imports nothing.
"""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from hf_finetune.errors import UserError
from hf_finetune.options import Section

VERBS = {
    "data": "load",
    "models": "build",
    "losses": "build",
    "engines": "fit",
    "trackers": "start",
}
SHORT_NAMES = {"cifar": "cifar10"}
_PACKAGE = Path(__file__).parent


@cache
def kind_names(room: str) -> tuple[str, ...]:
    """Names of the kinds in a room, sorted.

    Args:
        room: A folder of the package: data, models, losses, engines or trackers.
    """
    verb = re.compile(rf"^def {VERBS[room]}\(", re.MULTILINE)
    files = (_PACKAGE / room).glob("*.py")
    return tuple(
        sorted(
            path.stem
            for path in files
            if path.stem != "__init__" and verb.search(path.read_text(encoding="utf-8"))
        )
    )


def kind(room: str, name: str) -> ModuleType:
    """The module of one kind, imported.

    Raises:
        UserError: The room has no such kind; the message names the nearest.
    """
    names = kind_names(room)
    if name not in names:
        raise UserError(f"{room}: unknown name {name!r}. {nearest(name, names)}")
    return importlib.import_module(f"hf_finetune.{room}.{name}")


def kind_of(options: Section) -> ModuleType:
    """The module of the kind that declares these options: a room's file, or a plugin.

    Raises:
        UserError: They are what all kinds of a room share, and so no kind's own.
    """
    module = sys.modules[type(options).__module__]
    if getattr(module, "Options", None) is not type(options):
        name = getattr(options, "name", "")
        raise UserError(
            f"{type(options).__name__}(name={name!r}): these are no kind's own options. Take those "
            "of its file, such as hf_finetune.models.cnn.Options, or a configuration."
        )
    return module


def usual_name(word: str, names: Iterable[str]) -> str:
    """A name as its file is called, from any usual spelling of it.

    Capitals, hyphens and left-out underscores don't matter: `Fashion-MNIST` and `fashionmnist` are
    `fashion_mnist`. A word that is no such spelling comes back as it is.
    """
    known = {name.replace("_", ""): name for name in names}
    plain = word.lower().replace("-", "").replace("_", "").replace(" ", "")
    return known.get(SHORT_NAMES.get(plain, plain), word)


def nearest(word: str, words: tuple[str, ...] | list[str]) -> str:
    """A sentence that helps with a misspelt word: the near miss, or what is allowed."""
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Allowed: {', '.join(sorted(words))}."
