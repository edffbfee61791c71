"""Says what an inspection of the data found, in words and pictures; the verb `inspect`.

Place: between the data room, which looks, and the terminal and folder that show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hf_finetune.config import RunConfig
from hf_finetune.console import format_columns, format_table
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.duplicates import Duplicate, describe_duplicates
from hf_finetune.data.image_statistics import to_unit_scale
from hf_finetune.data.inspection import (
    MOST_CLASSES,
    MOST_GROUPS,
    Groups,
    Inspection,
    describe_leaks,
    inspect_data,
    read_images,
)
from hf_finetune.data.orientation import LARGEST_P_VALUE, GroupAngles
from hf_finetune.data.splits import draw_rows
from hf_finetune.data.tables import column_values
from hf_finetune.runs.pictures import check_own, draw_mean_images, write_picture
from hf_finetune.runs.plots import EXAMPLE_PIXELS, EXAMPLES, draw_examples

_EXAMPLES, _CLASS_MEANS, _GROUP_MEANS = "examples.png", "class_means.png", "group_means.png"
_NAMED_DUPLICATES = 5


def report_data(config: RunConfig, folder: str | Path | None = None) -> str:
    """Looks at a configuration's data, and draws pictures of them.

    Args:
        config: Only its data and its name are read, and where runs are written.
        folder: Folder of the pictures; by default `<run.directory>/inspection/<name>`.

    Returns:
        What was found, in words, and where the pictures are.

    Raises:
        UserError: The data can't be used, or a file of another make is in a picture's place.
    """
    place = Path(folder or Path(config.run.directory) / "inspection" / config.name)
    data = load_data(config.data)
    if data.audio_shape is not None:
        from hf_finetune.sound_report import report_sound

        return report_sound(data, config.name, config.data.name, place)
    for name in (_EXAMPLES, _CLASS_MEANS, _GROUP_MEANS):
        check_own(place / name)
    found = inspect_data(data)
    drawn = _draw_pictures(found, config.name, place)
    return f"{format_inspection(found, config.data.name)}\n\npictures  {', '.join(drawn)}"


def format_inspection(found: Inspection, name: str) -> str:
    """What was found, as text for people.

    Args:
        found: What was found.
        name: The data set's name.
    """
    data = found.data
    total = sum(map(len, data.splits.values()))
    facts = {
        "data": f"{name}: {total:,} images of {len(data.label_names)} classes; "
        f"{data.split_description}",
        "images": _describe_images(found),
        **list_findings(data, found.duplicates, "images"),
    }
    classes = format_class_counts(data.label_names, found.class_counts)
    parts = [format_table(facts), _format_splits(found), classes]
    parts += [format_groups(groups, data.label_names) for groups in found.groups]
    return "\n\n".join(parts)


def list_findings(data: LoadedData, duplicates: Sequence[Duplicate], noun: str) -> dict[str, str]:
    """Leaks, duplicates and warnings, each in words; of images and of clips alike.

    Args:
        data: The data set.
        duplicates: What occurs more than once.
        noun: What an example is called, in the plural.
    """
    facts = {"leaks": describe_leaks(data), "duplicates": describe_duplicates(duplicates, noun)}
    for number, duplicate in enumerate(duplicates[:_NAMED_DUPLICATES], start=1):
        facts[f"duplicate {number}"] = _describe_duplicate(duplicate, data)
    for number, warning in enumerate(data.warnings, start=1):
        facts[f"warning {number}"] = warning
    return facts


def _describe_images(found: Inspection) -> str:
    facts = found.pixels.values()
    sizes = sorted({size for one in facts for size in one.sizes})
    dtypes = sorted({dtype for one in facts for dtype in one.dtypes})
    ends = [f"{height} x {width}" for height, width in (sizes[0], sizes[-1])]
    size = ends[0] if len(sizes) == 1 else f"{len(sizes)} sizes from {ends[0]} to {ends[1]}"
    color = "grey" if max(one.channels for one in facts) == 1 else "colour"
    return f"{size} (height x width), {color}, {' and '.join(dtypes)}"


def _describe_duplicate(duplicate: Duplicate, data: LoadedData) -> str:
    """A set of equal examples: their names, splits and classes."""
    places = zip(duplicate.ids, duplicate.splits, duplicate.labels, strict=True)
    named = [f"{name} ({split}, {data.label_names[label]})" for name, split, label in places]
    return " = ".join(named[:_NAMED_DUPLICATES]) + (" = …" if named[_NAMED_DUPLICATES:] else "")


def _format_splits(found: Inspection) -> str:
    """Rows and pixels by split: the range as it is, mean and deviation on the scale 0…1."""
    header = ("split", "images", "min", "max", "mean", "std")
    rows = []
    for name, facts in found.pixels.items():
        whole = facts.dtypes == {"uint8"}
        ends = (f"{255 * end:.0f}" if whole else f"{end:.3f}" for end in facts.range)
        channels = (" ".join(f"{one:.4f}" for one in by) for by in (facts.mean, facts.std))
        rows.append((name, f"{len(found.data.splits[name]):,}", *ends, *channels))
    return format_columns(header, rows) + "\n(mean and std of all pixels, on the scale 0 to 1)"


def format_class_counts(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> str:
    """Rows of each class by split, in the order of the label ids."""
    rows = [
        (name, *(f"{by_class[label]:,}" for by_class in counts.values()))
        for label, name in enumerate(names[:MOST_CLASSES])
    ]
    return _cut_off(format_columns(("class", *counts), rows), len(names) - len(rows))


def format_groups(groups: Groups, label_names: Sequence[str]) -> str:
    """One group column: rows of each group by split, and its angle where groups are turned."""
    angles = groups.angles
    header = [groups.column, *(splits := ("train", "validation", "test"))]
    rows = [
        [name, *(f"{counts[split]:,}" if split in counts else "" for split in splits)]
        for name, counts in list(groups.rows.items())[:MOST_GROUPS]
    ]
    if angles is not None:
        header.append("turned by")
        rows = [[*row, _describe_angle(row[0], angles)] for row in rows]
    table = _cut_off(format_columns(header, rows), len(groups.rows) - len(rows))
    if angles is None:
        return table
    return (
        f"{table}\nThe groups are turned against each other by more than chance "
        f"(p < {LARGEST_P_VALUE:g}): the strokes of class {label_names[angles.label]}\nagainst "
        f"those of {angles.reference}, counter-clockwise, ± standard error."
    )


def _describe_angle(group: str, angles: GroupAngles) -> str:
    if group not in angles.degrees:
        return ""
    return f"{angles.degrees[group]:+.1f} ± {angles.standard_errors[group]:.1f}°"


def _cut_off(table: str, number: int) -> str:
    return f"{table}\n… and {number:,} more" if number > 0 else table


def _draw_pictures(found: Inspection, name: str, folder: Path) -> list[str]:
    """Draws what there is to draw; the paths of the pictures."""
    drawn = {_EXAMPLES: partial(_draw_examples, found.data, name)}
    if found.class_means is not None:
        drawn[_CLASS_MEANS] = partial(_draw_class_means, found, name)
    if found.group_means is not None:
        drawn[_GROUP_MEANS] = partial(_draw_group_means, found, name)
    for file, draw in drawn.items():
        write_picture(folder / file, draw)
    return [str(folder / file) for file in drawn]


def _draw_examples(data: LoadedData, name: str, path: Path) -> None:
    """A few training images as they are, the classes in proportion."""
    train = data.splits["train"]
    labels = np.asarray(column_values(train, "label"))
    rows = draw_rows(labels, max(EXAMPLES, len(data.label_names)), seed=0)[:EXAMPLES]
    images = [image for block in read_images(train.select(rows)) for image in block]
    names = [data.label_names[label] for label in labels[rows]]
    draw_examples(_make_alike(images), names, path, f"{name}: training images as they are")


def _make_alike(images: list[np.ndarray]) -> np.ndarray:
    """Images `[H, W, C]` as float64 `[N, C, H, W]`, 0…1; unequal ones fitted into squares."""
    if len({image.shape for image in images}) > 1:
        levels = [np.uint8(np.rint(255 * to_unit_scale(image))) for image in images]
        colored = [Image.fromarray(np.broadcast_to(i, (*i.shape[:2], 3))) for i in levels]
        images = [np.asarray(ImageOps.pad(image, (EXAMPLE_PIXELS,) * 2)) for image in colored]
    return np.moveaxis(to_unit_scale(np.stack(images)), -1, 1)


def _draw_class_means(found: Inspection, name: str, path: Path) -> None:
    means = np.asarray(found.class_means)
    known = [label for label in range(len(means)) if np.isfinite(means[label]).all()]
    names = [found.data.label_names[label] for label in known]
    draw_examples(
        np.moveaxis(means[known], -1, 1), names, path, f"{name}: mean training image of each class"
    )


def _draw_group_means(found: Inspection, name: str, path: Path) -> None:
    groups, means = found.groups[0], np.asarray(found.group_means)
    title = f"{name}: mean image by {groups.column} and class"
    names = list(groups.rows)[: len(means)]
    if groups.angles is not None:
        names = [f"{group}  {_describe_angle(group, groups.angles)}".rstrip() for group in names]
    draw_mean_images(means, names, found.data.label_names[: means.shape[1]], path, title)
