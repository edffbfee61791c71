"""Writes and reads model folders and state_dict files, and proves after each load that it is right.

The engines' checkpoints and the run directory's `model/` are folders of this kind.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier
from hf_finetune.models.auto_classes import register

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MOST_NAMED = 8  # tensors that an error names before it only counts


def save_classifier(classifier: Classifier, directory: str | Path) -> None:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Everything is written beside the folder first and then moved, so that a kill leaves no half
    file. Files of other names that the folder already has are left alone. Tensors keep the names
    of the model's own `state_dict` (`save_original_format=False`), because `load_state_dict`
    needs them.

    Args:
        classifier: What to save.
        directory: The folder; made if it isn't there.

    Raises:
        ModelError: The folder's path is a file.
    """
    folder = Path(directory).resolve()
    if folder.is_file():
        raise ModelError(
            f"{directory}: this is a file. A model is saved as a folder; name another."
        )
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with _quiet_transformers():
            classifier.model.save_pretrained(partial, save_original_format=False)
            classifier.processor.save_pretrained(partial)
        if folder.exists():
            for file in sorted(partial.iterdir()):
                file.replace(folder / file.name)
        else:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_classifier(path: str | Path) -> Classifier:
    """Loads a model folder and compares every tensor with the file's, bit by bit.

    Args:
        path: A folder that `save_classifier` or `save_pretrained` wrote.

    Returns:
        The model, in evaluation mode, and its processor. No random number is drawn.

    Raises:
        ModelError: A file is missing or unreadable, or a tensor is missing, unexpected or other
            than the file's.
    """
    import transformers
    from safetensors import SafetensorError

    folder = _checked_folder(path)
    register()
    # The folder's own code is never run. Sizes that don't fit are let through here, and named
    # below with everything else that is wrong.
    settings = {"trust_remote_code": False, "local_files_only": True}
    try:
        with _quiet_transformers():
            model = transformers.AutoModelForImageClassification.from_pretrained(
                folder, ignore_mismatched_sizes=True, **settings
            )
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **settings)
        _own_memory(model)
        expected = _tensors_of_folder(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{path}: this model folder can't be loaded: {error}. "
            "Save it again, or take another checkpoint."
        ) from error
    _stop_if_different(path, expected, _tensors_of_model(model, expected))
    return Classifier(model, processor, bool(getattr(model, "gains_from_channels_last", False)))


def load_state_dict_file(classifier: Classifier, path: str | Path) -> None:
    """Loads the weights of a plain `state_dict` file into a model.

    A file that doesn't fit leaves the model as it was.

    Args:
        classifier: Its model gets the weights.
        path: `.pt` or `.pth` (from `torch.save(model.state_dict(), path)`), or `.safetensors`.

    Raises:
        ModelError: The file is missing, no state_dict, or doesn't fit the model.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{path}: there is no such file. Name a state_dict file (.pt, .pth, …).")
    expected = _read_state_dict(file)
    own = classifier.model.state_dict()
    _stop_if_different(path, expected, own, shapes_only=True)
    classifier.model.load_state_dict(expected)
    _stop_if_different(path, expected, classifier.model.state_dict())


def _checked_folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"{path}: there is no such folder. Name one that holds a saved model.")
    for kinds, what in (
        (("config.json",), "the network's settings"),
        (("preprocessor_config.json", "processor_config.json"), "the image processor's settings"),
        (("model.safetensors", "model.safetensors.index.json"), "the weights"),
    ):
        if not any((folder / name).is_file() for name in kinds):
            found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
            raise ModelError(
                f"{path}: {kinds[0]} ({what}) is missing; the folder has {found}. Save model and "
                "processor into it with save_pretrained."
            )
    return folder


def _own_memory(model: PreTrainedModel) -> None:
    """Moves a model out of the file that from_pretrained mapped into memory.

    There tensors start at any byte, which changes the last bits of matrix products (a resumed run
    would differ from one that wasn't killed); and who overwrites the file changes the model.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _tensors_of_folder(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    whole = folder / "model.safetensors"
    shards = [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}


def _tensors_of_model(model: PreTrainedModel, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's tensors, under the names that the file uses."""
    own: dict[str, Tensor] = model.state_dict()
    if expected.keys() <= own.keys():
        places = {own[name].data_ptr() for name in expected}
        # Tied tensors stand once in a file, and several times in a state_dict.
        return {
            name: tensor
            for name, tensor in own.items()
            if name in expected or tensor.data_ptr() not in places
        }
    # from_pretrained renames what files of the original format hold (ViT and its like), and
    # save_pretrained renames it back: what it would write now must be what was read.
    with TemporaryDirectory() as folder, _quiet_transformers():
        model.save_pretrained(folder)
        return _tensors_of_folder(Path(folder))


def _read_state_dict(file: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{file}: this is a pickled object, not a plain state_dict, and unpickling it could "
            "run any code. Save the weights alone: torch.save(model.state_dict(), path)."
        ) from error
    except (OSError, EOFError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{file}: this file can't be read: {error}. Save it again.") from error
    if not isinstance(content, dict) or not all(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        holds = (
            ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        )
        raise ModelError(
            f"{file}: this is no state_dict, it holds {holds}. Save the weights alone: "
            "torch.save(model.state_dict(), path)."
        )
    return dict(content)


def _stop_if_different(
    path: str | Path,
    expected: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    shapes_only: bool = False,
) -> None:
    """Compares a file's tensors with a model's.

    Raises:
        ModelError: One is missing, unexpected or different.
    """
    problems = [f"{name} is missing in the file" for name in own if name not in expected]
    for name, tensor in expected.items():
        if name not in own:
            problems.append(f"{name} is not in the model")
        elif _kind(tensor) != _kind(own[name]):
            problems.append(
                f"{name} is {_kind(tensor)} in the file, {_kind(own[name])} in the model"
            )
        elif not shapes_only and not _same_bits(tensor, own[name]):
            problems.append(f"{name} has other values in the model than in the file")
    if problems:
        named = "; ".join(problems[:MOST_NAMED])
        more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise ModelError(
            f"{path}: the weights don't fit the model: {named}{more}. "
            "Use the configuration that they were trained with, or another file."
        )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal in every bit: not-a-number equals itself, and 0 is not −0."""
    import torch

    left, right = (tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(left, right)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars, and no warnings about tensors: those are checked here, and stop the run."""
    from transformers.utils import logging

    def no_bar(make: Any, args: Any, settings: Any) -> Any:
        return make(*args, **{**settings, "disable": True})

    verbosity, hook = logging.get_verbosity(), logging.set_tqdm_hook(no_bar)
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.set_tqdm_hook(hook)
