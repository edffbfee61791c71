"""Lets a speech model take what its frozen part makes of a clip, instead of the clip itself.

The part is the whole backbone of wav2vec2 and its like, or only its convolutional front end. What
it makes is stored by `features.kept_features`; the model itself, its settings and its files stay
the ordinary ones.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hf_finetune.models.anatomy import head_names
from hf_finetune.models.freezing import choose_frozen, find_unreached

if TYPE_CHECKING:
    from hf_finetune.models import Classifier, ModelOptions

PartName = Literal["front end", "backbone"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Settings of a network that say nothing about its numbers.
_NAMES_AND_PLACES = {"_name_or_path", "id2label", "label2id", "transformers_version"}


class FrozenPart:
    """The frozen part of a model, for use clip by clip.

    Args:
        classifier: Its model has such a part (`find_part`), on the device where it runs.
        name: Which.
        precision: The run's: fp32, bf16 or fp16.

    Attributes:
        name: Which.
        input_name: What the model calls the clips that it takes.
        dtype: Of the features: what the precision says.
        num_channels: Numbers in a frame.
        frames_per_second: Of a clip.
    """

    input_name = "input_values"

    def __init__(self, classifier: Classifier, name: PartName, precision: str) -> None:
        model = classifier.model
        part, config = find_part(model, name), model.config
        if part is None:
            raise ValueError(f"{type(model).__name__} has no such {name}")
        self.name: PartName = name
        self._part = part
        self._precision = precision
        self.dtype = DTYPES[precision]
        self.num_channels = int(config.conv_dim[-1] if name == "front end" else _width(config))
        rate_hz = float(classifier.processor.sampling_rate)
        self.frames_per_second: float = rate_hz / math.prod(config.conv_stride)

    def count_bytes(self, seconds: NDArray[Any]) -> float:
        """About the size of the features of clips of these lengths, `[N]`."""
        frames = float(seconds.sum()) * self.frames_per_second
        return frames * self.num_channels * self.dtype.itemsize

    def accept_ready(self, model: nn.Module) -> None:
        """Lets the model take features of this part; see `accept_ready_features`."""
        accept_ready_features(model, self.name)

    def compute(self, input_values: Tensor) -> Tensor:
        """Features of one clip, as the model itself would compute them for it alone.

        Args:
            input_values: float32 `[1, T]`, as the model's feature extractor gives them.

        Returns:
            `dtype` `[frames, channels]`, on the CPU.
        """
        with as_frozen(self._part, self._precision) as device:
            output = self._part(input_values.to(device))
        features: Tensor = output[0].T if self.name == "front end" else output.last_hidden_state[0]
        return features.to("cpu", self.dtype).contiguous()

    def on_cpu(self) -> FrozenPart:
        """The same part where a loader's worker may use it; a copy if it is elsewhere."""
        if next(self._part.parameters()).device.type == "cpu":
            return self
        other = copy.copy(self)
        other._part = copy.deepcopy(self._part).cpu()
        return other

    def fingerprint(self) -> str:
        """Hash of whatever decides about the features: layers, weights, precision, device type."""
        part = self._part
        device = next(part.parameters()).device.type
        digest = hashlib.sha256(f"{part} {self._precision} {device}".encode())
        if self.name == "backbone":
            digest.update(describe_settings(part.config))  # its layers don't show all of them
        for name, tensor in part.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


@contextmanager
def as_frozen(part: nn.Module, precision: str) -> Iterator[torch.device]:
    """Runs a frozen part as every step would: in evaluation, at the run's precision, no gradient.

    Args:
        part: It is left in the mode that it was in.
        precision: fp32, bf16 or fp16.

    Yields:
        Where it runs.
    """
    device = next(part.parameters()).device
    was_training = part.training
    part.eval()
    half = precision != "fp32"
    try:
        with torch.no_grad(), torch.autocast(device.type, DTYPES[precision], enabled=half):
            yield device
    finally:
        part.train(was_training)


def _width(config: Any) -> int:
    """Numbers in a frame of the backbone's."""
    has_adapter = getattr(config, "add_adapter", False)
    return int(config.output_hidden_size if has_adapter else config.hidden_size)


def describe_settings(config: Any) -> bytes:
    """A network's settings, and how it computes attention; its name, place and classes left out."""
    settings = {k: v for k, v in config.to_dict().items() if k not in _NAMES_AND_PLACES}
    attention = config._attn_implementation
    return json.dumps([settings, attention], sort_keys=True, default=str).encode()


class _ReadyOrNot:
    """Stands in for a part's `forward`: hands on what is ready, and computes what is not.

    Args:
        forward: The part's own, which takes `[B, T]`.
        hand_on: Makes what the part would give of features `[B, frames, channels]`.
    """

    def __init__(self, forward: Callable[..., Any], hand_on: Callable[[Tensor], Any]) -> None:
        self._forward = forward
        self._hand_on = hand_on

    def __call__(self, values: Tensor, *others: Any, **named: Any) -> Any:
        if values.dim() == 3:
            return self._hand_on(values)
        return self._forward(values, *others, **named)


def _as_encoded(features: Tensor) -> Tensor:
    """What a feature encoder gives: `[B, channels, frames]`."""
    return features.transpose(1, 2)


def _as_backbone_output(features: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=features)


def find_part(model: nn.Module, name: PartName) -> nn.Module | None:
    """A part of a model of wav2vec2's kind; None where the model is of another, or needs more.

    The whole backbone can stand for itself only where the head takes its last layer alone.
    """
    base = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    encoder = getattr(base, "feature_extractor", None)
    config = getattr(model, "config", None)
    is_known = (
        isinstance(encoder, nn.Module)
        and getattr(model, "main_input_name", None) == "input_values"
        and all(hasattr(config, name) for name in ("conv_dim", "conv_kernel", "conv_stride"))
    )
    if not is_known:
        return None
    if name == "front end":
        return encoder
    is_enough = hasattr(model, "projector") and not getattr(config, "use_weighted_layer_sum", False)
    return base if is_enough else None


def accept_ready_features(model: nn.Module, name: PartName) -> None:
    """Lets a model take `input_values` `[B, frames, channels]`, computed by its own part before.

    Waveforms `[B, T]` are taken as ever. Nothing about the model's parameters, names or settings
    changes, so that what is saved of it is what would be saved without.
    """
    part = find_part(model, name)
    if part is not None and not isinstance(part.forward, _ReadyOrNot):
        hand_on = _as_encoded if name == "front end" else _as_backbone_output
        part.forward = _ReadyOrNot(part.forward, hand_on)


def find_frozen_part(classifier: Classifier, options: ModelOptions) -> PartName | None:
    """The largest part of the classifier that no training of these options ever moves.

    Args:
        classifier: As built, or loaded from what a run with these options has saved.
        options: The configuration's `model` section.
    """
    if getattr(options, "unfreeze_at_epoch", None) is not None:
        return None
    model = classifier.model
    if getattr(options, "lora", None) is not None:  # adapters go into the layers after it
        return "front end" if find_part(model, "front end") is not None else None
    for name in ("backbone", "front end"):
        part = find_part(model, name)
        if part is not None and never_moves(part, classifier, options):
            return name
    return None


def never_moves(part: nn.Module, classifier: Classifier, options: ModelOptions) -> bool:
    """Whether a part of a classifier's model is frozen, all of it, by these options.

    When it would thaw, and what adapters would do to it, is not asked here.
    """
    inner = {id(parameter) for parameter in part.parameters()}
    moving = _moving(classifier, options)
    return not any(
        id(p) in inner for name, p in classifier.model.named_parameters() if name in moving
    )


def trains_head_alone(classifier: Classifier, options: ModelOptions) -> bool:
    """Whether no training of these options ever moves anything but the head, whatever the model."""
    if any(getattr(options, name, None) is not None for name in ("unfreeze_at_epoch", "lora")):
        return False
    return _moving(classifier, options) <= head_names(classifier.model)


def _moving(classifier: Classifier, options: ModelOptions) -> frozenset[str]:
    """Names of the parameters that are trained from the start."""
    model, freezing = classifier.model, classifier.freezing
    frozen = (
        choose_frozen(model, getattr(options, "freeze", "none"))
        if freezing is None
        else freezing.names
    )
    unmoved = frozen | set(find_unreached(model))
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return frozenset(trained) - unmoved
