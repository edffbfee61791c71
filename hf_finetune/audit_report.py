"""Says what an audit of the data found, in words or as plain values; the verb `audit`.

Place: between the data room, which looks, and the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_finetune.config import RunConfig
from hf_finetune.console import format_columns, format_table
from hf_finetune.data import Contradiction, load_data
from hf_finetune.data.audit import Audit, audit_data
from hf_finetune.data.duplicates import Duplicate
from hf_finetune.data.leaks import Overlap

_NAMED_SETS, _NAMED_MEMBERS, _NAMED_KEYS = 5, 5, 3
_MOST_CLASSES = 20


def audit(config: RunConfig) -> Audit:
    """Looks at a configuration's data as training would split them.

    What would stop training (shared groups, bad examples) is found and told like all else.

    Args:
        config: Only its data are read.

    Raises:
        UserError: The data can't be used at all.
    """
    split = config.data.split.model_copy(update={"allow_overlap": True})
    update = {"split": split, "on_bad_example": "skip"}
    data = load_data(config.data.model_copy(update=update))
    patterns = [getattr(config.data, key, None) for key in ("name_pattern", "group_pattern")]
    return audit_data(data, next(filter(None, patterns), None))


def format_audit(found: Audit, name: str) -> str:
    """What was found, as text for people.

    Args:
        found: What was found.
        name: The data set's name.
    """
    data = found.data
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in data.splits.items())
    facts = {
        "data": f"{name}: {sizes}; {data.split_description}",
        "verdict": _describe_verdict(found),
        "groups": _describe_groups(found),
    }
    for number, overlap in enumerate(found.overlaps, start=1):
        facts[f"overlap {number}"] = _describe_overlap(overlap, found.promised_overlaps)
    for title, sets in (("copies", found.copies), ("near copies", found.near_copies)):
        facts[title] = _describe_sets(sets)
        for number, one in enumerate(sets[:_NAMED_SETS], start=1):
            facts[f"{title} {number}"] = _describe_set(one, data.label_names)
    for number, contradiction in enumerate(data.contradictions[:_NAMED_SETS], start=1):
        facts[f"wrong label {number}"] = _describe_contradiction(contradiction)
    if data.skipped:
        facts["bad examples"] = f"{len(data.skipped):,} left out: {'; '.join(data.skipped[:3])}"
    for number, warning in enumerate(data.warnings, start=1):
        facts[f"warning {number}"] = warning
    return f"{format_table(facts)}\n\n{_format_classes(found)}"


def list_audit(found: Audit) -> dict[str, Any]:
    """What was found, whole, as plain values for JSON."""
    names = found.data.label_names
    return {
        "is_sound": found.is_sound,
        "fingerprint": found.data.fingerprint,
        "split": found.data.split_description,
        "group_columns": list(found.data.group_columns),
        "classes": {
            split: dict(zip(names, counts, strict=True))
            for split, counts in found.class_counts.items()
        },
        "overlaps": [
            {
                "column": one.column,
                "splits": list(one.splits),
                "is_promised": one in found.promised_overlaps,
                "keys": list(one.keys),
            }
            for one in found.overlaps
        ],
        "copies": [_list_set(one, names) for one in found.copies],
        "near_copies": [_list_set(one, names) for one in found.near_copies],
        "contradictions": [
            {"ids": list(one.ids), "labels": list(one.labels)} for one in found.data.contradictions
        ],
        "skipped": list(found.data.skipped),
        "warnings": list(found.data.warnings),
    }


def _describe_verdict(found: Audit) -> str:
    if found.leaks:
        return "leaks: the scores would flatter the model"
    if found.data.contradictions:
        return "wrong labels: the same content stands under several classes; training stops at it"
    near = sum(one.is_across_splits for one in found.near_copies)
    doubt = f"; look at the {near:,} near copies across splits" if near else ""
    known = " or ".join(found.data.group_columns) or "copy"
    return f"sound: no {known} lies in two splits{doubt}"


def _describe_groups(found: Audit) -> str:
    held = " and ".join(found.data.group_columns)
    return f"held together by {held}" if held else "none are held together: single rows are split"


def _describe_overlap(overlap: Overlap, promised: Sequence[Overlap]) -> str:
    (name, other), count = overlap.splits, len(overlap.keys)
    listed = ", ".join(overlap.keys[:_NAMED_KEYS]) + ", …" * (count > _NAMED_KEYS)
    told = "" if overlap in promised else "; the split doesn't hold it together"
    return (
        f"{count:,} of the {overlap.num_keys:,} {overlap.column} keys in {name} are in {other}, "
        f"too ({listed}){told}"
    )


def _describe_sets(sets: Sequence[Duplicate]) -> str:
    if not sets:
        return "none"
    across = sum(one.is_across_splits for one in sets)
    differ = sum(not one.labels_agree for one in sets)
    examples = sum(len(one.ids) for one in sets)
    return (
        f"{len(sets):,} sets of {examples:,} examples; {across:,} of them across splits, "
        f"{differ:,} with several labels"
    )


def _describe_set(one: Duplicate, label_names: Sequence[str]) -> str:
    members = list(zip(one.ids, one.splits, one.labels, strict=True))
    named = [f"{row} ({split}, {label_names[label]})" for row, split, label in members]
    return " = ".join(named[:_NAMED_MEMBERS]) + " = …" * (len(named) > _NAMED_MEMBERS)


def _describe_contradiction(one: Contradiction) -> str:
    named = [f"{row} ({label})" for row, label in zip(one.ids, one.labels, strict=True)]
    return " = ".join(named[:_NAMED_MEMBERS]) + " = …" * (len(named) > _NAMED_MEMBERS)


def _list_set(one: Duplicate, label_names: Sequence[str]) -> dict[str, Any]:
    return {
        "ids": list(one.ids),
        "splits": list(one.splits),
        "labels": [label_names[label] for label in one.labels],
    }


def _format_classes(found: Audit) -> str:
    """Rows of each class by split, and their share of the split."""
    names, counts = found.data.label_names, found.class_counts
    header = ["class"]
    for split in counts:
        header += [split, ""]
    rows = [
        [name, *(cell for ones in counts.values() for cell in _cells(ones, label))]
        for label, name in enumerate(names[:_MOST_CLASSES])
    ]
    more = len(names) - len(rows)
    table = format_columns(header, rows) + (f"\n… and {more:,} more" if more else "")
    gaps = [
        (abs(ones[label] / sum(ones) - counts["train"][label] / sum(counts["train"])), name, split)
        for split, ones in counts.items()
        for label, name in enumerate(names)
    ]
    gap, name, split = max(gaps)
    return f"{table}\nlargest difference in share from train: {gap:.1%} (class {name} in {split})"


def _cells(counts: Sequence[int], label: int) -> tuple[str, str]:
    return f"{counts[label]:,}", f"{counts[label] / sum(counts):.1%}"
