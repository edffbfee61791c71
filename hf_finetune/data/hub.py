"""Any set of images or sounds of the Hugging Face Hub, or one in a local folder of that kind.

The files stay inside the downloaded table and are decoded when their batch is made.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hf_finetune.data import DataOptions, GivenData

_OWN_COLUMNS = ("id", "image", "audio", "label", "measured")


class Options(DataOptions):
    """Options of a data set of the Hub."""

    name: Literal["hub"] = "hub"
    repo_id: str
    """`owner/name` on the Hub, or a folder that holds such a data set: a copy of its repository,
    what `push-data --to` wrote, or what `save_to_disk` of the datasets library wrote."""
    revision: str | None = None
    """Branch, tag or commit; by default the main branch."""
    config_name: str | None = None
    """Which configuration, where the data set has several."""
    image_column: str | None = None
    """Column of images; by default the only one of type Image (or Audio)."""
    audio_column: str | None = None
    """Column of sounds, instead."""
    label_column: str | None = None
    """Column of classes; by default `label`, or the only one of class labels. Text and whole
    numbers become classes in sorted order."""
    group_columns: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Columns whose equal values must stay in one split, such as patient or speaker."""
    train_split: str = "auto"
    """Split to train on; `auto`: train, or the only one."""
    validation_split: str = "auto"
    """`auto`: validation (val, valid, dev), if there is one; `none`: hold rows out instead."""
    test_split: str = "auto"
    """`auto`: test, if there is one; `none`: hold rows out instead, where it has no labels."""
    color: Literal["auto", "grey", "rgb"] = "auto"
    """Images: `auto`: grey if every image is grey, else rgb."""
    background: Literal["white", "black"] = "white"
    """Images: what shows through where one is transparent."""

    @field_validator("group_columns")
    @classmethod
    def _free_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        taken = sorted({*value} & {*_OWN_COLUMNS})
        if taken:
            raise ValueError(f"{taken[0]!r} is a column of the toolkit's own and no group key")
        return value

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.image_column is not None and self.audio_column is not None:
            raise ValueError("name either image_column or audio_column, not both")
        return self


def load(options: Options) -> GivenData:
    """Downloads the data set (or takes it from the cache) and reads each of its files once.

    Returns:
        The splits that the data set has, with the columns `id` (its own column `id` where that
        names every row differently, else `train/17`), `image` or `audio` (undecoded), `measured`,
        `label`, and the group keys.

    Raises:
        DataError: It can't be had or read, it can't be told which columns are meant, or (with
            `on_bad_example: stop`) some rows can't be used.
    """
    from datasets import DatasetDict

    from hf_finetune.data.hub_columns import choose_columns, choose_splits
    from hf_finetune.data.hub_content import content_of
    from hf_finetune.data.hub_rows import read_rows
    from hf_finetune.data.hub_source import open_data_set
    from hf_finetune.data.image_files import quiet_pillow

    found = open_data_set(options.repo_id, options.revision, options.config_name)
    chosen, warnings = choose_splits(tuple(found), options)
    columns = choose_columns(found[chosen["train"]].features, options)
    with quiet_pillow():
        rows = read_rows(found, chosen, columns, content_of(columns.kind, options), options)
    return GivenData(
        DatasetDict(rows.splits), (*warnings, *rows.warnings), rows.skipped, rows.contradictions
    )
