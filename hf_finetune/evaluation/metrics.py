"""The numbers of a split: loss, accuracy, precision, recall, F1 and the confusion matrix.

Place: both engines call `score` after each evaluation, and the test split passes through it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import evaluate
import numpy as np
import sklearn.metrics
from datasets import Features, Value

from hf_finetune.errors import TrainingError
from hf_finetune.evaluation.intervals import wilson_interval

if TYPE_CHECKING:
    from hf_finetune.evaluation import Metric, Predictions
    from hf_finetune.losses import Loss


class LabelIds(Features):  # type: ignore[misc]  # datasets is not typed here
    """Two columns of label ids, which need no encoding."""

    def encode_batch(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the batch as it is: the inherited way visits 10,000 ids one by one, in 40 ms."""
        return batch


class LabelMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """A metric of predicted against true label ids, both int64 `[N]`.

    A subclass writes `_compute(predictions, references, labels)`, where `labels` lists the ids of
    all classes. It gets lists, and turns them into arrays once, where scikit-learn would often.
    """

    def _info(self) -> Any:
        features = LabelIds({"predictions": Value("int64"), "references": Value("int64")})
        return evaluate.MetricInfo(description=str(self.__doc__), citation="", features=features)


class Accuracy(LabelMetric):
    """Share of the examples whose predicted label is the true one."""

    def _compute(
        self, predictions: list[int], references: list[int], labels: range
    ) -> dict[str, float]:
        truth, predicted = np.asarray(references), np.asarray(predictions)
        return {"accuracy": float(sklearn.metrics.accuracy_score(truth, predicted))}


class PrecisionRecallF1(LabelMetric):
    """Precision, recall and F1: of each class, their plain mean, and their mean by support."""

    def _compute(
        self, predictions: list[int], references: list[int], labels: range
    ) -> dict[str, Any]:
        *scores, support = sklearn.metrics.precision_recall_fscore_support(
            np.asarray(references),
            np.asarray(predictions),
            labels=labels,
            average=None,
            zero_division=0,
        )
        result: dict[str, Any] = {}
        for name, values in zip(("precision", "recall", "f1"), scores, strict=True):
            result[f"macro_{name}"] = float(np.average(values))
            result[f"weighted_{name}"] = float(np.average(values, weights=support))
            result[f"class_{name}"] = values.tolist()
        return {**result, "class_support": support.tolist()}


class ConfusionMatrix(LabelMetric):
    """Counts of each true label (row) that were given each predicted label (column)."""

    def _compute(
        self, predictions: list[int], references: list[int], labels: range
    ) -> dict[str, list[list[int]]]:
        truth, predicted = np.asarray(references), np.asarray(predictions)
        # scikit-learn's own warns about a single class, even if it is told that there is no other.
        counts = np.bincount(truth * len(labels) + predicted, minlength=len(labels) ** 2)
        return {"confusion_matrix": counts.reshape(len(labels), len(labels)).tolist()}


def score(
    predictions: Predictions,
    label_names: Sequence[str],
    loss: Loss,
    own_metrics: Mapping[str, Metric] | None = None,
) -> dict[str, Any]:
    """Computes every number of a split.

    Macro means are taken over all classes of `label_names`. A class without an example in the
    split counts as 0 in them (scikit-learn's `zero_division=0`) and is named in `warnings`.

    Args:
        predictions: What the model said about each row.
        label_names: Class names in the order of the label ids.
        loss: The run's own loss; its weighted mean over the split is reported.
        own_metrics: The user's own, by name; reported beside the others.

    Returns:
        Plain Python, ready for JSON:
            loss: Weighted mean over the examples.
            accuracy, and precision, recall, f1 as `macro_…` and `weighted_…` (by support): 0…1.
            accuracy_interval: `[low, high]`, Wilson, 95 %.
            num_examples: Rows scored.
            per_class: By label: precision, recall, f1 (0…1) and support (rows).
            confusion_matrix: int `[classes][classes]`, rows are the truth.
            warnings: What to know before trusting the numbers (may be empty).

    Raises:
        TrainingError: The split is empty, a logit is not a finite number, a label or the number of
            logits does not fit `label_names`, or the loss or a metric of the user's comes out as no
            number.
    """
    _check(predictions, len(label_names))
    mean_loss = _mean_loss(predictions, loss)
    predicted = predictions.logits.argmax(axis=1)
    values = _combined_metrics().compute(
        predictions=predicted, references=predictions.labels, labels=range(len(label_names))
    )
    names = ("precision", "recall", "f1", "support")
    rows = zip(*(values.pop(f"class_{name}") for name in names), strict=True)
    correct = int((predicted == predictions.labels).sum())
    return {
        "loss": mean_loss,
        "accuracy": values.pop("accuracy"),
        "accuracy_interval": list(wilson_interval(correct, len(predicted))),
        "num_examples": len(predicted),
        **values,
        **_own_scores(predictions, own_metrics or {}),
        "per_class": {
            label: dict(zip(names, row, strict=True))
            for label, row in zip(label_names, rows, strict=True)
        },
        "warnings": _warnings(predictions, label_names),
    }


def _own_scores(predictions: Predictions, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The user's own metrics; each gets arrays of its own, which it may change."""
    scores = {}
    for name, metric in metrics.items():
        value = metric.compute(predictions.logits.copy(), predictions.labels.copy())
        try:
            scores[name] = float(value)
        except (TypeError, ValueError):
            scores[name] = float("nan")
        if not np.isfinite(scores[name]):
            raise TrainingError(
                f"{predictions.split}: the metric {name} answered {value!r}. Its compute must "
                "return a finite number. Mend the plugin."
            )
    return scores


def _combined_metrics() -> Any:
    """Builds the metrics afresh: one that was interrupted would keep the rows it was given.

    Each metric makes a cache folder when it is built, by default under the home folder, and never
    uses it when kept in memory; hence the temporary one, gone at once.
    """
    kinds = (Accuracy, PrecisionRecallF1, ConfusionMatrix)
    with TemporaryDirectory() as folder:
        return evaluate.combine([kind(keep_in_memory=True, cache_dir=folder) for kind in kinds])


def _check(predictions: Predictions, num_classes: int) -> None:
    split, labels, logits = predictions.split, predictions.labels, predictions.logits
    if len(labels) == 0:
        raise TrainingError(f"{split}: it has no examples to score. Give the split some rows.")
    if logits.shape != (len(labels), num_classes):
        raise TrainingError(
            f"{split}: logits have shape {list(logits.shape)}, not {[len(labels), num_classes]} "
            "(examples, classes). Load the model that was trained on these classes."
        )
    bad_labels = (labels < 0) | (labels >= num_classes)
    if bad_labels.any():
        row = int(bad_labels.argmax())
        raise TrainingError(
            f"{split}: example {predictions.ids[row]!r} has label {labels[row]}. "
            f"Labels go from 0 to {num_classes - 1}. Mend or leave out that row."
        )
    bad_logits = ~np.isfinite(logits).all(axis=1)
    if bad_logits.any():
        row = int(bad_logits.argmax())
        value = next(logit for logit in logits[row].tolist() if not np.isfinite(logit))
        raise TrainingError(
            f"{split}: a logit of example {predictions.ids[row]!r} is {value} "
            f"({int(bad_logits.sum())} of {len(labels)} examples have such). It must be "
            "finite. Lower train.learning_rate, or set compute.precision to fp32."
        )


def _mean_loss(predictions: Predictions, loss: Loss) -> float:
    """Returns the weighted mean; sums run in float64, so that a long split loses no digits."""
    import torch

    with torch.inference_mode():
        logits, labels = torch.tensor(predictions.logits), torch.tensor(predictions.labels)
        total = loss(logits, labels).double().sum()
        mean = float(total / loss.weights(labels).double().sum())
    if not np.isfinite(mean):
        raise TrainingError(
            f"{predictions.split}: the loss is {mean}. The weights of the examples must not add up "
            "to 0. Look at loss.class_weights."
        )
    return mean


def _warnings(predictions: Predictions, label_names: Sequence[str]) -> list[str]:
    support = np.bincount(predictions.labels, minlength=len(label_names))
    absent = [label for label, count in zip(label_names, support, strict=True) if count == 0]
    if not absent:
        return []
    return [
        f"{predictions.split}: no example of {', '.join(absent)}. These classes count as 0 in the "
        "macro means, which are therefore too low; look at the weighted ones."
    ]
