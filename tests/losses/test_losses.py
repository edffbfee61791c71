"""Every loss against its reference, and under the step contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from hf_finetune.config import config_from
from hf_finetune.engines.step import TrainingStep
from hf_finetune.errors import ConfigError, UserError
from hf_finetune.registry import kind

COUNTS = (30, 60, 10)
NAMES = ("cat", "dog", "owl")


def build(name: str, classes: int = 3, **settings: Any) -> Any:
    """The loss, from a configuration as a user writes it."""
    tree = {"data": {"name": "mnist"}, "model": {"name": "cnn"}, "loss": {"name": name, **settings}}
    options = config_from(tree).loss
    return kind("losses", name).build(options, NAMES[:classes], COUNTS[:classes])


def draw(classes: int, rows: int = 23) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    return logits.requires_grad_(), torch.arange(rows) % classes


def mean(loss: Any, logits: Tensor, labels: Tensor) -> Tensor:
    return loss(logits, labels).sum() / loss.weights(labels).sum()


def assert_same(logits: Tensor, value: Tensor, reference: Tensor) -> None:
    """Values and gradients agree, and neither is trivially zero."""
    torch.testing.assert_close(value, reference)
    (gradient,) = torch.autograd.grad(value, logits)
    (expected,) = torch.autograd.grad(reference, logits)
    assert float(expected.abs().max()) > 1e-4
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("weights", "values"),
    [
        ("none", None),
        ("auto", [100 / 90, 100 / 180, 100 / 30]),
        ({"owl": 4.0, "cat": 1.0, "dog": 0.5}, [1.0, 0.5, 4.0]),
    ],
)
@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_cross_entropy_and_focal_at_gamma_0_are_torchs(
    name: str, weights: Any, values: list[float] | None
):
    settings = {"gamma": 0} if name == "focal" else {}
    loss = build(name, class_weights=weights, **settings)
    logits, labels = draw(3)
    weight = None if values is None else torch.tensor(values)
    reference = functional.cross_entropy(logits, labels, weight=weight)
    assert_same(logits, mean(loss, logits, labels), reference)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_papers_formula(gamma: float):
    loss = build("focal", gamma=gamma, class_weights={"cat": 1.0, "dog": 0.25, "owl": 3.0})
    logits, labels = draw(3)
    alpha = torch.tensor([1.0, 0.25, 3.0])[labels]
    p = logits.softmax(1)[torch.arange(len(labels)), labels]
    reference = (-alpha * (1 - p) ** gamma * p.log()).sum() / alpha.sum()
    assert_same(logits, mean(loss, logits, labels), reference)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_focal_stays_finite_where_the_model_is_sure(gamma: float):
    """At p = 1 the power's slope is infinite for gamma below 1; at p = 0 the logarithm is."""
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    losses = build("focal", gamma=gamma)(logits, torch.tensor([0, 0]))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 200.0]
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0] * 3, [-1.0, 1.0, 0.0]]


def test_focal_turns_to_what_is_unsure():
    logits, labels = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.5, 0.0]]), torch.tensor([0, 0])
    sure, unsure = (build("focal")(logits, labels) / build("cross_entropy")(logits, labels)).abs()
    assert float(sure) < 0.01
    assert float(unsure) > 0.3


@pytest.mark.parametrize("weights", ["none", {"cat": 2.0, "dog": 6.0}])
def test_binary_is_torchs(weights: Any):
    loss = build("binary", 2, class_weights=weights)
    logits, labels = draw(2)
    logit = logits[:, 1] - logits[:, 0]
    if weights == "none":
        reference = functional.binary_cross_entropy_with_logits(logit, labels.float())
    else:  # weights of 2 and 6 are a pos_weight of 3, but for what the sum is divided by
        total = functional.binary_cross_entropy_with_logits(
            logit, labels.float(), pos_weight=torch.tensor(3.0), reduction="sum"
        )
        reference = 2 * total / (2.0 * (labels == 0).sum() + 6.0 * (labels == 1).sum())
    assert_same(logits, mean(loss, logits, labels), reference)


def test_binary_says_what_two_logits_say():
    """One logit is no other model: value and gradient are those of the softmax over both."""
    logits, labels = draw(2)
    cross_entropy = mean(build("cross_entropy", 2), logits, labels)
    assert_same(logits, mean(build("binary", 2), logits, labels), cross_entropy)


def test_binary_refuses_three_classes():
    with pytest.raises(UserError, match=r"two classes, got 3: cat, dog, owl. Use cross_entropy"):
        build("binary", 3)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "binary"])
def test_weights_must_name_the_classes(name: str):
    with pytest.raises(UserError, match=r"got weights for cat, cow. The classes are cat, dog"):
        build(name, 2, class_weights={"cat": 1.0, "cow": 1.0})


def test_faulty_options_are_told():
    with pytest.raises(ConfigError, match=r"loss.gamma: must be a number of at least 0"):
        build("focal", gamma=-1)
    with pytest.raises(ConfigError, match=r"'loss.label_smoothing': 'binary' has none"):
        build("binary", 2, label_smoothing=0.1)


class Linear(nn.Module):
    """A layer that answers as a model does."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, classes)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=self.layer(pixel_values))


@pytest.mark.parametrize("weights", ["none", "auto"])
@pytest.mark.parametrize(("name", "classes"), [("cross_entropy", 3), ("focal", 3), ("binary", 2)])
def test_how_a_batch_is_cut_does_not_matter(name: str, classes: int, weights: str):
    """Unequal micro-batches, whose weights differ too, give the gradient of the whole batch."""
    loss = build(name, classes, class_weights=weights)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(20, 4, generator=generator)
    labels = (torch.arange(20) // 7) % classes

    def gradient(sizes: list[int]) -> tuple[Tensor, Tensor]:
        model = Linear(classes)
        step = TrainingStep(loss, Accelerator(cpu=True))
        parts = zip(images.split(sizes), labels.split(sizes), strict=True)
        batches = [{"pixel_values": image, "labels": label} for image, label in parts]
        step.begin(batches)
        for batch in batches:
            step.micro_batch_loss(model, batch).backward()
        total, weight, rows = step.end()
        assert rows == 20
        assert model.layer.weight.grad is not None
        return total / weight, model.layer.weight.grad

    value, whole = gradient([20])
    cut_value, cut = gradient([11, 6, 3])
    assert float(whole.abs().max()) > 1e-3
    torch.testing.assert_close(cut_value, value, rtol=1e-5, atol=0)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-7)
