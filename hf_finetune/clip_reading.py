"""Brings files of sound to a trained model, as its run brought it the clips of its data.

Place: `inference` and `dropout_answers` name the class of files with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_finetune.features import FeatureOptions, collator_for

if TYPE_CHECKING:
    from torch import Tensor

    from hf_finetune.models import Classifier


def read_clips(
    classifier: Classifier, files: Sequence[str], features: FeatureOptions
) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """Each file, and what the model takes of it: one at a time, so that nothing is padded.

    Args:
        classifier: Takes sound.
        files: Of any format, rate and number of channels that training takes.
        features: Where long clips are cut, and how many windows of them are heard; what changes
            training clips does nothing here.

    Yields:
        The file, in a list, and a model batch as `hf_finetune.features` describes it.

    Raises:
        DataError: A file is missing, no audio, or too short for the model.
    """
    collator = collator_for(classifier.processor, features, 0, False, classifier.model.config)
    for file in files:
        yield [file], collator(_raw_batch(file))


def draw_clip(classifier: Classifier, file: str, features: FeatureOptions) -> np.ndarray:
    """A file as the model hears it: float `[1, frequencies, frames]`, high frequencies first."""
    from hf_finetune.features.audio import AudioCollator
    from hf_finetune.runs.sound_pictures import hear

    collator = AudioCollator(
        classifier.processor,
        features,
        seed=0,
        training=False,
        model_config=classifier.model.config,
    )
    pictures, _ = hear(collator, _raw_batch(file))
    return np.asarray(pictures[0])[None, ::-1]


def _raw_batch(file: str) -> dict[str, Any]:
    from hf_finetune.features.audio_decoding import describe_audio

    return {"audio": [describe_audio(file, None)[0]]}
