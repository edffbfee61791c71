"""Lets a speech model take what its frozen front end makes of a clip, instead of the clip itself.

The front end is the convolutional feature encoder of wav2vec2 and its like. What it makes is stored
by `features.kept_features`; the model itself, its settings and its files stay the ordinary ones.
"""

from __future__ import annotations

import copy
import hashlib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_finetune.models.freezing import choose_frozen

if TYPE_CHECKING:
    from hf_finetune.models import Classifier, ModelOptions

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FrontEnd:
    """The feature encoder of a model, for use clip by clip.

    Args:
        classifier: Its model has such an encoder (`find_encoder`), on the device where it runs.
        precision: The run's: fp32, bf16 or fp16.

    Attributes:
        dtype: Of the features: what the precision says.
        num_channels: Numbers in a frame.
        bytes_per_second: Of sound.
    """

    def __init__(self, classifier: Classifier, precision: str) -> None:
        encoder, config = find_encoder(classifier.model), classifier.model.config
        if encoder is None:
            raise ValueError(f"{type(classifier.model).__name__} has no feature encoder")
        self._encoder = encoder
        self._precision = precision
        self.dtype = _DTYPES[precision]
        self.num_channels = int(config.conv_dim[-1])
        frames_per_second = classifier.processor.sampling_rate / math.prod(config.conv_stride)
        self.bytes_per_second = frames_per_second * self.num_channels * self.dtype.itemsize

    def compute(self, input_values: Tensor) -> Tensor:
        """Features of one clip, as the model itself would compute them for it alone.

        Args:
            input_values: float32 `[1, T]`, as the model's feature extractor gives them.

        Returns:
            `dtype` `[frames, channels]`, on the CPU.
        """
        encoder = self._encoder
        device = next(encoder.parameters()).device
        was_training = encoder.training
        encoder.eval()
        half = self._precision != "fp32"
        with torch.no_grad(), torch.autocast(device.type, self.dtype, enabled=half):
            features: Tensor = encoder(input_values.to(device))[0].T
        encoder.train(was_training)
        return features.to("cpu", self.dtype).contiguous()

    def on_cpu(self) -> FrontEnd:
        """The same front end where a loader's worker may use it; a copy if it is elsewhere."""
        if next(self._encoder.parameters()).device.type == "cpu":
            return self
        other = copy.copy(self)
        other._encoder = copy.deepcopy(self._encoder).cpu()
        return other

    def fingerprint(self) -> str:
        """Hash of whatever decides about the features: layers, weights, precision, device type."""
        device = next(self._encoder.parameters()).device.type
        digest = hashlib.sha256(f"{self._encoder} {self._precision} {device}".encode())
        for name, tensor in self._encoder.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


class _ReadyOrNot:
    """Stands in for an encoder's `forward`: hands on what is ready, and computes what is not.

    Args:
        forward: The encoder's own, from `[B, T]` to `[B, channels, frames]`.
    """

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def __call__(self, values: Tensor) -> Tensor:
        if values.dim() == 3:
            return values.transpose(1, 2)
        features: Tensor = self._forward(values)
        return features


def find_encoder(model: nn.Module) -> nn.Module | None:
    """The convolutional feature encoder of a model of wav2vec2's kind; None for any other."""
    base = getattr(model, str(getattr(model, "base_model_prefix", "")), None)
    encoder = getattr(base, "feature_extractor", None)
    config = getattr(model, "config", None)
    is_known = (
        isinstance(encoder, nn.Module)
        and getattr(model, "main_input_name", None) == "input_values"
        and all(hasattr(config, name) for name in ("conv_dim", "conv_kernel", "conv_stride"))
    )
    return encoder if is_known else None


def accept_ready_features(model: nn.Module) -> None:
    """Lets a model take `input_values` `[B, frames, channels]`, computed by its own encoder before.

    Waveforms `[B, T]` are taken as ever. Nothing about the model's parameters, names or settings
    changes, so that what is saved of it is what would be saved without.
    """
    encoder = find_encoder(model)
    if encoder is not None and not isinstance(encoder.forward, _ReadyOrNot):
        encoder.forward = _ReadyOrNot(encoder.forward)


def stays_frozen(classifier: Classifier, options: ModelOptions) -> bool:
    """Whether no training of these options ever moves the classifier's feature encoder.

    Args:
        classifier: As built, or loaded from what a run with these options has saved.
        options: The configuration's `model` section.
    """
    model = classifier.model
    encoder = find_encoder(model)
    if encoder is None or getattr(options, "unfreeze_at_epoch", None) is not None:
        return False
    if getattr(options, "lora", None) is not None:
        return True
    freezing = classifier.freezing
    frozen = (
        choose_frozen(model, getattr(options, "freeze", "none"))
        if freezing is None
        else freezing.names
    )
    inner = {id(parameter) for parameter in encoder.parameters()}
    return all(name in frozen for name, p in model.named_parameters() if id(p) in inner)
