"""Overrides of a configuration from the command line: `section.key=value`.

Applied to the values as written, before `check` looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_finetune.config.source import FROM_OVERRIDE, Place, Source, dotted
from hf_finetune.config.yaml_text import REFUSED, NotYamlError, Reader, ends_in_comment


def apply_overrides(source: Source, overrides: Sequence[str]) -> None:
    """Sets `section.key=value` texts in a source; values are YAML, and a later one wins.

    A section given whole, `train.schedule={name: cosine}`, replaces the one in the file.
    """
    for number, override in enumerate(overrides):
        place = Place(FROM_OVERRIDE + number, f"override {override!r}")
        key, equals, text = override.partition("=")
        path = tuple(part.strip() for part in key.split("."))
        if not equals or not all(path):
            source.problem(path, "must have the form section.key=value.", place)
        elif not text.strip():
            told = "has no value. Write null for nothing, '' for empty text."
            source.problem(path, told, place)
        else:
            _override(source, path, text, place)


def _override(source: Source, path: tuple[str, ...], text: str, place: Place) -> None:
    section: Any = source.tree
    for depth, key in enumerate(path[:-1], start=1):
        if key not in section:
            source.places[path[:depth]] = place
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            told = f"{dotted(path[:depth])!r} is a value, not a section with keys."
            return source.problem(path, told, place)
    for known in [known for known in source.places if known[: len(path)] == path]:
        del source.places[known]
    source.places[path] = place
    try:
        value = Reader(source, lambda _: place).read(text, path)
    except NotYamlError as fault:
        told = f"the value isn't valid YAML: {fault.text}. Text with signs in it needs quotes."
        return source.problem(path, told, place)
    if ends_in_comment(text):
        told = "'#' begins a comment here, and would be left out. Put the whole value in quotes."
        return source.problem(path, told, place)
    if value is not REFUSED:
        source.overridden.setdefault(path, section.get(path[-1]))
        section[path[-1]] = value
    return None
