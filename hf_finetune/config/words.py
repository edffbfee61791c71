"""Plain words for configuration errors: what is expected, what was given, what was meant.

Used by `check` only.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

from hf_finetune.config.renames import foreign_advice
from hf_finetune.config.source import KeyPath, dotted
from hf_finetune.config.tree import key_paths
from hf_finetune.options import Section

_BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "less than",
    "maximum": "of at most",
}
_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "a section",
}
_SWITCH_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_LIKE_ENOUGH = 0.75
_NUMBER = re.compile(r"[-+]?[0-9.,_]*[0-9](?:[eE][-+]?[0-9]+)?$")


def expected(schema: dict[str, Any]) -> str:
    """What a value must be, from its JSON schema: `a whole number greater than 0 or null`."""
    if "anyOf" in schema:
        return either(dict.fromkeys(expected(part) for part in schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return either(repr(choice) for choice in schema.get("enum") or [schema["const"]])
    if schema.get("type") == "array":
        return _expected_list(schema)
    words = _TYPES.get(schema.get("type", ""), "a value")
    if isinstance(schema.get("additionalProperties"), dict):
        words += f" whose values are each {expected(schema['additionalProperties'])}"
    bounds = [f"{word} {schema[key]:g}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([words, " and ".join(bounds)]).strip()


def shown(value: Any) -> str:
    """A value and its type as people name them: `0 (a whole number)`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {int: "a whole number", float: "a number", str: "text"}
    kind = kinds.get(type(value), "a list" if isinstance(value, (list, tuple)) else "")
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    text = text if len(text) <= 60 else f"{text[:57]}…"
    return f"{text} ({kind or type(value).__name__})"


def mend(schema: dict[str, Any], value: Any) -> str:
    """A sentence on how to mend a value of the wrong type, or nothing."""
    parts = schema.get("anyOf", [schema])
    types = {part.get("type") for part in parts}
    choices = [word for part in parts for word in part.get("enum", []) if isinstance(word, str)]
    if isinstance(value, str):
        if "boolean" in types and value.lower() in _SWITCH_WORDS:
            return f" Write {_SWITCH_WORDS[value.lower()]}."
        if choices and (close := near(value, choices)):
            return f" Did you mean {close!r}?"
        if types & {"integer", "number"} and _NUMBER.match(value):
            return f" Write {value.replace(',', '.')} without quotes."
    if types == {"string"} and isinstance(value, (bool, int, float)):
        return f" Put it in quotes: '{json.dumps(value)}'."
    if (
        "array" in types
        and "prefixItems" not in schema
        and not isinstance(value, (list, tuple, dict, type(None)))
    ):
        return f" Write a list: [{json.dumps(value) if not isinstance(value, str) else value}]."
    return ""


def near(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant: equal but for dashes, case and the like, or a near miss."""
    squashed = {_squash(known): known for known in words}
    exact = squashed.get(_squash(word))
    if exact is not None:
        return exact
    close = difflib.get_close_matches(_squash(word), squashed, n=1, cutoff=0.7)
    return squashed[close[0]] if close else None


def either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def key_advice(place: KeyPath, siblings: list[str], root: type[Section]) -> str:
    """What to write instead of an unknown key.

    Args:
        place: The unknown key's path.
        siblings: Keys that its section has.
        root: The class of the whole tree.
    """
    section, key = dotted(place[:-1]), str(place[-1])
    homes = [path for path in key_paths(root) if path[-1] != "name" or path[:-1] == place[:-1]]
    for home in homes:
        if home[-1] == key and home[:-1]:
            return f"It belongs under '{dotted(home[:-1])}': write {dotted(home)}."
        if home[-1] == key:
            return f"It belongs at the top level: write {key}."
        if dotted(home) == key:
            return f"In a file, write {home[-1]} below '{dotted(home[:-1])}:'."
    advice = foreign_advice(key)
    if advice is not None:
        return advice
    likeness = {home: _likeness(place, home) for home in homes}
    likest = max(homes, key=lambda home: likeness[home])
    if likeness[likest] >= _LIKE_ENOUGH:
        return f"Did you mean '{dotted(likest)}'?"
    return f"Allowed{f' in {section!r}' if section else ''}: {', '.join(siblings)}."


def _likeness(place: KeyPath, home: tuple[str, ...]) -> float:
    """How much an unknown key looks like a known one; a key of the same section is likelier."""
    ratio = difflib.SequenceMatcher(None, _squash(str(place[-1])), _squash(home[-1])).ratio()
    return ratio + 0.1 * (ratio >= 0.65 and place[:-1] == home[:-1])


def _expected_list(schema: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        items = schema["prefixItems"]
        each = either(dict.fromkeys(expected(item) for item in items))
        return f"a list of {len(items)} items, each {each}"
    size = ""
    if "minItems" in schema:
        size = f" of at least {schema['minItems']} item{'s' * (schema['minItems'] != 1)}"
    return f"a list{size}, each item {expected(schema.get('items', {}))}"


def _squash(word: str) -> str:
    return re.sub("[^a-z0-9]", "", word.lower())
