"""A table of a model's layers: what each gives for one picture, and its parameters.

The command line's `inspect` prints it before anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a model.

    Attributes:
        name: Its path in the model.
        type: Its class.
        output_shape: Of its answer for one example, without the batch axis; None where the
            answer is no tensor.
        parameters: Its own numbers, trainable or not; those of layers within it are theirs.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    parameters: int


def summarize(model: PreTrainedModel, input_shape: tuple[int, ...]) -> list[LayerSummary]:
    """Runs one example of zeros through a model and lists its layers in the order of the run.

    A layer is a module with parameters of its own, or without modules within it. Mode, gradients
    and random generators are left as they are.

    Args:
        model: Takes its main input by name.
        input_shape: Of one example: `(1, 28, 28)`.
    """
    import torch

    layers: dict[str, LayerSummary] = {}
    counted: set[int] = set()

    def note(name: str, module: torch.nn.Module, output: Any) -> None:
        if name in layers:  # a module that is run twice stands once
            return
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        shape = _first_shape(output)
        layers[name] = LayerSummary(name, type(module).__name__, shape, sum(p.numel() for p in own))

    hooks = [
        module.register_forward_hook(
            lambda module, _, output, name=name: note(name, module, output)
        )
        for name, module in model.named_modules()
        if not any(module.children()) or any(True for _ in module.parameters(recurse=False))
    ]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        example = torch.zeros(1, *input_shape, device=model.device, dtype=model.dtype)
        with torch.no_grad():
            model(**{model.main_input_name: example})
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return list(layers.values())


def format_summary(model: PreTrainedModel, input_shape: tuple[int, ...]) -> str:
    """The table of `summarize` for people, with totals of the whole model below it.

    Args:
        model: Takes its main input by name.
        input_shape: Of one example: `(1, 28, 28)`.
    """
    rows = [("layer", "type", "output", "parameters")]
    rows += [
        (layer.name, layer.type, _shape_text(layer.output_shape), f"{layer.parameters:,}")
        for layer in summarize(model, input_shape)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(
            (
                *(cell.ljust(w) for cell, w in zip(row, widths[:3], strict=False)),
                row[3].rjust(widths[3]),
            )
        )
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    size = sum(t.numel() * t.element_size() for t in (*parameters, *model.buffers()))
    lines.append(f"{total:,} parameters, {trainable:,} trainable, {size / 1e6:.2f} MB with buffers")
    return "\n".join(lines)


def _first_shape(output: Any) -> tuple[int, ...] | None:
    """Shape, without the batch axis, of the first tensor of an answer."""
    if isinstance(output, dict):
        output = tuple(output.values())
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return tuple(output.shape[1:]) if hasattr(output, "shape") else None


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape))
