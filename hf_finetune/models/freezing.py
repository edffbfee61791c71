"""Chooses what of a model is not trained, and keeps it so while it trains.

`pretrained` freezes; `engines.progress` tells which epoch it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError
from hf_finetune.models.anatomy import head_names, layer_numbers
from hf_finetune.registry import nearest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hf_finetune.models.pretrained import Freeze


def choose_frozen(model: PreTrainedModel, freeze: Freeze) -> frozenset[str]:
    """Names of the trainable parameters that a `freeze` option takes out of the training.

    Args:
        model: The model, as built.
        freeze: The option; see `pretrained.PretrainedOptions`.

    Raises:
        ModelError: The model has no such part, or nothing would be left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if isinstance(freeze, dict):
        chosen = _by_rule(model, names, freeze)
    elif freeze == "backbone":
        chosen = set(names) - head_names(model)
    elif freeze == "feature_encoder":
        chosen = {name for name in names if ".feature_extractor." in f".{name}"}
        if not chosen:
            raise ModelError(
                f"model.freeze: {type(model).__name__} has no feature encoder. Allowed: none, "
                "backbone, {first_layers: N} or {patterns: […]}."
            )
    else:
        chosen = set()
    if chosen and chosen == set(names):
        raise ModelError(
            "model.freeze: every parameter would be frozen, so there is nothing to train. Leave "
            "the head trainable at least."
        )
    return frozenset(chosen)


def _by_rule(model: PreTrainedModel, names: list[str], freeze: dict[Any, Any]) -> set[str]:
    if "first_layers" in freeze:
        numbers, count = layer_numbers(model)
        if freeze["first_layers"] > count:
            raise ModelError(
                f"model.freeze: {{first_layers: {freeze['first_layers']}}}, and "
                f"{type(model).__name__} has {count} layers. Allowed: 1 to {count}."
            )
        # A head's name has no number: it is never among the first layers.
        return {name for name in names if numbers.get(name, count + 1) <= freeze["first_layers"]}
    chosen = set()
    for pattern in freeze["patterns"]:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise ModelError(
                f"model.freeze: no trainable parameter is called like {pattern!r}. "
                f"{nearest(pattern.strip('*.'), names) if len(names) < 20 else _some(names)}"
            )
        chosen |= found
    return chosen


def _some(names: list[str]) -> str:
    return f"Names are like {', '.join(names[:: max(1, len(names) // 4)][:4])}."


def find_unreached(model: PreTrainedModel) -> tuple[str, ...]:
    """Trainable parameters that no classification uses, and no training could move.

    Speech models have an embedding for masked samples, which only SpecAugment uses; image models
    one for masked patches, which only their pretraining used.
    """
    config = model.config
    masks = getattr(config, "apply_spec_augment", True) and getattr(config, "mask_time_prob", 0) > 0
    unused = {"mask_token"} if masks else {"mask_token", "masked_spec_embed"}
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.rpartition(".")[2] in unused
    )


class Freezing:
    """The frozen part of a model, and when it thaws.

    It acts just before each forward pass in training: the part's parameters then need no gradient
    (so that an optimiser that holds them leaves them and its own state of them alone), and modules
    that are frozen as a whole run as in evaluation: no dropout, and batch norm uses its statistics
    without changing them. That is what the usual linear probe does.

    Args:
        model: Its forward pass is hooked into; the model's own settings and files don't change.
        names: Its parameters to freeze.
        unfreeze_at_epoch: Epochs after which they are trained; None: never. Until then they are
            in the optimiser all the same: its groups, and so its saved state, stay as they are.

    Attributes:
        epoch: Epochs that are done; the engines keep it up to date.
    """

    def __init__(
        self, model: PreTrainedModel, names: frozenset[str], unfreeze_at_epoch: int | None
    ) -> None:
        self.names = names
        self.unfreeze_at_epoch = unfreeze_at_epoch
        self.epoch = 0
        self._parameters = [model.get_parameter(name) for name in sorted(names)]
        self._modules = list(_whole_modules(model, names))
        if unfreeze_at_epoch is None:
            for parameter in self._parameters:
                parameter.requires_grad_(False)
        model.register_forward_pre_hook(self._prepare)

    @property
    def is_frozen(self) -> bool:
        """Whether the part is left alone at present."""
        return self.unfreeze_at_epoch is None or self.epoch < self.unfreeze_at_epoch

    def _prepare(self, model: nn.Module, _: Any) -> None:
        if not model.training:
            return
        for parameter in self._parameters:
            parameter.requires_grad_(not self.is_frozen)
        if self.is_frozen:
            for module in self._modules:
                module.eval()


def _whole_modules(
    model: nn.Module, names: frozenset[str], prefix: str = ""
) -> Iterator[nn.Module]:
    """The outermost modules with parameters, none of which is trained."""
    for name, child in model.named_children():
        path = f"{prefix}{name}."
        inner = [(f"{path}{own}", parameter) for own, parameter in child.named_parameters()]
        if not inner:
            continue
        if all(own in names or not parameter.requires_grad for own, parameter in inner):
            yield child
        else:
            yield from _whole_modules(child, names, path)
