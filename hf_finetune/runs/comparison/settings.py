"""A run's configuration as one flat table of settings, whatever it was read from.

Place: the readers bring every source to this form, so that equal settings compare equal; `rows`
asks which of them differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hf_finetune.config import config_from
from hf_finetune.errors import UserError
from hf_finetune.runs.comparison.record import RunRecord, Setting
from hf_finetune.runs.environment import hide_home

# What a run is called and where its numbers go doesn't change them; seeds have their own column.
_IRRELEVANT = {"name", "seed", "run", "trackers", "tracking", "hub", "plugins"}


def settle_settings(tree: Mapping[str, Any]) -> tuple[dict[str, Setting], str | None]:
    """Fills in what this version adds by default, and flattens the tree.

    Args:
        tree: The configuration, as its file holds it.

    Returns:
        Settings by dotted key; and why the tree was taken as it stands, if it is of another
        version's layout.
    """
    own = {key: value for key, value in tree.items() if key != "plugins"}
    problem = None
    try:
        own = config_from(own).model_dump(mode="json")
    except UserError as error:
        if not tree.get("plugins"):  # with plugins it can't be checked without running them
            problem = str(error).splitlines()[0].rstrip(".")
    return dict(_flatten(own, "")), problem


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Setting]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", hide_home(value)  # as Comet has it
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{key}", value
        else:
            yield f"{prefix}{key}", json.dumps(value)


def read_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The tree behind dotted parameters; values may be text, as Comet keeps them.

    Args:
        parameters: Value by dotted key; numbers, lists and null perhaps as JSON text.
    """
    tree: dict[str, Any] = {}
    for key, value in parameters.items():
        *path, last = key.split(".")
        section = tree
        for part in path:
            inner = section.setdefault(part, {})
            section = inner if isinstance(inner, dict) else {}
        section[last] = value if key == "name" else _read_value(value)
    return tree


def _read_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = value.lower() if value in ("True", "False") else value
    try:
        return json.loads(text)
    except ValueError:
        return value


def relevant_settings(record: RunRecord) -> dict[str, Setting]:
    """The settings that make a run what it is: all but its seed, name and where it was logged."""
    return {
        key: value for key, value in record.settings.items() if key.split(".")[0] not in _IRRELEVANT
    }


def differing_settings(records: Iterable[RunRecord]) -> list[str]:
    """Settings for which two runs have different values, in the configuration's order.

    A setting that some runs don't have (another kind of model has others) differs only where two
    that have it disagree.
    """
    values: dict[str, list[Setting]] = {}
    for record in records:
        for key, value in relevant_settings(record).items():
            values.setdefault(key, []).append(value)
    return [key for key, found in values.items() if any(value != found[0] for value in found)]
