"""The configuration of a run: one typed, strict tree, read from a YAML file and written back.

Every room declares its own section (`Options`); here they become one tree. Imports no torch, so
that a configuration is checked in a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from hf_finetune.config.check import check_tree
from hf_finetune.config.overrides import apply_overrides
from hf_finetune.config.schema import schema_of
from hf_finetune.config.source import Source
from hf_finetune.config.yaml_text import read_file, read_yaml, write_yaml
from hf_finetune.data import DataOptions
from hf_finetune.engines.options import ComputeOptions, TrainOptions
from hf_finetune.errors import ConfigError
from hf_finetune.features import FeatureOptions
from hf_finetune.losses import LossOptions
from hf_finetune.models import ModelOptions
from hf_finetune.options import Section
from hf_finetune.registry import kind, kind_names, nearest
from hf_finetune.runs import RunOptions


def _any_kind(room: str) -> Any:
    """The type of a section that may be the options of any kind in a room, told by `name`."""
    options = [kind(room, name).Options for name in kind_names(room)]
    if len(options) == 1:  # pydantic tells kinds apart only where there are two
        return options[0]
    return Annotated[reduce(or_, options), Field(discriminator="name")]


if TYPE_CHECKING:
    AnyData = DataOptions
    AnyModel = ModelOptions
    AnyLoss = LossOptions
else:
    AnyData, AnyModel, AnyLoss = (_any_kind(room) for room in ("data", "models", "losses"))


class RunConfig(Section):
    """Everything that decides a run."""

    name: str = "run"
    """The run's name; by default that of its configuration file."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides weights, order, dropout and augmentation."""
    data: AnyData
    """The data set, by name, and how it is split."""
    features: FeatureOptions = FeatureOptions()
    """From raw rows to what the model takes."""
    model: AnyModel
    """The model, by name."""
    loss: AnyLoss = kind("losses", "cross_entropy").Options()
    """The loss, by name."""
    train: TrainOptions = TrainOptions()
    """Engine, batches, optimiser, schedule, evaluation."""
    compute: ComputeOptions = ComputeOptions()
    """Device, precision, threads."""
    run: RunOptions = RunOptions()
    """Where the run is written."""
    trackers: Annotated[tuple[str, ...], Field(strict=False)] = ("jsonl",)
    """Where numbers are sent while training."""

    @field_validator("name")
    @classmethod
    def _usable_as_folder(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", value):
            raise ValueError(
                f"must be letters, digits, '.', '_' and '-', the first a letter, a digit or '_', "
                f"got {value!r}. Give another name: the run's folder is called so"
            )
        return value

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = kind_names("trackers")
        for tracker in value:
            if tracker not in known:
                raise ValueError(f"unknown tracker {tracker!r}. {nearest(tracker, known)}")
        if len(set(value)) < len(value):
            raise ValueError(f"{', '.join(value)} names a tracker twice. Name each once")
        return value


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a configuration file.

    Args:
        path: YAML, UTF-8.
        overrides: `section.key=value` texts that win over the file; the values are YAML. Naming
            another kind (`model.name=mlp`) drops what the file sets to the old kind's default.

    Raises:
        ConfigError: The file can't be read, or anything in it or in an override is wrong: each
            fault with its line, all at once.
    """
    path = Path(path)
    source = read_yaml(read_file(path), str(path))
    source.tree.setdefault("name", path.stem)
    return _checked(source, overrides)


def parse_config(text: str, where: str = "<string>", overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a configuration from YAML text; otherwise like `load_config`.

    Args:
        text: YAML.
        where: What to call the text in messages.
        overrides: `section.key=value` texts that win over the text.

    Raises:
        ConfigError: The text, or an override, is wrong.
    """
    return _checked(read_yaml(text, where), overrides)


def config_from(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Makes a configuration of nested mappings; sections may also be given as `Options`.

    Args:
        mapping: The tree, as a file would hold it.
        overrides: `section.key=value` texts that win over the mapping.

    Raises:
        ConfigError: Anything in it is wrong; each fault with its key.
    """
    source = Source("", _plain(mapping, ""))
    return _checked(source, overrides)


def dump_config(config: RunConfig) -> str:
    """The whole configuration as YAML, defaults included; reading it gives the same again."""
    return write_yaml(config.model_dump(mode="json"))


def config_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of configuration files, for editors."""
    return schema_of(RunConfig)


def _checked(source: Source, overrides: Sequence[str]) -> RunConfig:
    apply_overrides(source, overrides)
    return check_tree(RunConfig, source)


def _plain(value: Any, where: str) -> Any:
    """A copy made of dicts and lists, as reading YAML gives it."""
    if isinstance(value, Section):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError([f"{where or 'config'}: keys must be text, got {key!r}."])
        return {key: _plain(item, f"{where}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    return value
