"""How sure a model is of each image or clip: Monte Carlo dropout.

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
from hf_finetune.evaluation.prediction import average_windows

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
    """What a model said of N examples over all samples of its dropout.

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
    """Predicts every example many times with dropout switched on.

    Only modules of dropout are in training mode; batch normalisation and all else evaluate. The
    modes and torch's random state are afterwards as they were before. Equal batches and an equal
    seed give equal answers; an example's samples depend on what it is batched with. Rows come in
    the order of the batches, or where these say it (`index`) in the split's: batches of clips go by
    length.

    Args:
        model: Takes a batch by keywords and answers with `.logits` `[B, classes]`.
        batches: Model batches, on any device; `labels`, `index` and the like are not given to the
            model.
        num_samples: Predictions of each example, at least 1.
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
    parts, places = [], []
    with _only_these_train(model, dropouts), _own_random_numbers(device, seed):
        for batch in batches:
            parts.append(_sample_batch(model, batch, num_samples, device))
            if "index" in batch:
                places.append(batch["index"].cpu().numpy())
    if not parts:
        raise ValueError("there are no batches to predict")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    if places:
        order = np.argsort(np.concatenate(places), kind="stable")
        columns = [column[order] for column in columns]
    return DropoutSamples(*columns)


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
    model: nn.Module, batch: Mapping[str, Tensor], num_samples: int, device: torch.device
) -> tuple[np.ndarray, ...]:
    """The four arrays of `DropoutSamples` for one batch; several samples go through at once."""
    inputs = {name: value.to(device) for name, value in model_inputs(batch).items()}
    size = len(next(iter(inputs.values())))
    at_once = max(1, _ROWS_AT_ONCE // size)
    copies = [min(at_once, num_samples - start) for start in range(0, num_samples, at_once)]
    parts = [_sum_samples(model, inputs, number, batch.get("example")) for number in copies]
    votes, probabilities, entropies = (
        torch.stack(part).sum(0) for part in zip(*parts, strict=True)
    )
    probabilities = probabilities / num_samples
    predictive = _entropy(probabilities)
    mutual = (predictive - entropies / num_samples).clamp(min=0)  # below 0 by rounding alone
    return tuple(column.numpy() for column in (votes, probabilities, predictive, mutual))


@torch.inference_mode()
def _sum_samples(
    model: nn.Module, inputs: Mapping[str, Tensor], copies: int, example: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over some samples: votes and probabilities `[B, classes]`, entropies `[B]`.

    Windows of one example (`example`: that of each row) count as one, by their mean logits.
    """
    repeated = {
        name: value.repeat(copies, *[1] * (value.ndim - 1)) for name, value in inputs.items()
    }
    logits = model(**repeated).logits.float().cpu().double()
    if example is not None:
        count = int(example.max()) + 1
        windows = logits.view(copies, -1, logits.shape[-1])
        logits = torch.cat([average_windows(one, example.cpu(), count) for one in windows])
    sampled = logits.softmax(-1).view(copies, -1, logits.shape[-1])
    votes = nn.functional.one_hot(sampled.argmax(-1), logits.shape[-1])
    return votes.sum(0), sampled.sum(0), _entropy(sampled).sum(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Of the last axis, in nats; 0 log 0 is 0."""
    entropy: Tensor = torch.special.entr(probabilities).sum(-1)
    return entropy
