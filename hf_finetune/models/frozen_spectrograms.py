"""Lets AST and Whisper take what their frozen backbone makes of a clip, not its spectrogram.

As `frozen_part` does for models that take waveforms; here every clip fills a spectrogram of one
size, and what the backbone makes of it is of one size, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from torch import Tensor, nn

from hf_finetune.models.frozen_part import FrozenPart, as_frozen, never_moves
from hf_finetune.models.processors import prepare_nothing

if TYPE_CHECKING:
    from hf_finetune.models import Classifier, ModelOptions


class FrozenSpectrogramBackbone(FrozenPart):
    """The frozen backbone of AST or of Whisper's encoder, for use clip by clip.

    Args:
        classifier: Its model has one (`has_frozen_spectrogram_backbone`), on the device where it
            runs.
        precision: The run's: fp32, bf16 or fp16.

    Attributes:
        name: `backbone`.
        input_name: What the model calls its spectrograms.
        dtype: Of the features: what the backbone itself gives at that precision.
        num_frames: Of a clip: 1 where the backbone sums the clip up.
        num_channels: Numbers in a frame.
    """

    def __init__(self, classifier: Classifier, precision: str) -> None:
        model = classifier.model
        part = _find_backbone(model)
        if part is None:
            raise ValueError(f"{type(model).__name__} has no such backbone")
        self.name = "backbone"
        self.input_name = model.main_input_name
        self._part = part
        self._precision = precision
        features = self.compute(prepare_nothing(classifier.processor, "audio"))
        self.dtype = features.dtype
        self.num_frames, self.num_channels = features.shape

    def count_bytes(self, seconds: NDArray[Any]) -> float:
        """Of the features of clips of these lengths, `[N]`."""
        return float(len(seconds)) * self.num_frames * self.num_channels * self.dtype.itemsize

    def compute(self, input_values: Tensor) -> Tensor:
        """Features of one clip.

        Args:
            input_values: float32 `[1, …]`, as the model's feature extractor gives them.

        Returns:
            `dtype` `[frames, channels]`, on the CPU.
        """
        with as_frozen(self._part, self._precision) as device:
            output = self._part(input_values.to(device))
        summary = getattr(output, "pooler_output", None)
        features: Tensor = output.last_hidden_state[0] if summary is None else summary
        return features.to("cpu", copy=True).contiguous()

    def accept_ready(self, model: nn.Module) -> None:
        """Lets the model take `[B, frames, channels]` in place of spectrograms.

        These are taken as ever. Nothing about the model's parameters, names or settings changes.
        """
        part = _find_backbone(model)
        if part is not None and not isinstance(part.forward, _ReadyOrNot):
            part.forward = _ReadyOrNot(part.forward, (self.num_frames, self.num_channels))


class _ReadyOrNot:
    """Stands in for a backbone's `forward`: hands on what is ready, and computes what is not.

    Args:
        forward: The backbone's own.
        shape: Of a clip's features, (frames, channels), which no spectrogram has.
    """

    def __init__(self, forward: Callable[..., Any], shape: tuple[int, int]) -> None:
        self._forward = forward
        self._shape = shape

    def __call__(self, values: Tensor, *others: Any, **named: Any) -> Any:
        if tuple(values.shape[1:]) != self._shape:
            return self._forward(values, *others, **named)
        from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

        if self._shape[0] == 1:
            return BaseModelOutputWithPooling(pooler_output=values[:, 0])
        return BaseModelOutput(last_hidden_state=values)


def has_frozen_spectrogram_backbone(classifier: Classifier, options: ModelOptions) -> bool:
    """Whether a model is AST or Whisper, and no training of these options moves its backbone.

    Args:
        classifier: As built, or loaded from what a run with these options has saved.
        options: The configuration's `model` section.
    """
    if any(getattr(options, name, None) is not None for name in ("unfreeze_at_epoch", "lora")):
        return False
    backbone = _find_backbone(classifier.model)
    if backbone is None or not never_moves(backbone, classifier, options):
        return False
    part = FrozenSpectrogramBackbone(classifier, "fp32")
    taken = prepare_nothing(classifier.processor, "audio").shape[1:]
    return taken != (part.num_frames, part.num_channels)  # else none could tell them apart


def _find_backbone(model: nn.Module) -> nn.Module | None:
    """What the head is given the output of; None where it needs more, or the model is another."""
    names = {
        "ASTForAudioClassification": "audio_spectrogram_transformer",
        "WhisperForAudioClassification": "encoder",
    }
    name = names.get(type(model).__name__)
    hears_all_layers = getattr(getattr(model, "config", None), "use_weighted_layer_sum", False)
    return None if name is None or hears_all_layers else model.get_submodule(name)
