"""Muon: steps of the same length in every direction for matrices, AdamW for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hf_finetune.engines.compute import is_fast_at_bf16
from hf_finetune.models.anatomy import head_names

# A quintic whose slope at 0 is steep, so that five rounds bring every singular value near 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_ADAMW_RMS = 0.2  # of a typical AdamW update, in units of the learning rate


class Muon(torch.optim.AdamW):
    """AdamW, but for the groups marked `orthogonal`.

    There the momentum's gradient, seen as a matrix of one row an output channel, is replaced by the
    nearest orthogonal matrix, which is then scaled to the size of a typical AdamW update: one
    learning rate and one weight decay serve both kinds of groups.

    Args:
        groups: Parameter groups; those with `orthogonal: True` have two dimensions or more.
        lr: Learning rate.
        betas: Of AdamW.
        eps: Of AdamW.
        momentum: Of the orthogonal groups.

    Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale
    is that of Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
    ) -> None:
        named = [{"orthogonal": False, "momentum": momentum, **group} for group in groups]
        super().__init__(named, lr=lr, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Moves every parameter that has a gradient."""
        every_group = self.param_groups
        self.param_groups = [group for group in every_group if not group["orthogonal"]]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = every_group
        for group in every_group:
            if group["orthogonal"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["step"] = torch.zeros(())  # AdamW looks for it in every state that it loads
                state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] += 1
            average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
            update = torch.lerp(parameter.grad, average, group["momentum"])
            rows = parameter.flatten(1).shape
            rate = float(group["lr"])
            parameter.mul_(1 - rate * group["weight_decay"])
            move = orthogonalize(update.reshape(rows)).view(parameter.shape)
            parameter.add_(move, alpha=-rate * _ADAMW_RMS * math.sqrt(max(rows)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to one: its singular values are all near 1.

    Args:
        matrix: `[M, N]`.

    Returns:
        Of the same shape and type; most singular values lie between 0.7 and 1.2. By Newton-Schulz.
    """
    a, b, c = _QUINTIC
    is_tall = len(matrix) > matrix.shape[1]
    current = (matrix.T if is_tall else matrix).to(_working_type(matrix.device.type))
    current = current / current.norm().clamp(min=1e-7)
    for _ in range(_ROUNDS):
        gram = current @ current.T
        current = torch.addmm(
            current, torch.addmm(gram, gram, gram, beta=b, alpha=c), current, beta=a
        )
    return (current.T if is_tall else current).to(matrix.dtype)


@cache
def _working_type(device: str) -> torch.dtype:
    return torch.bfloat16 if is_fast_at_bf16(device) else torch.float32


def split_groups(groups: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """Marks what Muon is for: weights of linear layers and convolutions within the backbone.

    The first of them, which sees the data themselves, stays with AdamW, as do convolutions in
    groups, embeddings and the head.

    Args:
        groups: Groups for a torch optimiser.
        model: Whose parameters they hold.

    Returns:
        The same groups in the same order, each split in two where it holds both kinds.
    """
    head = head_names(model)
    layers = [
        layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d))
    ]
    within = {layer.weight for layer in layers[1:] if getattr(layer, "groups", 1) == 1}
    matrices = {p for name, p in model.named_parameters() if p in within and name not in head}
    split = []
    for group in groups:
        for orthogonal in (True, False):
            own = [p for p in group["params"] if (p in matrices) == orthogonal]
            if own:
                split.append({**group, "params": own, "orthogonal": orthogonal})
    return split
