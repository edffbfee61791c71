"""The shape of a configuration: which sections it has, and which kinds each can be.

Read off the sections' classes, for `check` (faults) and `schema` (editors).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hf_finetune.options import Section


@dataclass(frozen=True)
class Choice:
    """What a section of the configuration can be.

    Attributes:
        kinds: Options class by the value of its `name`; a section of one kind only, without such
            a name, stands under "".
        default: Name of the kind that is meant where none is given, if there is one.
        tagged: Whether pydantic puts the name into the locations that it reports.
        optional: Whether null is allowed.
    """

    kinds: dict[str, type[Section]]
    default: str | None
    tagged: bool
    optional: bool


def choice_of(field: FieldInfo) -> Choice | None:
    """What the section behind a field can be, or None for a field that holds a value."""
    members = set(_members(field.annotation))
    sections = [part for part in members if isinstance(part, type) and issubclass(part, Section)]
    if not sections or members - {*sections, type(None)}:
        return None
    default = field.get_default(call_default_factory=True, validated_data={})
    return Choice(
        kinds=dict(sorted((_kind_name(section), section) for section in sections)),
        default=_kind_name(type(default)) if isinstance(default, Section) else None,
        tagged=field.discriminator is not None,
        optional=type(None) in members,
    )


@cache
def key_paths(cls: type[Section]) -> tuple[tuple[str, ...], ...]:
    """Every key of a configuration, of all kinds, as a path; those nearer the top first."""
    return tuple(sorted(dict.fromkeys(_key_paths(cls)), key=len))


def field_schema(cls: type[Section], key: str) -> dict[str, Any]:
    """JSON schema of one field that holds a value."""
    schema: dict[str, Any] = cls.model_json_schema()["properties"][key]
    return schema


def _key_paths(cls: type[Section]) -> Iterator[tuple[str, ...]]:
    for key, field in cls.model_fields.items():
        yield (key,)
        choice = choice_of(field)
        for kind in choice.kinds.values() if choice else ():
            for path in _key_paths(kind):
                yield (key, *path)


def _kind_name(cls: type[Section]) -> str:
    """The one value that the class's `name` can have, or ""."""
    field = cls.model_fields.get("name")
    if field is None or get_origin(field.annotation) is not Literal:
        return ""
    name: str = get_args(field.annotation)[0]
    return name


def _members(annotation: Any) -> Iterator[Any]:
    """Members of a union, of any depth; of anything else, itself."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _members(part)
    else:
        yield annotation
