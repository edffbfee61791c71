"""Loads the processor that belongs to a checkpoint, and tries it out together with the network.

A step of `pretrained.build_pretrained`.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hf_finetune.errors import ModelError
from hf_finetune.models.checkpoint_files import PROCESSOR_FILES, quiet_transformers
from hf_finetune.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from hf_finetune.models.network_settings import NetworkSettings
    from hf_finetune.models.pretrained import PretrainedOptions


_EXAMPLES = {"audio": "sound is", "image": "images are"}
_MARKS = {"audio": "sampling_rate", "image": "image_mean"}  # settings that the other has never


def load_processor(options: PretrainedOptions, settings: NetworkSettings, modality: str) -> Any:
    """The checkpoint's image processor or feature extractor, with the options' changes.

    Raises:
        ModelError: The checkpoint brings none and the options don't ask for its kind's own, or
            a setting is unknown.
    """
    changes = options.processor
    folder = settings.folder
    if folder is not None and any((folder / name).is_file() for name in PROCESSOR_FILES):
        processor = _read(folder, modality)
    elif changes is None:
        raise ModelError(
            f"model.processor: {options.checkpoint!r} has no preprocessor_config.json, so nothing "
            f"says how {_EXAMPLES[modality]} to be prepared. Write model.processor: {{}} for the "
            f"defaults of {settings.config.model_type}, or its settings."
        )
    else:
        with TemporaryDirectory() as made:  # settings without a processor: its kind's defaults
            settings.config.save_pretrained(made)
            Path(made, "preprocessor_config.json").write_text("{}")
            processor = _read(Path(made), modality)
    if not changes:
        return processor
    kind = type(processor)
    known = {*processor.to_dict(), *_declared(kind)} - {"image_processor_type", "processor_class"}
    for name in changes:
        if name not in known:
            raise ModelError(
                f"model.processor: {kind.__name__} has no setting {name!r}. "
                f"{nearest(name, sorted(known))}"
            )
    try:
        return kind.from_dict({**processor.to_dict(), **changes})
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ModelError(f"model.processor: {text}. Mend or leave out the setting.") from error


def _declared(kind: type) -> dict[str, Any]:
    """Settings that an image processor takes, even where it has none of them set."""
    keywords = getattr(kind, "valid_kwargs", None)
    return dict(getattr(keywords, "__annotations__", {}))


def _read(folder: Path, modality: str) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    auto = AutoFeatureExtractor if modality == "audio" else AutoImageProcessor
    try:
        with quiet_transformers():
            _check_kind(folder, modality)
            return auto.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, TypeError, AttributeError, ImportError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"model.processor: the processor in {folder} can't be loaded: {text}. "
            "Take another copy of the checkpoint."
        ) from error


def _check_kind(folder: Path, modality: str) -> None:
    """Stops at settings for something else, which transformers would fill up with defaults.

    Raises:
        ModelError: They prepare images where sound is to be prepared, or the other way round.
    """
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = next((kind for kind, mark in _MARKS.items() if mark in settings), modality)
    if found != modality:
        raise ModelError(
            f"model.processor: {file} says how {_EXAMPLES[found]} to be prepared, and the model "
            f"takes {modality}. Take another copy of the checkpoint, or remove the file and write "
            "model.processor: {}."
        )


def check_together(model: PreTrainedModel, processor: Any, modality: str) -> Tensor:
    """Runs one black image, or one second of silence, through both; the model's mode stays.

    Returns:
        What the processor made of it: a batch of one.

    Raises:
        ModelError: The network can't take what the processor makes.
    """
    inputs = prepare_nothing(processor, modality)
    try:
        try_out(model, inputs)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"model.processor: {type(processor).__name__} makes {list(inputs.shape)} of an "
            f"example, which {type(model).__name__} can't take: {text}. Set model.processor to "
            "what the network takes, or model.config to what the processor makes."
        ) from error
    return inputs


def try_out(model: PreTrainedModel, inputs: Tensor) -> None:
    """Runs a batch through a model, as in evaluation; the model's mode stays.

    Without oneDNN, which asks once, when it first computes, how much it may keep: a run says so
    only after its model is built (`engines.compiled_shapes`).
    """
    import torch

    onednn, was_training = torch.backends.mkldnn, model.training
    was_enabled = onednn.enabled
    try:
        onednn.set_flags(_enabled=False, _fp32_precision=None)  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            model.eval()(**{model.main_input_name: inputs})
    finally:
        onednn.set_flags(_enabled=was_enabled, _fp32_precision=None)  # type: ignore[no-untyped-call]
        model.train(was_training)


def prepare_nothing(processor: Any, modality: str) -> Tensor:
    """The least interesting example, a batch of one, as the processor hands it to a network."""
    if modality == "audio":
        rate = int(processor.sampling_rate)
        made = processor(np.zeros(rate, np.float32), sampling_rate=rate, return_tensors="pt")
    else:
        channels = np.size(getattr(processor, "image_mean", None) or [0.0] * 3)
        made = processor(np.zeros((64, 48, channels), np.uint8), return_tensors="pt")
    return cast("Tensor", made[processor.model_input_names[0]])
