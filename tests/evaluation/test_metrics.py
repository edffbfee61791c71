"""The numbers of a split, against scikit-learn's and torch's own and against numbers by hand."""

from __future__ import annotations

import cProfile
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch

from hf_finetune.errors import TrainingError
from hf_finetune.evaluation import GREATER_IS_BETTER, Predictions
from hf_finetune.evaluation.metrics import score
from hf_finetune.losses.cross_entropy import CrossEntropy

PLAIN = CrossEntropy(None, 0.0)


def predictions_of(labels: Sequence[int] | np.ndarray, logits: np.ndarray) -> Predictions:
    ids = [f"file/{row}" for row in range(len(labels))]
    return Predictions("validation", ids, np.asarray(labels), logits.astype(np.float32), {})


def one_hot(predicted: Sequence[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[list(predicted)]


def names_of(num_classes: int) -> tuple[str, ...]:
    return tuple(f"class {label}" for label in range(num_classes))


def random_predictions(num_examples: int, num_classes: int, seed: int) -> Predictions:
    draw = np.random.default_rng(seed)
    labels = draw.integers(num_classes, size=num_examples)
    logits = draw.normal(size=(num_examples, num_classes))
    logits[np.arange(num_examples), labels] += 1.0
    return predictions_of(labels, logits)


def test_three_classes_by_hand() -> None:
    #        truth a a a a b b c   predicted a a b c b b a
    result = score(
        predictions_of([0, 0, 0, 0, 1, 1, 2], one_hot([0, 0, 1, 2, 1, 1, 0], 3)), "abc", PLAIN
    )
    assert result["confusion_matrix"] == [[2, 1, 1], [0, 2, 0], [1, 0, 0]]
    assert result["accuracy"] == pytest.approx(4 / 7)
    assert result["per_class"]["a"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1 / 2, "f1": 4 / 7, "support": 4}
    )
    assert result["per_class"]["b"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "support": 2}
    )
    assert result["per_class"]["c"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert result["macro_f1"] == pytest.approx((4 / 7 + 4 / 5) / 3)
    assert result["weighted_f1"] == pytest.approx((4 * 4 / 7 + 2 * 4 / 5) / 7)
    assert result["macro_recall"] == pytest.approx(1 / 2)
    assert result["weighted_recall"] == pytest.approx(4 / 7)
    assert result["macro_precision"] == pytest.approx(4 / 9)
    assert result["weighted_precision"] == pytest.approx(4 / 7)
    low, high = result["accuracy_interval"]
    assert low < 4 / 7 < high
    assert result["num_examples"] == 7
    assert result["warnings"] == []


@pytest.mark.parametrize(
    ("num_examples", "num_classes"), [(1, 2), (300, 2), (500, 10), (40, 30), (12, 1)]
)
def test_equals_sklearn(num_examples: int, num_classes: int) -> None:
    given = random_predictions(num_examples, num_classes, seed=num_examples)
    result = score(given, names_of(num_classes), PLAIN)
    truth, predicted = given.labels, given.logits.argmax(1)
    labels = list(range(num_classes))
    assert result["accuracy"] == sklearn.metrics.accuracy_score(truth, predicted)
    if num_classes > 1:  # scikit-learn warns about a single class
        matrix = sklearn.metrics.confusion_matrix(truth, predicted, labels=labels)
        assert result["confusion_matrix"] == matrix.tolist()
    for name in ("precision", "recall", "f1"):
        measure = getattr(sklearn.metrics, f"{name}_score")
        for mean in ("macro", "weighted"):
            expected = measure(truth, predicted, labels=labels, average=mean, zero_division=0)
            assert result[f"{mean}_{name}"] == expected
        by_class = measure(truth, predicted, labels=labels, average=None, zero_division=0)
        assert [row[name] for row in result["per_class"].values()] == by_class.tolist()


def test_one_class_all_right_is_perfect() -> None:
    result = score(predictions_of([0] * 5, np.zeros((5, 1))), ["only"], PLAIN)
    assert result["accuracy"] == result["macro_f1"] == result["weighted_f1"] == 1
    assert result["confusion_matrix"] == [[5]]
    assert result["loss"] == 0


def test_an_absent_class_counts_as_0_and_is_named() -> None:
    given = predictions_of([0, 1, 1], one_hot([0, 1, 1], 4))
    result = score(given, ("cat", "dog", "axolotl", "newt"), PLAIN)
    assert result["macro_f1"] == 0.5
    assert result["weighted_f1"] == 1
    assert result["per_class"]["newt"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    (warning,) = result["warnings"]
    assert "validation: no example of axolotl, newt." in warning


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_torchs_weighted_mean(weights: list[float] | None, smoothing: float) -> None:
    given = random_predictions(200, 3, seed=7)
    weight = None if weights is None else torch.tensor(weights)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(given.logits),
        torch.tensor(given.labels),
        weight=weight,
        label_smoothing=smoothing,
    )
    result = score(given, names_of(3), CrossEntropy(weight, smoothing))
    assert result["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_result_is_plain_python_with_every_metric_that_may_choose() -> None:
    result = score(random_predictions(50, 3, seed=1), names_of(3), PLAIN)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert all(type(result[name]) is float for name in GREATER_IS_BETTER)
    assert all(type(row["support"]) is int for row in result["per_class"].values())


def test_leaves_arrays_and_generators_alone() -> None:
    given = random_predictions(50, 3, seed=1)
    given.logits.flags.writeable = given.labels.flags.writeable = False
    before, torch_before = np.random.get_state(), torch.get_rng_state()
    first = score(given, names_of(3), PLAIN)
    after = np.random.get_state()
    assert before[2] == after[2]
    assert np.array_equal(before[1], after[1])
    assert torch.equal(torch_before, torch.get_rng_state())
    assert score(given, names_of(3), PLAIN) == first


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_names_the_example(bad: float) -> None:
    given = random_predictions(20, 3, seed=2)
    given.logits[13, 1] = given.logits[17, 0] = bad
    with pytest.raises(TrainingError, match=r"validation: .*'file/13'.* \(2 of 20 examples"):
        score(given, names_of(3), PLAIN)


def test_refuses_what_does_not_fit_the_classes() -> None:
    with pytest.raises(TrainingError, match=r"shape \[20, 3\], not \[20, 4\]"):
        score(random_predictions(20, 3, seed=2), names_of(4), PLAIN)
    with pytest.raises(TrainingError, match="'file/1' has label -1"):
        score(predictions_of([0, -1], np.zeros((2, 2))), names_of(2), PLAIN)
    with pytest.raises(TrainingError, match=r"has label 2\. Labels go from 0 to 1"):
        score(predictions_of([0, 2], np.zeros((2, 2))), names_of(2), PLAIN)
    with pytest.raises(TrainingError, match="no examples"):
        score(predictions_of([], np.zeros((0, 2))), names_of(2), PLAIN)


def test_weights_that_add_up_to_0_are_no_loss() -> None:
    loss = CrossEntropy(torch.tensor([0.0, 1.0]), 0.0)
    with pytest.raises(TrainingError, match=r"the loss is nan.*loss\.class_weights"):
        score(predictions_of([0, 0], np.zeros((2, 2))), names_of(2), loss)


def test_no_example_is_visited_one_by_one() -> None:
    """10,000 examples take 17 ms alone, every epoch; with stock encoding of the labels 55 ms.

    Calls are counted, because a clock would fail on a loaded machine.
    """
    calls = []
    for num_examples in (1_000, 1_000, 10_000):  # the first also warms up
        given = random_predictions(num_examples, 10, seed=3)
        profile = cProfile.Profile()
        profile.runcall(score, given, names_of(10), PLAIN)
        calls.append(sum(entry.callcount for entry in profile.getstats()))
    assert calls[2] - calls[1] < 900


def test_needs_no_network_and_no_home(tmp_path: Path) -> None:
    """Scores in a process of its own whose connections fail and whose home is not writable."""
    script = """
import socket

def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("the network was touched")

socket.socket.connect = socket.getaddrinfo = refuse
import hf_finetune, numpy, torch
from hf_finetune.evaluation import Predictions
from hf_finetune.evaluation.metrics import score
from hf_finetune.losses.cross_entropy import CrossEntropy
given = Predictions("test", ["a"], numpy.array([1]), numpy.eye(2, dtype="float32")[[1]], {})
print(score(given, "xy", CrossEntropy(None, 0.0))["accuracy"])
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HOME": str(home), "HF_HOME": str(home / "hf")}
    environment.pop("XDG_CACHE_HOME", None)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.stdout == "1.0\n", result.stderr
    assert list(home.iterdir()) == []
