"""Holds a configuration as written against its sections, and tells every fault in plain words.

Second half of `config`: first the keys (unknown, misplaced, misnamed), by a walk of its own; then
the values, by pydantic, whose findings are retold.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import ValidationError

from hf_finetune.config.source import FROM_OVERRIDE, KeyPath, Source, dotted
from hf_finetune.config.tree import Choice, choice_of, field_schema
from hf_finetune.config.words import either, expected, key_advice, mend, near, shown
from hf_finetune.options import Section
from hf_finetune.registry import usual_name

S = TypeVar("S", bound=Section)
# Beyond this a float no longer stands for one whole number; nor is anything counted so far.
_LARGEST_EXACT = 2**53


def check_tree(root: type[S], source: Source) -> S:
    """The configuration that a source holds.

    Args:
        root: The class of the whole tree.
        source: Values as written, with the faults found while reading.

    Raises:
        ConfigError: Anything is wrong with it; all faults at once.
    """
    walk = _Walk(source, root)
    tree = walk.section(root, source.tree, ())
    _Retelling(walk, tree).add(_faults(root, tree, walk))
    source.raise_problems()
    return root.model_validate(tree)


class _Walk:
    """Goes through the sections as written, notes faulty keys, and keeps what can be validated.

    Attributes:
        sections: Class of each section that was met.
        tagged: Sections whose kind's name pydantic puts into the locations that it reports.
    """

    def __init__(self, source: Source, root: type[Section]) -> None:
        self.source, self.root = source, root
        self.sections: dict[KeyPath, type[Section]] = {}
        self.tagged: set[KeyPath] = set()

    def section(self, cls: type[Section], values: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """The section's known keys with their values; `path` is where it stands."""
        self.sections[path] = cls
        kept = {}
        for key, value in values.items():
            place = (*path, key)
            if key not in cls.model_fields:
                self._unknown(place, list(cls.model_fields))
                continue
            choice = choice_of(cls.model_fields[key])
            if choice is None or (value is None and choice.optional):
                kept[key] = value
                self._bound(place, value)
            elif not isinstance(value, dict):
                self._no_section(place, value, choice)
            elif (inside := self._inside(choice, value, place)) is not None:
                kept[key] = inside
        return kept

    def _inside(
        self, choice: Choice, values: dict[str, Any], path: KeyPath
    ) -> dict[str, Any] | None:
        """The section as the kind that its `name` says; None where that can't be told."""
        if "" in choice.kinds:
            return self.section(choice.kinds[""], values, path)
        name = self._kind(choice, values, path)
        if name is None:
            known = dict.fromkeys(key for cls in choice.kinds.values() for key in cls.model_fields)
            for key in values:
                if key not in known:
                    self._unknown((*path, key), list(known))
            if not _is_explained(self.source, (*path, "name")):
                told = (
                    f"the key '{dotted(path)}.name' is missing. It can be {either(choice.kinds)}."
                )
                self.source.problem((*path, "name"), told)
            return None
        if choice.tagged:
            self.tagged.add(path)
        values = self._switched(choice, name, values, path)
        values = self._without_other_kinds(choice, name, values, path)
        return self.section(choice.kinds[name], {**values, "name": name}, path)

    def _kind(self, choice: Choice, values: dict[str, Any], path: KeyPath) -> str | None:
        """Name of the kind; a misspelt one is noted, and taken for what was probably meant."""
        name, place = values.get("name", choice.default), (*path, "name")
        if isinstance(name, str):
            name = usual_name(name, choice.kinds)
            if "name" in values:
                values["name"] = name
        if "name" not in values or (isinstance(name, str) and name in choice.kinds):
            return name
        close = near(name, choice.kinds) if isinstance(name, str) else None
        meant = f"Did you mean {close!r}? " if close else ""
        got = repr(name) if isinstance(name, str) else shown(name)
        told = f"{dotted(place)}: unknown name {got}. {meant}Allowed: {', '.join(choice.kinds)}."
        self.source.problem(place, told)
        return close

    def _switched(
        self, choice: Choice, name: str, values: dict[str, Any], path: KeyPath
    ) -> dict[str, Any]:
        """Leaves out the old kind's keys, where an override names another kind than the file.

        What only repeats the old kind's default is dropped (a run's own configuration writes
        everything out); anything else is a fault.
        """
        place = (*path, "name")
        old = self.source.overridden.get(place) or choice.default
        switched = place in self.source.overridden and old != name
        if not switched or not isinstance(old, str) or old not in choice.kinds:
            return values
        kind, new_keys = choice.kinds[old], choice.kinds[name].model_fields
        written = {key: values[key] for key in values if not self._overridden((*path, key))}
        lost = [key for key in written if key in kind.model_fields and key not in new_keys]
        given = [key for key in lost if not _is_default(kind, {**written, "name": old}, key)]
        if given:
            keys = either(f"{key!r}{self._at((*path, key))}" for key in given)
            told = f"{name!r} has no {keys}, given for {old!r}. Drop it there, or override the"
            self.source.problem(place, f"{told} section: '{dotted(path)}={{name: {name}}}'.")
        return {key: value for key, value in values.items() if key not in lost}

    def _at(self, path: KeyPath) -> str:
        text = self.source.place(path).text
        return f" ({text})" if text else ""

    def _overridden(self, path: KeyPath) -> bool:
        return self.source.place(path).rank >= FROM_OVERRIDE

    def _without_other_kinds(
        self, choice: Choice, name: str, values: dict[str, Any], path: KeyPath
    ) -> dict[str, Any]:
        """Notes and leaves out keys that only other kinds of the section have."""
        kept = {}
        for key, value in values.items():
            owners = [kind for kind, cls in choice.kinds.items() if key in cls.model_fields]
            if not owners or name in owners:
                kept[key] = value
                continue
            told = f"unknown key '{dotted((*path, key))}': {name!r} has none."
            self.source.problem((*path, key), f"{told} It belongs to {either(owners)}.")
        return kept

    def _unknown(self, place: KeyPath, siblings: list[str]) -> None:
        told = f"unknown key {dotted(place)!r}. {key_advice(place, siblings, self.root)}"
        self.source.problem(place, told)

    def _bound(self, place: KeyPath, value: Any) -> None:
        """Notes whole numbers that no setting can mean, and that torch or Python can't count by."""
        if _is_beyond(value):
            told = f"{dotted(place)}: must be of at most {_LARGEST_EXACT:,}, got {shown(value)}."
            self.source.problem(place, told)

    def _no_section(self, place: KeyPath, value: Any, choice: Choice) -> None:
        form = "Write its keys below it, or leave it out."
        if isinstance(value, str) and "" not in choice.kinds:
            form = f"Write {place[-1]}: {{name: {value}}}."
        self.source.problem(
            place, f"{dotted(place)}: must be a section, got {shown(value)}. {form}"
        )


class _Retelling:
    """Retells pydantic's findings: one message a key, in the words of the file."""

    def __init__(self, walk: _Walk, tree: dict[str, Any]) -> None:
        self.walk, self.source, self.tree = walk, walk.source, tree

    def add(self, faults: list[Any]) -> None:
        """Notes the faults in the source, save those that follow from one that is noted."""
        by_field: dict[KeyPath, list[tuple[KeyPath, Any]]] = {}
        for fault in faults:
            path = _path(fault["loc"], self.tree, self.walk)
            if fault["type"] != "missing" or not _is_explained(self.source, path):
                by_field.setdefault(self._field(path), []).append((path, fault))
        noted = {field for field in by_field if self.source.is_broken(field)}
        for field, group in by_field.items():
            if field not in noted:
                self.source.problem(field, self._message(field, group))

    def _field(self, path: KeyPath) -> KeyPath:
        """The path up to the first key that isn't a section."""
        depth = 0
        while depth < len(path) and path[:depth] in self.walk.sections:
            depth += 1
        return path[:depth]

    def _message(self, field: KeyPath, group: list[tuple[KeyPath, Any]]) -> str:
        for _, fault in group:
            if fault["type"] in ("value_error", "assertion_error"):
                label = f"{dotted(field)}: " if field else ""
                text = str(fault["ctx"]["error"])
                return f"{label}{text}" if text.endswith((".", "?")) else f"{label}{text}."
        path, fault = max(group, key=lambda item: len(item[0]))
        cls, key = self.walk.sections[field[:-1]], str(field[-1])
        if fault["type"] == "missing" and fault["loc"][-1] == key:
            return self._missing(cls, field)
        schema = field_schema(cls, key)
        told = f"{dotted(field)}: must be {expected(schema)}, got {shown(fault['input'])}"
        if path == field:
            return f"{told}.{mend(schema, fault['input'])}"
        last = path[-1]
        return f"{told} as item {last + 1}." if isinstance(last, int) else f"{told} for {last!r}."

    def _missing(self, cls: type[Section], field: KeyPath) -> str:
        key = str(field[-1])
        choice = choice_of(cls.model_fields[key])
        if choice is None:
            wanted = expected(field_schema(cls, key))
            return f"the key '{dotted(field)}' is missing. It must be {wanted}."
        names = f" Its name can be {either(choice.kinds)}." if "" not in choice.kinds else ""
        return f"the section '{dotted(field)}' is missing.{names}"


def _faults(root: type[Section], tree: dict[str, Any], walk: _Walk) -> list[Any]:
    """What pydantic finds; whole floats (`1e3`) become ints where one is asked for."""
    while True:
        try:
            root.model_validate(tree)
        except ValidationError as error:
            faults: list[Any] = list(error.errors(include_url=False))
            if sum(_make_whole(fault, tree, walk) for fault in faults) == 0:
                return faults
        else:
            return []


def _make_whole(fault: Any, tree: dict[str, Any], walk: _Walk) -> bool:
    number = fault["input"]
    if fault["type"] != "int_type" or not isinstance(number, float):
        return False
    if not number.is_integer() or abs(number) > _LARGEST_EXACT:
        return False
    *path, last = _path(fault["loc"], tree, walk)
    holder: Any = tree
    for key in path:
        holder = holder[key]
    changed = isinstance(holder[last], float)
    holder[last] = int(number)
    return changed


def _path(location: tuple[str | int, ...], tree: Any, walk: _Walk) -> KeyPath:
    """The keys and item numbers in a location, without pydantic's labels of kinds and types."""
    path: KeyPath = ()
    value, label_due = tree, False
    for part in location:
        if label_due:
            label_due = False
        elif isinstance(value, dict) and part in value:
            value, path = value[part], (*path, part)
            label_due = path in walk.tagged
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value, path = value[part], (*path, part)
        elif path in walk.sections:
            value, path = None, (*path, part)  # a key that isn't written
    return path


def _is_explained(source: Source, path: KeyPath) -> bool:
    """Whether a missing key has a noted fault, or is one that was misspelt beside it."""
    beside = (broken for broken in source.broken if broken[:-1] == path[:-1] and broken)
    return any(near(str(broken[-1]), [str(path[-1])]) for broken in beside)


def _is_beyond(value: Any) -> bool:
    """Whether a value is, or holds, a whole number above `_LARGEST_EXACT`."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(map(_is_beyond, value))
    return isinstance(value, int) and value > _LARGEST_EXACT


def _is_default(kind: type[Section], values: dict[str, Any], key: str) -> bool:
    """Whether the section would say the same without this key."""
    rest = {name: value for name, value in values.items() if name != key}
    try:
        full, without = kind.model_validate(values), kind.model_validate(rest)
    except ValidationError:
        return False
    return bool(getattr(full, key) == getattr(without, key))
