"""Lets an image model take what its frozen backbone makes of an image, instead of the image itself.

As `frozen_part` does for speech: what the backbone makes is stored by `features.kept_images`; the
model itself, its settings and its files stay the ordinary ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_finetune.models.frozen_part import as_frozen, describe_settings, never_moves
from hf_finetune.models.processors import prepare_nothing

if TYPE_CHECKING:
    from hf_finetune.models import Classifier, ModelOptions


class FrozenBackbone:
    """All of an image model but its head, frozen, for use on batches of images.

    Args:
        classifier: Its model has such a backbone (`has_frozen_backbone`), on the device where it
            runs.
        precision: The run's: fp32, bf16 or fp16.

    Attributes:
        name: As the plan calls it.
        dtype: Of the features: what the backbone itself gives at that precision.
        num_channels: Numbers in an image's features.
        bytes_per_image: Of them.
    """

    name = "backbone"

    def __init__(self, classifier: Classifier, precision: str) -> None:
        self._model: nn.Module = classifier.model
        self._precision = precision
        features = self.compute(prepare_nothing(classifier.processor, "image"))
        self.dtype = features.dtype
        self.num_channels = features.shape[1]
        self.bytes_per_image = self.num_channels * self.dtype.itemsize

    def compute(self, pixel_values: Tensor) -> Tensor:
        """What the model's head is given for some images; the model runs as in evaluation.

        Args:
            pixel_values: float32 `[B, C, H, W]`, as the model's processor gives them.

        Returns:
            `dtype` `[B, channels]`, on the CPU.
        """
        with as_frozen(self._model, self._precision) as device:
            given, _ = _run(self._model, pixel_values.to(device))
        return given.to("cpu", copy=True).contiguous()

    def fingerprint(self) -> str:
        """Hash of whatever decides about the features: layers, weights, precision, device type."""
        model = self._model
        device = next(model.parameters()).device.type
        digest = hashlib.sha256(f"{type(model).__name__} {self._precision} {device}".encode())
        digest.update(describe_settings(model.config))
        head = f"{_head_name(model)}."
        for name, tensor in model.state_dict().items():
            if name.startswith(head):
                continue
            # The memory format decides about the last bits of convolutions.
            layout = f"{name} {tensor.dtype} {list(tensor.shape)} {tensor.stride()}"
            digest.update(layout.encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()


class _HeadOrAll:
    """Stands in for a model's `forward`: ready features go to the head, images through all of it.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._forward: Callable[..., Any] = model.forward
        self._head = model.get_submodule(str(_head_name(model)))

    def __call__(self, pixel_values: Tensor, *others: Any, **named: Any) -> Any:
        if pixel_values.dim() > 2:
            return self._forward(pixel_values, *others, **named)
        from transformers.modeling_outputs import ImageClassifierOutput

        return ImageClassifierOutput(logits=self._head(pixel_values))


def has_frozen_backbone(classifier: Classifier, options: ModelOptions) -> bool:
    """Whether no training of these options ever moves anything but the head.

    And whether the head is one module that is given a single tensor and answers with the logits:
    a trial run tells.

    Args:
        classifier: As built, or loaded from what a run with these options has saved.
        options: The configuration's `model` section.
    """
    thaws = getattr(options, "unfreeze_at_epoch", None) is not None
    if thaws or getattr(options, "lora", None) is not None:  # adapters sit in the backbone
        return False
    model = classifier.model
    if _head_name(model) is None:
        return False
    backbone = model.get_submodule(model.base_model_prefix)
    if not never_moves(backbone, classifier, options):
        return False
    was_training = model.training
    example = prepare_nothing(classifier.processor, "image").to(model.device)
    with torch.no_grad():
        given, logits = _run(model.eval(), example)
        head = model.get_submodule(str(_head_name(model)))
        is_all = logits is not None and torch.equal(head(given), logits)
    model.train(was_training)
    return is_all


def accept_ready_images(model: nn.Module) -> None:
    """Lets a model take `pixel_values` `[B, channels]`, computed by its own backbone before.

    Images `[B, C, H, W]` are taken as ever. Nothing about the model's parameters, names or settings
    changes, so that what is saved of it is what would be saved without.
    """
    if not isinstance(model.forward, _HeadOrAll):
        model.forward = _HeadOrAll(model)


def _head_name(model: nn.Module) -> str | None:
    """The one part that a model has beside its backbone; None where there is not just one."""
    base = str(getattr(model, "base_model_prefix", ""))
    names = [name for name, _ in model.named_children()]
    if getattr(model, "main_input_name", None) != "pixel_values" or base not in names:
        return None
    others = [name for name in names if name != base]
    return others[0] if len(others) == 1 else None


def _run(model: nn.Module, pixel_values: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a model's head is given for some images, `[B, channels]`; and the model's logits."""
    given: list[Tensor] = []
    head = model.get_submodule(str(_head_name(model)))
    hook = head.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    try:
        logits = model(pixel_values=pixel_values).logits
    finally:
        hook.remove()
    if len(given) != 1:
        return pixel_values.flatten(1), None
    return given[0].flatten(1), logits
