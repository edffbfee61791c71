"""Fills the folder that is pushed: weights, settings, processor, code, card, pictures, numbers.

Place: `push` and `interim` upload it. Only what is named here gets into it: no pickle, no optimiser
state, no picture of a training example, no local path.
"""

from __future__ import annotations

import copy
import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.config.yaml_text import write_yaml
from hf_finetune.hub import MAIN, TRAINING_CONFIG, HubError, HubOptions
from hf_finetune.hub.card import ModelFacts, write_card
from hf_finetune.hub.record import RunRecord
from hf_finetune.runs.run_dir import METRICS, format_json

if TYPE_CHECKING:
    from hf_finetune.models import Classifier

_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_HEADER = (
    "# The settings of the run, every default included. What only means something on the machine\n"
    "# that it ran on is left out, or says YOUR_PATH: give it to run this again.\n"
)


def fill_folder(
    folder: Path,
    record: RunRecord,
    classifier: Classifier,
    weights: Path,
    options: HubOptions,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Writes everything that is pushed into an empty folder.

    Args:
        folder: The folder.
        record: The run.
        classifier: The model and its processor; its weights are not read.
        weights: Folder of the weights (`model.safetensors`, or its parts).
        options: Where it will lie, and what the card says of licence and language.
        progress: The evaluation that the weights belong to, while the run goes on.

    Raises:
        HubError: There are no weights.
    """
    modality = _modality_of(classifier)
    for pattern in _WEIGHTS:
        for file in weights.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    if not any(folder.iterdir()):
        raise HubError(f"{weights}: there are no weights to push (model.safetensors).")
    code_files = _write_settings(folder, classifier, modality)
    model = classifier.model
    facts = ModelFacts(
        repo_id=str(options.repo_id),
        revision=options.revision or MAIN,
        architecture=type(model).__name__,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        label_names=tuple(name for _, name in sorted(model.config.id2label.items())),
        modality=modality,
        sampling_rate_hz=getattr(classifier.processor, "sampling_rate", None),
        code_files=code_files,
        license=options.license,
        languages=options.language,
    )
    (folder / "README.md").write_text(write_card(record, facts, progress), encoding="utf-8")
    text = _HEADER + write_yaml(record.settings)
    (folder / TRAINING_CONFIG).write_text(text, encoding="utf-8")
    if record.metrics is not None:
        text = format_json(record.metrics) + "\n"
        (folder / METRICS).write_text(text, encoding="utf-8")
    for picture in record.pictures:
        shutil.copyfile(picture, folder / picture.name)


def _modality_of(classifier: Classifier) -> Any:
    from hf_finetune.models.auto_classes import modality_of, register

    register()
    return modality_of(type(classifier.model.config)) or "image"


def _write_settings(folder: Path, classifier: Classifier, modality: str) -> tuple[str, ...]:
    """Writes config and processor, with the code that transformers hasn't got; the code's files."""
    model = classifier.model
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    classifier.processor.save_pretrained(folder)
    auto_model = f"AutoModelFor{modality.capitalize()}Classification"
    auto_processor = "AutoFeatureExtractor" if modality == "audio" else "AutoImageProcessor"
    code: dict[str, None] = {}
    for file, owners in (
        ("config.json", {"AutoConfig": type(config), auto_model: type(model)}),
        ("preprocessor_config.json", {auto_processor: type(classifier.processor)}),
    ):
        own = {auto: owner for auto, owner in owners.items() if is_own(owner)}
        if own:
            code |= dict.fromkeys(_copy_code(folder, list(own.values())))
        places = {auto: f"{_module(owner)}.{owner.__name__}" for auto, owner in own.items()}
        _edit_settings(folder / file, places)
    return tuple(code)


def is_own(owner: type) -> bool:
    """Whether a class is this package's, so that its code must go with the weights."""
    return owner.__module__.startswith("hf_finetune.")


def _module(owner: type) -> str:
    return owner.__module__.rpartition(".")[2]


def _copy_code(folder: Path, owners: list[type]) -> list[str]:
    """Copies the files of classes, and what these import beside them."""
    from transformers.dynamic_module_utils import get_relative_import_files

    copied = []
    for source in dict.fromkeys(inspect.getfile(owner) for owner in owners):
        for file in map(Path, (source, *get_relative_import_files(source))):
            shutil.copyfile(file, folder / file.name)
            copied.append(file.name)
    return copied


def _edit_settings(path: Path, places: Mapping[str, str]) -> None:
    """Names the code in a file of settings, and takes out where the settings were read from."""
    if not path.is_file():  # processor_config.json, of processors in several parts
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key in ("_name_or_path", "name_or_path", "auto_map"):
        settings.pop(key, None)
    if places:
        settings["auto_map"] = dict(places)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
