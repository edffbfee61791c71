"""Images of your own, in folders or listed in a table; decoded when their batch is made."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.data import GivenData
from hf_finetune.data.folders import FileKind, FolderOptions, read_folder

if TYPE_CHECKING:
    from pathlib import Path

    import datasets

    from hf_finetune.data.folders import FolderContent
    from hf_finetune.data.image_files import Background, Color


class Options(FolderOptions):
    """Options of a folder of images."""

    name: Literal["image_folder"] = "image_folder"
    color: Literal["auto", "grey", "rgb"] = "auto"
    """`auto`: grey if every image is grey, else rgb."""
    background: Literal["white", "black"] = "white"
    """What shows through where an image is transparent."""


def load(options: Options) -> GivenData:
    """Lists the images and reads each of them once (see `folders.read_folder`).

    Returns:
        The splits that the folders or the table name, or `train` alone, with the columns `id` (the
        path below the root), `image` (undecoded), `measured`, `label`, and any group keys.

    Raises:
        DataError: Folder, layout or table can't be used; or, with `on_bad_example: stop`, some
            images can't.
    """
    from datasets import DatasetDict

    from hf_finetune.data.image_files import quiet_pillow

    with quiet_pillow():
        content = read_folder(options, _image_kind(options))
    color = _settle_color(options, content)
    splits = {
        split: _build_split(content, split, color, options.background) for split in content.examples
    }
    return GivenData(DatasetDict(splits), content.warnings, content.skipped, content.contradictions)


def _image_kind(options: Options) -> FileKind:
    import PIL

    from hf_finetune.data.image_files import SUFFIXES

    # Grey made of colour is another image; what rgb adds to grey ones can be left to the end.
    color: Color = "grey" if options.color == "grey" else "as_is"
    recipe = f"image {color} {options.background}, Pillow {PIL.__version__}"
    measure = partial(_measure, color=color, background=options.background)
    return FileKind("image", SUFFIXES, measure, recipe)


def _measure(path: Path, color: Color, background: Background) -> dict[str, Any]:
    from hf_finetune.data.image_files import describe_pixels, read_image

    return describe_pixels(read_image(path, color, background))


def _settle_color(options: Options, content: FolderContent) -> Literal["grey", "rgb"]:
    if options.color != "auto":
        return options.color
    ids = (example.id for examples in content.examples.values() for example in examples)
    return "grey" if all(content.facts[file]["channels"] == 1 for file in ids) else "rgb"


def _build_split(
    content: FolderContent, split: str, color: Color, background: Background
) -> datasets.Dataset:
    from hf_finetune.data.tables import build_file_dataset

    examples = content.examples[split]
    columns = {"id": [example.id for example in examples]}
    for number, name in enumerate(content.group_columns):
        columns[name] = [example.groups[number] for example in examples]
    files = [
        {"path": str(content.root / example.id), "color": color, "background": background}
        for example in examples
    ]
    return build_file_dataset(
        {"image": files},
        [content.facts[example.id] for example in examples],
        [content.label_names.index(example.label) for example in examples],
        content.label_names,
        columns,
    )
