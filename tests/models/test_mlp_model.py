"""The fully connected network: its layers, its first weights and its gradients."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription, build_model
from hf_finetune.models.mlp import Options
from hf_finetune.models.modeling_mlp import MlpConfig, MlpForImageClassification

DATA = DataDescription(("a", "b", "c"), 5, 6, 3, (0.5,) * 3, (0.2,) * 3)


def test_it_is_linear_layers_with_activation_and_dropout_between():
    options = Options(hidden_sizes=(16, 8), activation="silu", dropout=0.25)
    classifier = build_model(options, DATA)
    model = classifier.model.eval()
    reference = nn.Sequential(
        *(nn.Flatten(), nn.Linear(90, 16), nn.SiLU(), nn.Linear(16, 8), nn.SiLU()),
        nn.Linear(8, 3),
    )
    pairs = zip(model.state_dict().values(), reference.state_dict().values(), strict=True)
    for own, other in pairs:
        other.copy_(own)
    images = torch.randn(4, 3, 5, 6)
    assert torch.equal(model(images).logits, reference(images))
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.25, 0.25]
    assert classifier.channels_last is False
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_without_hidden_layers_it_is_a_linear_classifier():
    model = build_model(Options(hidden_sizes=()), DATA).model
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 90), (3,)]


def test_every_trainable_parameter_gets_a_gradient():
    model = build_model(Options(hidden_sizes=(16, 8), activation="gelu"), DATA).model
    images, labels = torch.randn(4, 3, 5, 6), torch.tensor([0, 1, 2, 1])
    output = model(images, labels=labels)
    output.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    expected = nn.functional.cross_entropy(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item())
    assert model(images).loss is None
    assert model.accepts_loss_kwargs is False
    assert list(inspect.signature(model.forward).parameters) == ["pixel_values", "labels"]


def test_first_weights_are_spread_as_torch_spreads_them():
    torch.manual_seed(0)
    model = MlpForImageClassification(MlpConfig(num_labels=10))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.abs().max() <= 1 / math.sqrt(module.in_features)
            spread = 1 / math.sqrt(3 * module.in_features)
            assert module.weight.std().item() == pytest.approx(spread, rel=0.06)
            assert module.bias.abs().max() > 0


def test_what_does_not_fit_is_refused():
    model = build_model(Options(), DATA).model
    with pytest.raises(ValueError, match=r"got \[2, 3, 6, 5\].*\[batch, 3, 5, 6\]"):
        model(torch.zeros(2, 3, 6, 5))
    with pytest.raises(ValueError, match=r"activation: unknown value 'tanh'\. Allowed: relu"):
        MlpConfig(activation="tanh")
    sizes_differ = DataDescription(("a", "b"), None, None, 1, (0.5,), (0.2,))
    with pytest.raises(ModelError, match=r"model\.image_size"):
        build_model(Options(), sizes_differ)
