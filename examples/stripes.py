"""A data set of one's own: stripes in four directions under noise. A file like this is a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.data import DataOptions

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

DIRECTIONS = {"across": (0, 1), "down": (1, 0), "rising": (1, 1), "falling": (1, -1)}


class Options(DataOptions):
    """What the configuration's `data` section may say; anything else is an error with its line."""

    name: Literal["stripes"] = "stripes"
    rows: Annotated[int, Field(gt=0)] = 600
    """Training images; the test split has half as many."""
    noise: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of the noise; the stripes go from 0 to 1."""


def load(options: Options) -> DatasetDict:
    """The splits that there are; validation is held out of `train` by the toolkit."""
    from datasets import DatasetDict

    return DatasetDict(
        train=_draw("train", options.rows, options.noise, seed=0),
        test=_draw("test", options.rows // 2, options.noise, seed=1),
    )


def _draw(split: str, rows: int, noise: float, seed: int) -> Dataset:
    import numpy as np

    from hf_finetune.data.tables import build_image_dataset

    generator = np.random.default_rng(seed)
    labels = np.arange(rows) % len(DIRECTIONS)
    y, x = np.mgrid[:16, :16]
    down, right = np.array(list(DIRECTIONS.values()))[labels].T[:, :, None, None]
    phases = generator.uniform(0, 6.28, (rows, 1, 1))
    images = 0.5 + 0.5 * np.sin(1.2 * (down * x + right * y) + phases)
    images = (images + noise * generator.standard_normal(images.shape)).clip(0, 1)
    ids = [f"{split}/{row}" for row in range(rows)]
    return build_image_dataset(
        [images.astype(np.float32)], [labels], list(DIRECTIONS), {"id": [ids]}
    )
