"""Monte Carlo dropout, on networks small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_finetune.errors import ModelError
from hf_finetune.evaluation.uncertainty import sample_dropout


class Coin(nn.Module):
    """Says class 0 where its one feature is kept, and class 1 where it is dropped."""

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.dropout = nn.Dropout(probability)
        self.scale = nn.Parameter(torch.ones(()))
        self.batch_sizes: list[int] = []

    def forward(self, pixel_values: Tensor) -> Any:
        self.batch_sizes.append(len(pixel_values))
        kept = self.dropout(self.scale * pixel_values[:, :1])  # doubled where it is kept
        return SimpleNamespace(logits=torch.cat([kept, torch.ones_like(kept)], 1))


def images(count: int, value: float = 1.0) -> dict[str, Tensor]:
    return {"pixel_values": torch.full((count, 1), value)}


def entropy(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(-(probabilities * np.log(probabilities)).sum(-1))


def test_all_numbers_follow_from_the_votes():
    found = sample_dropout(Coin(), [images(20)], num_samples=101, seed=3)
    votes = found.votes
    assert votes.shape == (20, 2)
    assert (votes.sum(1) == 101).all()
    assert 0.4 < votes[:, 0].mean() / 101 < 0.6
    assert len(set(votes[:, 0].tolist())) > 1  # each image has drops of its own
    kept, dropped = (np.exp([level, 1]) / np.exp([level, 1]).sum() for level in (2, 0))
    share = votes[:, :1] / 101
    mean = share * kept + (1 - share) * dropped
    assert found.probabilities == pytest.approx(mean)
    assert found.predictive_entropy == pytest.approx(entropy(mean))
    within = share[:, 0] * entropy(kept) + (1 - share[:, 0]) * entropy(dropped)
    assert found.mutual_information == pytest.approx(entropy(mean) - within, abs=1e-9)
    assert found.mutual_information.min() > 0


def test_certain_samples_share_no_information():
    found = sample_dropout(Coin(), [images(3, value=0.0)], num_samples=10)
    assert (found.votes == [[0, 10]]).all()
    assert found.mutual_information == pytest.approx(0, abs=1e-12)
    assert found.predictive_entropy == pytest.approx(entropy(found.probabilities))


def test_a_probability_of_zero_has_no_entropy():
    model = Coin()
    found = sample_dropout(model, [images(1, value=-1e30)], num_samples=4)
    assert np.isfinite(found.predictive_entropy).all()


def test_the_seed_decides():
    def votes(seed: int) -> list[list[int]]:
        answer: list[list[int]] = sample_dropout(Coin(), [images(6)], seed=seed).votes.tolist()
        return answer

    assert votes(0) == votes(0)
    assert votes(0) != votes(1)


def test_the_random_state_is_left_alone():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    sample_dropout(Coin(), [images(6)], seed=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_go_through_together():
    model = Coin()
    sample_dropout(model, [images(1)], num_samples=100)
    assert model.batch_sizes == [100]
    model.batch_sizes.clear()
    found = sample_dropout(model, [images(50), images(7)], num_samples=5)
    assert model.batch_sizes == [100, 100, 50, 35]
    assert found.votes.shape == (57, 2)
    assert (found.votes.sum(1) == 5).all()


class Mixed(nn.Module):
    """Batch normalisation before the dropout, and nothing that the dropout changes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, pixel_values: Tensor) -> Any:
        return SimpleNamespace(logits=self.norm(pixel_values) + 0 * self.dropout(pixel_values))


def test_only_dropout_trains_and_rows_keep_their_order():
    model = Mixed()
    model.train()
    model.dropout.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    batches = [{"pixel_values": rows[:4], "labels": torch.zeros(4)}, {"pixel_values": rows[4:]}]
    found = sample_dropout(model, batches, num_samples=9)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert (model.training, model.norm.training, model.dropout.training) == (True, True, False)
    # As evaluation gives them, from the running statistics of a fresh norm: 0 and 1.
    expected = (rows / (1 + model.norm.eps) ** 0.5).softmax(-1)
    assert found.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert (found.votes.argmax(1) == rows.argmax(1).numpy()).all()


def test_modes_come_back_after_an_error():
    model = Mixed()
    model.train()
    with pytest.raises(RuntimeError):
        sample_dropout(model, [{"pixel_values": torch.zeros(2, 5)}])
    assert model.training
    assert model.norm.training


@pytest.mark.parametrize("model", [nn.Linear(2, 2), Coin(0.0)])
def test_a_model_without_dropout_is_refused(model: nn.Module):
    with pytest.raises(ModelError, match=r"model\.dropout: .*Train one with dropout"):
        sample_dropout(model, [images(1)])


def test_nothing_to_predict_is_refused():
    with pytest.raises(ValueError, match="no batches"):
        sample_dropout(Coin(), [])
    with pytest.raises(ValueError, match="at least 1"):
        sample_dropout(Coin(), [images(1)], num_samples=0)


def test_a_whole_split_from_python(make_config: Callable[..., Any]):
    from hf_finetune.assembly import assemble

    bench = assemble(make_config(model__dropout=0.5))
    found = sample_dropout(bench.classifier.model, bench.make_loader("test"), num_samples=20)
    assert found.votes.shape == found.probabilities.shape == (40, 10)
    assert found.probabilities.sum(1) == pytest.approx(1)
    assert (found.mutual_information >= 0).all()
    assert (found.predictive_entropy <= np.log(10) + 1e-9).all()
    assert (found.mutual_information <= found.predictive_entropy).all()


def test_rows_come_in_the_order_of_the_split():
    """Batches by length say which rows they hold; windows of one example count by their mean."""
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    batches = [
        {"pixel_values": values[[3, 1]], "index": torch.tensor([3, 1])},
        {
            "pixel_values": torch.tensor([[2.0], [1.5], [2.5], [0.0]]),
            "index": torch.tensor([2, 0]),
            "example": torch.tensor([0, 0, 0, 1]),
        },
    ]
    found = sample_dropout(Coin(1e-9), batches, num_samples=3)
    expected = torch.cat([values, torch.ones(4, 1)], 1).softmax(-1)
    assert found.probabilities == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.votes[2:, 0].tolist() == [3, 3]
