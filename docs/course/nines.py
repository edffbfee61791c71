"""A data set of one's own: is this corrupted digit a nine? One example in ten is.

Place: a plugin that docs/course/nines.yaml names; docs/course.md shows with it what accuracy hides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions

if TYPE_CHECKING:
    from datasets import DatasetDict


class Options(DataOptions):
    """What the configuration's `data` section may say; anything else is an error with its line."""

    name: Literal["nines"] = "nines"
    root: str = "samples/corruptmnist"
    """Folder with the corrupted digits."""


def load(options: Options) -> DatasetDict:
    """The splits of the corrupted digits with two labels: 0 for another digit, 1 for a nine."""
    from datasets import ClassLabel, Features

    from hf_finetune.data import corrupt_mnist

    digits = corrupt_mnist.load(corrupt_mnist.Options(root=options.root))
    features = Features({**digits["train"].features, "label": ClassLabel(names=["other", "nine"])})
    return digits.map(
        lambda labels: {"label": [int(label == 9) for label in labels]},
        batched=True,
        input_columns="label",
        features=features,
    )
