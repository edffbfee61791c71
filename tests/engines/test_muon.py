"""Muon: orthogonal steps for the backbone's matrices, AdamW for everything else."""

from __future__ import annotations

import pytest
import torch
from small_checkpoints import make_classifier_network
from torch import nn

from hf_finetune.engines import muon
from hf_finetune.engines.muon import Muon, orthogonalize
from hf_finetune.engines.optimization import build_optimizer
from hf_finetune.engines.options import TrainOptions
from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification

RATE, DECAY = 0.01, 0.1


@pytest.fixture(autouse=True)
def _in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "_working_type", lambda device: torch.float32)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def build(model: nn.Module) -> torch.optim.Optimizer:
    options = {
        "learning_rate": RATE,
        "optimizer": {"name": "muon", "weight_decay": DECAY, "momentum": 0.95},
    }
    return build_optimizer(model, TrainOptions.model_validate(options))


def small_cnn() -> CnnForImageClassification:
    torch.manual_seed(0)
    return CnnForImageClassification(CnnConfig(channels=(4, 6), norm="batch"))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    images = random(8, 1, 28, 28)
    for step in range(steps):
        logits = model(pixel_values=images).logits
        nn.functional.cross_entropy(logits, (torch.arange(8) + step) % 2).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (12, 12)])
def test_every_direction_gets_the_same_length(shape: tuple[int, int]):
    matrix = random(*shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    between = left.T @ orthogonalize(matrix) @ right.T
    sizes = between.diagonal()
    assert ((sizes > 0.6) & (sizes < 1.3)).all()
    assert (between - torch.diag(sizes)).abs().max() < 1e-4
    assert torch.equal(orthogonalize(torch.zeros(shape)), torch.zeros(shape))


def test_a_matrix_moves_as_with_torch_and_the_rest_as_with_adamw():
    start, bias = random(6, 10), random(6)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    ours_bias, theirs_bias = (nn.Parameter(bias.clone()) for _ in range(2))
    groups = [
        {"params": [ours], "weight_decay": DECAY, "orthogonal": True},
        {"params": [ours_bias], "weight_decay": 0.0, "orthogonal": False},
    ]
    optimizer = Muon(groups, RATE, (0.9, 0.999), 1e-8, 0.95)
    matrices = torch.optim.Muon([theirs], RATE, DECAY, 0.95, adjust_lr_fn="match_rms_adamw")
    rest = torch.optim.AdamW([theirs_bias], RATE, weight_decay=0.0, fused=True)
    for step in range(4):
        ours.grad, ours_bias.grad = random(6, 10) + step, random(6) * step
        theirs.grad, theirs_bias.grad = ours.grad.clone(), ours_bias.grad.clone()
        for one in (optimizer, matrices, rest):
            one.step()
    assert torch.equal(ours_bias, theirs_bias)
    assert (ours - start).abs().max() > 0.01
    assert torch.allclose(ours, theirs, atol=1e-3)  # torch rounds to bfloat16 on the way


def test_the_memory_format_changes_nothing():
    plain, other = small_cnn(), small_cnn().to(memory_format=torch.channels_last)
    for model in (plain, other):
        train(model, build(model))
    for (name, ours), theirs in zip(plain.named_parameters(), other.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3), name


def orthogonal_names(model: nn.Module) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build(model).param_groups
    held = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(held) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    for group in groups:
        if group["orthogonal"]:
            assert group["weight_decay"] == DECAY
    return {names[id(p)] for group in groups if group["orthogonal"] for p in group["params"]}


def test_first_layer_head_and_norms_stay_with_adamw():
    model = small_cnn()
    convolutions = [n for n, p in model.named_parameters() if p.dim() == 4]
    assert orthogonal_names(model) == set(convolutions[1:])
    model.get_parameter(convolutions[2]).requires_grad_(False)
    assert orthogonal_names(model) == {convolutions[1], convolutions[3]}


def test_of_a_transformer_it_takes_the_linear_layers():
    names = orthogonal_names(make_classifier_network("deit"))
    assert "deit.layers.0.mlp.fc1.weight" in names
    assert not [n for n in names if n.endswith("bias") or "embed" in n or "norm" in n]
    assert not [n for n in names if n.startswith("classifier")]


def test_what_has_no_gradient_stays_and_has_no_state():
    model = small_cnn()
    optimizer = build(model)
    frozen = [p for p in model.parameters() if p.dim() == 4][2]
    before = frozen.detach().clone()
    frozen.requires_grad_(False)
    train(model, optimizer)
    assert torch.equal(frozen, before)
    assert frozen not in optimizer.state
    frozen.requires_grad_(True)
    train(model, optimizer, steps=1)
    assert not torch.equal(frozen, before)


def test_a_closure_is_called_once():
    model, calls = small_cnn(), []
    optimizer = build(model)
    assert optimizer.step(lambda: calls.append(1) or 0.5) == 0.5
    assert calls == [1]
    assert len(optimizer.param_groups) == 3
