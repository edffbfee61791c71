"""Tells a network's head from its backbone, and numbers the backbone's layers from the input up.

Freezing, learning rates by layer and the check of loaded weights all ask here, by parameter name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hf_finetune.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# `deit.layers.3.`, `encoder.layer.3.`, and with stages `swin.encoder.layers.1.blocks.0.`,
# `convnext.encoder.stages.1.layers.0.`; wav2vec2's `conv_layers` are no layers of this kind.
_LAYER = re.compile(
    r"(?:^|\.)(?:layers?|blocks?|stages|h)\.(\d+)(?:\.(?:layers?|blocks?)\.(\d+))?\."
)


def head_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters and buffers that turn the backbone's features into classes.

    The backbone is what transformers calls the base model. Where a network has none, it ends with
    the part called encoder (Whisper, HGNet), or before the last part with parameters.
    """
    base = str(getattr(model, "base_model_prefix", ""))
    parts = [name for name, part in model.named_children() if any(True for _ in part.parameters())]
    if base and hasattr(model, base):
        backbone = {base}
    elif "encoder" in parts:
        backbone = set(parts[: parts.index("encoder") + 1])
    else:
        backbone = set(parts[:-1])
    return frozenset(name for name in model.state_dict() if name.split(".")[0] not in backbone)


def layer_numbers(model: nn.Module) -> tuple[dict[str, int], int]:
    """The layer of each of the backbone's parameters.

    Returns:
        A number for each name: 0 for what stands before the first layer (patch or sample
        embeddings), 1 for the first layer and so on, and one more than the last layer's for what
        follows it (the last norm). What stands between two stages counts to the layer before it.
        And the number of layers.

    Raises:
        ModelError: The backbone has no layers that could be told by their names.
    """
    head = head_names(model)
    names = [name for name, _ in model.named_parameters() if name not in head]
    places = {name: _place(name) for name in names}
    has_stages = any(second is not None for _, second in places.values())
    layers: list[tuple[int | None, int | None]] = []
    numbers: dict[str, int] = {}
    for name, place in places.items():
        is_within = place[1 if has_stages else 0] is not None
        if is_within and place not in layers:
            layers.append(place)
        numbers[name] = len(layers)
    if not layers:
        raise ModelError(
            f"model: {type(model).__name__} has no layers that are numbered in its tensors' names, "
            "so they can't be told apart. Leave first_layers and train.layer_decay out; "
            "train.head_learning_rate and freeze: backbone need no layers."
        )
    for name in reversed(names):
        if any(part is not None for part in places[name]):
            break
        numbers[name] = len(layers) + 1
    if getattr(model.config, "do_stable_layer_norm", False):
        # wav2vec2-large and its like norm after the layers, but register that norm before them.
        numbers.update(dict.fromkeys(_closing_norms(names), len(layers) + 1))
    return numbers, len(layers)


def _place(name: str) -> tuple[int | None, int | None]:
    """(layer, None), or (stage, layer in it), or (None, None) outside all layers."""
    found = _LAYER.search(name)
    if found is None:
        return None, None
    first, second = found.groups()
    return int(first), None if second is None else int(second)


def _closing_norms(names: list[str]) -> list[str]:
    return [name for name in names if re.search(r"(?:^|\.)encoder\.layer_norm\.", name)]
