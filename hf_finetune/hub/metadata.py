"""The metadata at the top of a model card: what the Hub sorts, filters and compares models by.

Place: `card` puts it above its text; the classes are those of the Hub's own client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.hub import is_repo_id
from hf_finetune.hub.record import RunRecord

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_METRICS = {"accuracy": "Accuracy", "macro_f1": "Macro F1", "weighted_f1": "Weighted F1"}


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set beside what a run says of it.

    Attributes:
        title: Its name, for people.
        repo_id: The data set on the Hub, where it is there.
        languages: ISO 639 codes of what is spoken in it.
    """

    title: str
    repo_id: str | None = None
    languages: tuple[str, ...] = ()


_KNOWN = {
    "mnist": DataFacts("MNIST", "ylecun/mnist"),
    "fashion_mnist": DataFacts("Fashion-MNIST", "zalando-datasets/fashion_mnist"),
    "cifar10": DataFacts("CIFAR-10", "uoft-cs/cifar10"),
    "corrupt_mnist": DataFacts("corrupted MNIST (DTU MLOps)"),
    "thorsten_emotional": DataFacts(
        "Thorsten-Voice emotional (OpenSLR 110)", None, languages=("de",)
    ),
    "image_folder": DataFacts("a folder of images"),
    "audio_folder": DataFacts("a folder of sound files"),
}


def find_data_facts(settings: dict[str, Any]) -> DataFacts:
    """What is known of the data set that a configuration names."""
    data = settings.get("data", {})
    name, repo_id = str(data.get("name")), data.get("repo_id")
    if name == "hub" and isinstance(repo_id, str) and is_repo_id(repo_id):
        return DataFacts(repo_id, repo_id)
    return _KNOWN.get(name, DataFacts("a data set of the Hub's form" if name == "hub" else name))


def write_metadata(
    record: RunRecord,
    repo_id: str,
    modality: Literal["image", "audio"],
    model_license: str | None,
    languages: tuple[str, ...],
) -> str:
    """The metadata as YAML, without the lines around it.

    Args:
        record: The run.
        repo_id: Where the model will lie.
        modality: What the model takes.
        model_license: Of the weights; None leaves it open.
        languages: Spoken languages; empty: those that are known of the data set.
    """
    from huggingface_hub import ModelCardData

    data = find_data_facts(record.settings)
    task = f"{modality}-classification"
    results = list_results(record, task, data)
    card = ModelCardData(
        base_model=record.base_model,
        datasets=[data.repo_id] if data.repo_id else None,
        language=list(languages or data.languages) or None,
        library_name="transformers",
        license=model_license,
        metrics=["accuracy", "f1"],
        model_name=repo_id.partition("/")[2] if results else None,
        pipeline_tag=task,
        tags=["hf_finetune"],
        eval_results=results or None,
    )
    return card.to_yaml()


def list_results(record: RunRecord, task: str, data: DataFacts) -> list[EvalResult]:
    """The scores as the Hub's model index has them.

    A split that chose the weights is never called test: where test shares examples with validation,
    only the validation scores are listed.
    """
    from huggingface_hub import EvalResult

    if record.metrics is None:
        return []
    splits = ["validation"] if record.shared_examples else ["test", "validation"]
    return [
        EvalResult(
            task_type=task,
            dataset_type=data.repo_id or str(record.settings["data"]["name"]),
            dataset_name=data.title,
            dataset_split=split,
            metric_type="accuracy" if metric == "accuracy" else "f1",
            metric_name=f"{title} ({split})",
            metric_value=round(record.metrics[split][metric], 4),
        )
        for split in splits
        for metric, title in _METRICS.items()
        if metric in record.metrics[split]
    ]
