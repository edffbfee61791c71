"""The features room: what happens in the collator, from raw rows to what the model takes.

The door is `collator_for`: it gives a callable that turns one raw batch into one model batch.

Raw batch (made by `engines.batches.BatchView`), B examples:
    `image`: uint8 or float32 `[B, H, W]` or `[B, H, W, C]`, or a list of B arrays of unequal shape;
        uint8 counts 0…255, float32 counts 0…1; or a list of B `data.image_files.ImageFile`, which
        the collator decodes, in as many threads as torch has
    or `audio`: a list of B clips, each an `audio_decoding.AudioFile`, which the collator decodes,
        or an `AudioArray`, float32 `[T]` with its rate; any lengths, any rates
    `label`: int64 `[B]`; `epoch`: int64 `[B]`; `index`: int64 `[B]` (the row's number in its split)
Model batch:
    `pixel_values`: float32 `[B, C, H, W]`; `labels`: int64 `[B]`; `index`: int64 `[B]`;
        the last two only where the raw batch has `label` and `index` (loose files have none)
    or, instead of `pixel_values`, what the model's feature extractor gives: `input_values`: float32
        `[B, T]` (waveforms), `[B, T, F]` (AST) or `[B, 1, F, T]` (log-mel), or `input_features`:
        float32 `[B, F, T]` (Whisper); and `attention_mask`: int32 `[B, T]`, where it gives one

Where training images are mixed, a raw batch has M rows more at its end, and `mixed_into`:
int64 `[M]`, the example (0 … B - 1) that each of them goes into. The model batch then has B rows
all the same, and two columns more: `mixed_labels`: int64 `[B]`, and `mix_ratio`: float32 `[B]`, the
part of `labels` (1 where nothing is mixed).

Where long clips are evaluated in several windows, the features have W >= B rows, and the model
batch has a column more: `example`: int64 `[W]`, ascending, the example (0 … B - 1) of each row. The
logits of an example's rows are averaged (`evaluation.prediction.average_windows`); `labels` and
`index` have B rows as ever.

Where what a frozen part of the model makes of the clips is kept (`kept_features`), `input_values`
is that: float32, bfloat16 or float16 `[B, frames, channels]`; `attention_mask` counts samples as
ever. Where what a frozen backbone makes of the images is kept (`kept_images`), `pixel_values` is
what the model's head is given: `[B, channels]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from hf_finetune.errors import ModelError
from hf_finetune.features.audio_options import AudioOptions
from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.options import Section

if TYPE_CHECKING:
    from torch import Tensor

    from hf_finetune.features.mixing import Partners

__all__ = [
    "AudioOptions",
    "AugmentationOptions",
    "Collator",
    "FeatureOptions",
    "collator_for",
    "partners_for",
    "takes_sound",
]


class FeatureOptions(Section):
    """What happens between a raw row and the model."""

    augmentation: AugmentationOptions = AugmentationOptions()
    """Random changes to training images."""
    audio: AudioOptions = AudioOptions()
    """Lengths, batches and augmentation of clips of sound."""
    keep_frozen: Literal["auto", "off"] = "auto"
    """Whether what the frozen backbone of a model, or the frozen front end of a speech model, makes
    of each image or clip is computed once and kept, in the user's cache folder; `auto`: where it
    stays frozen, no augmentation changes the examples, and the run sees them more than once. `off`:
    computed in every step."""


class Collator(Protocol):
    """Turns one raw batch into one model batch; can be pickled for the workers of a DataLoader."""

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """One model batch from one raw batch, as the room's door describes them."""


def collator_for(
    processor: Any, options: FeatureOptions, seed: int, training: bool, model_config: Any = None
) -> Collator:
    """Builds the collator that belongs to a model's processor.

    Args:
        processor: Hugging Face image processor or audio feature extractor.
        options: The configuration's `features` section.
        seed: The run's seed; with an example's epoch and index it decides the augmentation.
        training: Whether to augment (what is evaluated never is).
        model_config: The model's config; with sound it tells how short a clip may be.

    Raises:
        ModelError: The processor asks for something that the collator doesn't do, or the options
            are for models of another kind.
        DataError: There is no noise where the augmentation looks for it.
    """
    takes_audio = takes_sound(processor)
    if takes_audio and options.augmentation != AugmentationOptions():
        raise ModelError(
            "features.augmentation: it is for images, and the model takes sound. Leave it out; for "
            "sound there is features.audio.augmentation."
        )
    if not takes_audio and options.audio != AudioOptions():
        raise ModelError(
            "features.audio: it is for sound, and the model takes images. Leave it out."
        )
    if takes_audio:
        from hf_finetune.features.audio import AudioCollator

        return AudioCollator(
            processor, options, seed=seed, training=training, model_config=model_config
        )
    from hf_finetune.features.images import ImageCollator

    return ImageCollator(processor, options, seed=seed, training=training)


def takes_sound(processor: Any) -> bool:
    """Whether a processor, and so its model, is for sound; else it is for images."""
    return hasattr(getattr(processor, "feature_extractor", processor), "sampling_rate")


def rounds_widths(processor: Any, options: FeatureOptions) -> bool:
    """Whether padded training batches come in a few widths only; else in any (images: in one).

    Args:
        processor: As above.
        options: The configuration's `features` section.
    """
    if not takes_sound(processor) or options.audio.batches == "equal_length":
        return False
    from hf_finetune.features.extraction import extractor_for

    return extractor_for(processor).pads_to_width


def partners_for(
    options: FeatureOptions, seed: int, num_rows: int, training: bool
) -> Partners | None:
    """What chooses the rows that are mixed into others, or None where nothing is mixed.

    Args:
        options: The configuration's `features` section.
        seed: The run's seed.
        num_rows: Rows of the split that is read.
        training: Whether it is read for training (what is evaluated is never mixed).
    """
    if not training or not options.augmentation.mixes:
        return None
    from hf_finetune.features.mixing import Partners

    return Partners(options.augmentation, seed, num_rows)
