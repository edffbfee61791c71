"""Mixed examples under the step contract: every loss is that of the mixed label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import ImageClassifierOutput

from hf_finetune.config import config_from
from hf_finetune.engines.step import TrainingStep, model_inputs, of_labels
from hf_finetune.registry import kind_of

COUNTS = (30, 60, 10)
WEIGHTS = torch.tensor([0.5, 2.0, 3.0])
PLUGIN = "examples/robust.py"
SOME_LOSSES = [
    ("cross_entropy", {}),
    ("cross_entropy", {"class_weights": "auto", "label_smoothing": 0.1}),
    ("focal", {"class_weights": "auto"}),
    ("binary", {"class_weights": "auto"}),
    ("robust", {}),
]


def build(name: str, **settings: Any) -> Any:
    tree = {"data": {"name": "mnist"}, "model": {"name": "cnn"}, "plugins": [PLUGIN]}
    options = config_from({**tree, "loss": {"name": name, **settings}}).loss
    classes = 2 if name == "binary" else 3
    return kind_of(options).build(options, ("cat", "dog", "owl")[:classes], COUNTS[:classes])


def draw(classes: int, rows: int = 23) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    batch = {
        "pixel_values": torch.randn(rows, 4, generator=generator),
        "labels": torch.arange(rows) // 3 % classes,
        "mixed_labels": torch.arange(rows) % classes,
        "mix_ratio": torch.rand(rows, generator=generator),
    }
    batch["mix_ratio"][:3] = torch.tensor([0.0, 0.5, 1.0])
    return logits.requires_grad_(), batch


def soft_labels(batch: dict[str, Tensor], classes: int) -> Tensor:
    ratio = batch["mix_ratio"][:, None]
    first, second = (
        functional.one_hot(batch[name], classes) for name in ("labels", "mixed_labels")
    )
    return ratio * first + (1 - ratio) * second


def step_loss(loss: Any, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a step of one batch, whose model answers with these logits."""

    class Fixed(nn.Module):
        def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
            return ImageClassifierOutput(logits=logits)

    step = TrainingStep(loss, Accelerator(cpu=True))
    step.begin([batch])
    return step.micro_batch_loss(Fixed(), batch)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs_on_soft_labels(smoothing: float):
    logits, batch = draw(3)
    value = step_loss(build("cross_entropy", label_smoothing=smoothing), logits, batch)
    target = soft_labels(batch, 3)
    reference = functional.cross_entropy(logits, target, label_smoothing=smoothing)
    assert float((value - reference).detach().abs()) < 1e-6
    found, expected = (torch.autograd.grad(x, logits)[0] for x in (value, reference))
    assert float(expected.abs().max()) > 1e-3
    assert float((found - expected).abs().max()) < 1e-6


def test_a_weighted_cross_entropy_divides_by_the_mixed_weights():
    logits, batch = draw(3)
    weights = dict(zip(("cat", "dog", "owl"), WEIGHTS.tolist(), strict=True))
    value = step_loss(build("cross_entropy", class_weights=weights), logits, batch)
    target = soft_labels(batch, 3)
    total = functional.cross_entropy(logits, target, weight=WEIGHTS, reduction="sum")
    assert float((value - total / (target * WEIGHTS).sum()).detach().abs()) < 1e-6


def test_binary_is_torchs_on_soft_labels():
    logits, batch = draw(2)
    value = step_loss(build("binary"), logits, batch)
    reference = functional.binary_cross_entropy_with_logits(
        logits[:, 1] - logits[:, 0], soft_labels(batch, 2)[:, 1]
    )
    assert float((value - reference).detach().abs()) < 1e-6


@pytest.mark.parametrize(("name", "settings"), SOME_LOSSES)
def test_every_loss_is_the_mean_of_both_labels(name: str, settings: dict[str, Any]):
    loss = build(name, **settings)
    logits, batch = draw(2 if name == "binary" else 3)
    ratio = batch["mix_ratio"]
    expected = ratio * loss(logits, batch["labels"])
    expected = expected + (1 - ratio) * loss(logits, batch["mixed_labels"])
    mixed = of_labels(lambda labels: loss(logits, labels), batch)
    torch.testing.assert_close(mixed, expected)
    plain = {name: batch[name] for name in ("pixel_values", "labels")}
    whole = {**batch, "mix_ratio": torch.ones(len(ratio))}
    assert torch.equal(step_loss(loss, logits, whole), step_loss(loss, logits, plain))


def test_the_model_never_hears_of_it():
    assert set(model_inputs(draw(3)[1])) == {"pixel_values"}


@pytest.mark.parametrize(("name", "settings"), SOME_LOSSES)
def test_how_a_mixed_batch_is_cut_does_not_matter(name: str, settings: dict[str, Any]):
    loss, classes = build(name, **settings), 2 if name == "binary" else 3
    _, batch = draw(classes, rows=20)

    def gradient(sizes: list[int]) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        layer = nn.Linear(4, classes)
        step = TrainingStep(loss, Accelerator(cpu=True))
        columns = {name: value.split(sizes) for name, value in batch.items()}
        parts = [{name: column[i] for name, column in columns.items()} for i in range(len(sizes))]
        step.begin(parts)
        for part in parts:
            step.micro_batch_loss(lambda pixel_values: answer(layer(pixel_values)), part).backward()
        total, weight, rows = step.end()
        assert rows == 20
        assert layer.weight.grad is not None
        return total / weight, layer.weight.grad

    def answer(logits: Tensor) -> ImageClassifierOutput:
        return ImageClassifierOutput(logits=logits)

    value, whole = gradient([20])
    cut_value, cut = gradient([11, 6, 3])
    assert float(whole.abs().max()) > 1e-3
    torch.testing.assert_close(cut_value, value, rtol=1e-5, atol=0)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-7)
