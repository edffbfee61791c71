"""How sure a model is of each image: Monte Carlo dropout.

Place: `predict --mc-dropout` asks it for files; from Python it takes any batches of model inputs,
so a whole split too:

    loader = bench.make_loader("test")  # bench = hf_finetune.assembly.assemble(config)
    answers = sample_dropout(classifier.model, loader, num_samples=100, seed=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hf_finetune.engines.step import model_inputs
from hf_finetune.errors import ModelError

_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class DropoutSamples:
    """What a model said of N images over all samples of its dropout.

    Attributes:
        votes: int64 `[N, classes]`, samples that predict each class; a row sums to the samples.
        probabilities: float64 `[N, classes]`, mean over the samples.
        predictive_entropy: float64 `[N]` in nats, entropy of `probabilities`: how unsure the
            prediction is in all, 0 to the logarithm of the number of classes.
        mutual_information: float64 `[N]` in nats, 0 to `predictive_entropy`: the part of it by
            which the samples disagree. The rest is doubt that every sample shares.
    """

    votes: np.ndarray
    probabilities: np.ndarray
    predictive_entropy: np.ndarray
    mutual_information: np.ndarray


def sample_dropout(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    num_samples: int = 100,
    seed: int = 0,
) -> DropoutSamples:
    """Predicts every image many times with dropout switched on.

    Only modules of dropout are in training mode; batch normalisation and all else evaluate. The
    modes and torch's random state are afterwards as they were before. Equal batches and an equal
    seed give equal answers; an image's samples depend on what it is batched with.

    Args:
        model: Takes a batch by keywords and answers with `.logits` `[B, classes]`.
        batches: Model batches, on any device; `labels` and `index` are not given to the model.
        num_samples: Predictions of each image, at least 1.
        seed: Decides what is dropped.

    Raises:
        ModelError: The model has no dropout, or a probability of 0.
        ValueError: There are no batches, or fewer than 1 sample is asked for.

    Source:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation", 2016, section 4; both measures:
        Gal, "Uncertainty in Deep Learning", 2016, section 3.3.1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    dropouts = _find_dropouts(model)
    device = next(model.parameters()).device
    with _only_these_train(model, dropouts), _own_random_numbers(device, seed):
        parts = [
            _sample_batch(
                model,
                {name: value.to(device) for name, value in model_inputs(batch).items()},
                num_samples,
            )
            for batch in batches
        ]
    if not parts:
        raise ValueError("there are no batches to predict")
    return DropoutSamples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _find_dropouts(model: nn.Module) -> list[nn.Module]:
    """The modules of dropout that drop anything."""
    found = [m for m in model.modules() if isinstance(m, _DROPOUTS) and m.p > 0]
    if not found:
        raise ModelError(
            "model.dropout: this model has no dropout (or of probability 0), so all its samples "
            "would be equal. Train one with dropout, for example model.dropout=0.25."
        )
    return list(found)


@contextmanager
def _only_these_train(model: nn.Module, modules: list[nn.Module]) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode


@contextmanager
def _own_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    """Dropout draws from torch's global generator: seeds it here, and puts its state back."""
    is_cpu = device.type == "cpu"  # whose state is kept in any case
    with torch.random.fork_rng(
        devices=[] if is_cpu else [device.index or 0],
        device_type=None if is_cpu else device.type,
    ):
        torch.manual_seed(seed)
        yield


def _sample_batch(
    model: nn.Module, inputs: Mapping[str, Tensor], num_samples: int
) -> tuple[np.ndarray, ...]:
    """The four arrays of `DropoutSamples` for one batch; several samples go through at once."""
    size = len(next(iter(inputs.values())))
    at_once = max(1, _ROWS_AT_ONCE // size)
    copies = [min(at_once, num_samples - start) for start in range(0, num_samples, at_once)]
    parts = [_sum_samples(model, inputs, number) for number in copies]
    votes, probabilities, entropies = (
        torch.stack(part).sum(0) for part in zip(*parts, strict=True)
    )
    probabilities = probabilities / num_samples
    predictive = _entropy(probabilities)
    mutual = (predictive - entropies / num_samples).clamp(min=0)  # below 0 by rounding alone
    return tuple(column.numpy() for column in (votes, probabilities, predictive, mutual))


@torch.inference_mode()
def _sum_samples(
    model: nn.Module, inputs: Mapping[str, Tensor], copies: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over some samples: votes and probabilities `[B, classes]`, entropies `[B]`."""
    repeated = {
        name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in inputs.items()
    }
    logits = model(**repeated).logits.float().cpu().double()
    sampled = logits.softmax(-1).view(copies, -1, logits.shape[-1])
    votes = nn.functional.one_hot(sampled.argmax(-1), logits.shape[-1])
    return votes.sum(0), sampled.sum(0), _entropy(sampled).sum(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Of the last axis, in nats; 0 log 0 is 0."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy
