"""Parameter groups: every trainable parameter once, biases and norms without decay."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription, build_model, decay_groups
from hf_finetune.models.cnn import Options

DIGITS = DataDescription(tuple("0123456789"), 28, 28, 1, (0.13,), (0.3,))


def names(model: nn.Module, group: dict) -> list[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return [by_id[id(parameter)] for parameter in group["params"]]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_weights_decay_biases_and_norms_do_not(norm):
    model = build_model(Options(norm=norm, channels=(4,), convolutions_per_block=2), DIGITS).model
    decayed, kept = decay_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert names(model, decayed) == [
        "features.0.0.weight",
        "features.0.3.weight",
        "classifier.weight",
    ]
    assert names(model, kept) == [
        "features.0.1.weight",
        "features.0.1.bias",
        "features.0.4.weight",
        "features.0.4.bias",
        "classifier.bias",
    ]


def test_a_transformer_is_sorted_completely():
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
    )
    model = transformers.ViTForImageClassification(config)
    decayed, kept = decay_groups(model, 0.1)
    both = names(model, decayed) + names(model, kept)
    assert sorted(both) == sorted(name for name, _ in model.named_parameters())
    assert all("norm" in name or name.endswith("bias") for name in names(model, kept))
    assert not any("norm" in name or name.endswith("bias") for name in names(model, decayed))


def test_frozen_parameters_are_left_out_and_shared_ones_stand_once():
    model = nn.ModuleDict(
        {"one": nn.Linear(2, 2), "two": nn.Linear(2, 2), "three": nn.Linear(2, 2)}
    )
    model["two"].weight = model["one"].weight
    model["three"].weight.requires_grad = False
    decayed, kept = decay_groups(model, 0.1)
    assert names(model, decayed) == ["one.weight"]
    assert names(model, kept) == ["one.bias", "two.bias", "three.bias"]


def test_an_optimiser_takes_the_groups_and_moves_everything():
    model = build_model(Options(channels=(4,)), DIGITS).model
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(torch.randn(4, 1, 28, 28), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_a_group_may_be_empty_but_not_both():
    model = nn.Linear(2, 2)
    model.weight.requires_grad = False
    assert decay_groups(model, 0.1)[0] == {"params": [], "weight_decay": 0.1}
    torch.optim.SGD(decay_groups(model, 0.1), lr=0.1)
    model.bias.requires_grad = False
    with pytest.raises(ModelError, match="every parameter is frozen"):
        decay_groups(model, 0.1)
