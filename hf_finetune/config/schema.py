"""JSON Schema of a configuration, for editors that complete and check YAML.

Follows what `check` accepts, where that is more than what pydantic asks for: keys that a
preset fills are not demanded, nor the name of a section's default kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from hf_finetune.config.tree import choice_of
from hf_finetune.options import Section


def schema_of(root: type[Section]) -> dict[str, Any]:
    """JSON Schema, draft 2020-12, of a tree of sections."""
    demanding = set(_kinds_to_name(root))

    class Generator(GenerateJsonSchema):
        """Names the keys that a user must write."""

        def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
            json_schema = super().model_schema(schema)
            cls = schema["cls"]
            required = _required_keys(cls)
            if cls in demanding:
                required.insert(0, "name")
            json_schema.pop("required", None)
            return {**json_schema, **({"required": required} if required else {})}

    tree = root.model_json_schema(schema_generator=Generator)
    return {"$schema": GenerateJsonSchema.schema_dialect, **tree}


def _kinds_to_name(cls: type[Section]) -> Iterator[type[Section]]:
    """Every kind that is meant only where its name is written."""
    for field in cls.model_fields.values():
        choice = choice_of(field)
        for name, kind in choice.kinds.items() if choice else ():
            if name and choice and name != choice.default:
                yield kind
            yield from _kinds_to_name(kind)


def _required_keys(cls: type[Section]) -> list[str]:
    """Keys that are missing in an empty section, once its presets are filled in."""
    try:
        cls.model_validate({})
    except ValidationError as error:
        return [str(fault["loc"][0]) for fault in error.errors() if fault["type"] == "missing"]
    return []
