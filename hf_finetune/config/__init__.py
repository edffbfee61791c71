"""The configuration of a run: one typed, strict tree, read from a YAML file and written back.

Every room declares its own section (`Options`); here they become one tree. Imports no torch, so
that a configuration is checked in a fraction of a second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, create_model, field_validator

from hf_finetune.config.check import check_tree
from hf_finetune.config.overrides import apply_overrides
from hf_finetune.config.schema import schema_of
from hf_finetune.config.source import Source
from hf_finetune.config.yaml_text import read_file, read_yaml, write_yaml
from hf_finetune.data import DataOptions
from hf_finetune.engines.options import ComputeOptions, TrainOptions
from hf_finetune.errors import ConfigError
from hf_finetune.features import FeatureOptions
from hf_finetune.hub import HubOptions
from hf_finetune.losses import LossOptions
from hf_finetune.models import ModelOptions
from hf_finetune.options import Section
from hf_finetune.plugins import Plugin, load_plugins, metrics_of
from hf_finetune.registry import kind, kind_names, nearest
from hf_finetune.runs import RunOptions
from hf_finetune.trackers.options import TrackingOptions


def _any_kind(room: str, plugins: Sequence[Plugin] = ()) -> Any:
    """The type of a section that may be the options of any kind in a room, told by `name`."""
    modules = [kind(room, name) for name in kind_names(room)]
    modules += [plugin.module for plugin in plugins if plugin.room == room]
    options = [module.Options for module in modules]
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
    """Everything that decides a run.

    Attributes:
        loaded_plugins: What the files in `plugins` hold.
    """

    loaded_plugins: ClassVar[tuple[Plugin, ...]] = ()

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
    hub: HubOptions = HubOptions()
    """Where the run is pushed to."""
    trackers: Annotated[tuple[str, ...], Field(strict=False)] = ("jsonl",)
    """Where numbers are sent while training."""
    tracking: TrackingOptions = TrackingOptions()
    """How the trackers are set."""
    plugins: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Python files with a data set, model, loss or metric of your own, from the current folder."""

    @field_validator("seed")
    @classmethod
    def _usable_by_generators(cls, value: int) -> int:
        if value >= 2**32:
            raise ValueError(f"must be below 2**32, got {value}: NumPy's generator takes no more")
        return value

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

    @field_validator("tracking")
    @classmethod
    def _tracked(cls, value: TrackingOptions, info: ValidationInfo) -> TrackingOptions:
        named = info.data.get("trackers", ())
        unnamed = [name for name in value.set_sections() if name not in named]
        if unnamed and "trackers" in info.data:
            wanted = ", ".join(dict.fromkeys(("jsonl", *named, *unnamed)))
            raise ValueError(
                f"has settings for {', '.join(unnamed)}, which trackers doesn't name. Write "
                f"trackers: [{wanted}]"
            )
        return value

    @property
    def plugin_hashes(self) -> dict[str, str]:
        """SHA-256 of each plugin, by its path as `plugins` has it."""
        return {plugin.path: plugin.sha256 for plugin in self.loaded_plugins}


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
    paths = source.tree.get("plugins")
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return check_tree(RunConfig, source)
    plugins = []
    for number, found in enumerate(load_plugins(paths)):
        if isinstance(found, Plugin):
            plugins.append(found)
        else:
            source.problem(("plugins", number), f"plugins: {found}.")
    if len(plugins) < len(paths):  # without them, what is right would look wrong
        source.raise_problems()
    return check_tree(_config_with(tuple(plugins)), source)


@cache
def _config_with(plugins: tuple[Plugin, ...]) -> type[RunConfig]:
    """The class of configurations with some plugins: its sections know them, no others do."""
    if not plugins:
        return RunConfig

    class Train(TrainOptions):
        """As ever; the plugins' metrics may choose the model too."""

        metrics: ClassVar[Mapping[str, bool]] = {
            **TrainOptions.metrics,
            **{name: metric.greater_is_better for name, metric in metrics_of(plugins).items()},
        }

    config = create_model(
        "RunConfig",
        __base__=RunConfig,
        data=(_any_kind("data", plugins), ...),
        model=(_any_kind("models", plugins), ...),
        loss=(_any_kind("losses", plugins), RunConfig.model_fields["loss"].default),
        train=(Train, Train()),
    )
    config.loaded_plugins = plugins
    return config


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
