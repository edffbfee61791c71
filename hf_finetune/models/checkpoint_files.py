"""Writes and reads model folders and state_dict files, and proves after each load that it is right.

The engines' checkpoints and the run directory's `model/` are folders of this kind.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier
from hf_finetune.models.anatomy import head_names
from hf_finetune.models.auto_classes import modality_of, register

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

MOST_NAMED = 8  # tensors that an error names before it only counts
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


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
    _remove_leftovers(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with quiet_transformers():
            classifier.model.save_pretrained(partial, save_original_format=False)
            classifier.processor.save_pretrained(partial)
        if folder.exists():
            for file in sorted(partial.iterdir()):
                file.replace(folder / file.name)
        else:
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes what a save of this folder left beside it when it was killed."""
    start, end = f".{folder.name}.", ".partial"
    for path in folder.parent.glob(f".*{end}"):
        if path.name.startswith(start) and path.name[len(start) : -len(end)].isdecimal():
            shutil.rmtree(path, ignore_errors=True)


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
        with quiet_transformers():
            config = transformers.AutoConfig.from_pretrained(folder, **settings)
            auto_model, auto_processor = _auto_classes(type(config))
            model = auto_model.from_pretrained(folder, ignore_mismatched_sizes=True, **settings)
            processor = auto_processor.from_pretrained(folder, **settings)
        own_memory(model)
        expected = read_weights(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{path}: this model folder can't be loaded: {error}. "
            "Save it again, or take another checkpoint."
        ) from error
    _stop_if_different(path, expected, _tensors_of_model(model, expected))
    return Classifier(model, processor, bool(getattr(model, "gains_from_channels_last", False)))


def _auto_classes(config_class: type) -> tuple[Any, Any]:
    """(model, processor): the Auto classes for a network with these settings."""
    import transformers

    if modality_of(config_class) == "audio":
        return transformers.AutoModelForAudioClassification, transformers.AutoFeatureExtractor
    return transformers.AutoModelForImageClassification, transformers.AutoImageProcessor


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
    own = classifier.model.state_dict()
    expected = _without_wrapper(_read_state_dict(file), own)
    _stop_if_different(path, expected, own, shapes_only=True)
    classifier.model.load_state_dict(expected)
    _stop_if_different(path, expected, classifier.model.state_dict())


def _without_wrapper(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors under the model's names, where a wrapper put one prefix before them all.

    DistributedDataParallel writes `module.`, torch.compile `_orig_mod.`, a module of one's own the
    name of its attribute.
    """
    first = next(iter(own), "")
    prefixes = [name.removesuffix(first) for name in tensors if name.endswith(f".{first}")]
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _checked_folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"{path}: there is no such folder. Name one that holds a saved model.")
    for kinds, what in (
        (("config.json",), "the network's settings"),
        (PROCESSOR_FILES, "the processor's settings"),
        (("model.safetensors", "model.safetensors.index.json"), "the weights"),
    ):
        if not any((folder / name).is_file() for name in kinds):
            found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
            raise ModelError(
                f"{path}: {kinds[0]} ({what}) is missing; the folder has {found}. Save model and "
                "processor into it with save_pretrained."
            )
    return folder


def own_memory(model: PreTrainedModel) -> None:
    """Moves a model out of the file that from_pretrained mapped into memory.

    There tensors start at any byte, which changes the last bits of matrix products (a resumed run
    would differ from one that wasn't killed); and who overwrites the file changes the model.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder's weights, in one file or several, under the file's own names.

    Raises:
        ModelError: There are no weights, or a file is a pickled object.
    """
    for whole, parts in (
        ("model.safetensors", "model-*-of-*.safetensors"),
        ("pytorch_model.bin", "pytorch_model-*-of-*.bin"),  # as older checkpoints have them
    ):
        shards = [folder / whole] if (folder / whole).is_file() else sorted(folder.glob(parts))
        if shards:
            return {
                name: value for shard in shards for name, value in _read_state_dict(shard).items()
            }
    raise ModelError(
        f"{folder}: there are no weights (model.safetensors or pytorch_model.bin). "
        "Name a folder that save_pretrained wrote."
    )


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
    return _tensors_as_saved(model)


def _tensors_as_saved(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors, under the names that transformers writes by default.

    from_pretrained renames what files of the original format hold (ViT and its like), and
    save_pretrained renames it back: what it would write now must be what was read.
    """
    with TemporaryDirectory() as folder, quiet_transformers():
        model.save_pretrained(folder)
        return read_weights(Path(folder))


@dataclass(frozen=True)
class Match:
    """How a model's tensors and a checkpoint's go together, each tensor by name.

    Attributes:
        new: The model's that the checkpoint has nothing for, or something of another shape.
        different: The model's that should be the checkpoint's, and aren't.
        unused: The checkpoint's that the model has no place for.
    """

    new: tuple[str, ...]
    different: tuple[str, ...]
    unused: tuple[str, ...]


def match_weights(model: PreTrainedModel, stored: Mapping[str, Tensor]) -> Match:
    """Finds out which of a model's tensors are those of the checkpoint that it was loaded from.

    Transformers' own report of what it loaded is not asked: a tensor counts as loaded where its
    bits are the file's. Names may differ by the base model's prefix (`vit.`), or be those of the
    file's original format; what is found under no name is looked for by its content.

    Args:
        model: As `from_pretrained` gave it.
        stored: The checkpoint's tensors (`read_weights`).
    """
    head = head_names(model)
    own: Mapping[str, Tensor] = model.state_dict()
    pairs = _pair_by_name(own, stored, model.base_model_prefix)
    if own.keys() - pairs.keys() - head:
        own = _tensors_as_saved(model)
        pairs = _pair_by_name(own, stored, model.base_model_prefix)
    _pair_by_content(pairs, own.keys() - head, own, stored)
    like = {name: stored[other].to(own[name].dtype) for name, other in pairs.items()}
    reshaped = {name for name, tensor in like.items() if tensor.shape != own[name].shape}
    return Match(
        new=tuple(name for name in own if name not in pairs or name in reshaped),
        different=tuple(
            name
            for name, tensor in like.items()
            if name not in reshaped and not _same_bits(tensor, own[name])
        ),
        unused=tuple(name for name in stored if name not in pairs.values()),
    )


def _pair_by_name(
    own: Mapping[str, Tensor], stored: Mapping[str, Tensor], prefix: str
) -> dict[str, str]:
    """The checkpoint's name for each of the model's, with or without the base model's prefix."""
    pairs = {}
    for name in own:
        spellings = (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}")
        found = next((spelling for spelling in spellings if spelling in stored), None)
        if found is not None:
            pairs[name] = found
    return pairs


def _pair_by_content(
    pairs: dict[str, str],
    wanted: Iterable[str],
    own: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
) -> None:
    """Adds the pairs of equal content among what is left, each tensor once."""
    left = [name for name in stored if name not in pairs.values()]
    for name in sorted(set(wanted) - pairs.keys()):
        for other in left:
            tensor = stored[other]
            if tensor.shape == own[name].shape and _same_bits(
                tensor.to(own[name].dtype), own[name]
            ):
                pairs[name] = other
                left.remove(other)
                break


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
def quiet_transformers() -> Iterator[None]:
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
