"""A user's own data sets, models, losses and metrics: local files that a configuration names.

Place: `config` loads them before it checks the tree. Nothing is registered: a configuration's class
holds its plugins, and a section's class tells the file it comes from, so that two configurations in
one process never see each other's.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin

from hf_finetune.data import DataOptions
from hf_finetune.evaluation import GREATER_IS_BETTER, Metric
from hf_finetune.losses import LossOptions
from hf_finetune.models import ModelOptions
from hf_finetune.options import Section
from hf_finetune.registry import VERBS, kind_names

METRICS = "metrics"
_BASES: dict[str, type[Section]] = {
    "data": DataOptions,
    "models": ModelOptions,
    "losses": LossOptions,
}
# What a split's scores hold beside the metrics; a plugin's metric mustn't take its place.
OTHER_SCORES = {"accuracy_interval", "num_examples", "per_class", "confusion_matrix", "warnings"}


class PluginError(Exception):
    """A file is no plugin; the message says why."""


@dataclass(frozen=True)
class Plugin:
    """One file of the user's.

    Attributes:
        path: As the configuration has it.
        sha256: Hash of the bytes that were run.
        room: data, models, losses, or metrics.
        module: What the file defines.
    """

    path: str
    sha256: str
    room: str
    module: ModuleType

    @property
    def name(self) -> str:
        """What a configuration calls it: the file's name without `.py`."""
        return Path(self.path).stem


def load_plugins(paths: Iterable[str]) -> list[Plugin | PluginError]:
    """What each file holds, or what is wrong with it, in the order of the files."""
    found: list[Plugin | PluginError] = []
    firsts: dict[tuple[str, str], Plugin] = {}
    for path in paths:
        try:
            plugin = load_plugin(path)
            first = firsts.setdefault((plugin.room, plugin.name), plugin)
            if first is not plugin:
                raise PluginError(f"{path}: the name {plugin.name!r} is {first.path}'s already")
            found.append(plugin)
        except PluginError as error:
            found.append(error)
    return found


def load_plugin(path: str) -> Plugin:
    """Runs a file and finds out what it adds.

    Args:
        path: A Python file, relative to the current folder.

    Raises:
        PluginError: The file is missing or doesn't run, keeps no room's contract, or its name is
            taken by a built-in kind.
    """
    if Path(path).suffix != ".py" or not Path(path).stem.isidentifier():
        raise PluginError(f"{path}: must be a Python file called like a name: my_data.py")
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise PluginError(f"{path}: no such file, seen from the current folder") from None
    except OSError as error:
        raise PluginError(f"{path}: can't be read: {error.strerror}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    module = _run(path, content, sha256)
    plugin = Plugin(path, sha256, _find_room(path, module), module)
    _check_name(plugin)
    return plugin


def _run(path: str, content: bytes, sha256: str) -> ModuleType:
    """The file's module: the bytes that were hashed, run once in a process.

    The module's name holds path and hash, since a class is found again by its module's name.
    """
    place = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:8]
    name = f"hf_finetune_plugin_{place}_{sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(Path(path).resolve())
    try:
        code = compile(content, path, "exec")
    except SyntaxError as error:
        place = f"{path}:{error.lineno}" if error.lineno else path
        raise PluginError(f"{place}: not valid Python: {error.msg}") from error
    except ValueError as error:
        raise PluginError(f"{path}: not valid Python: {error}") from error
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:  # a script's sys.exit() would end us without a word
        del sys.modules[name]
        frames = traceback.extract_tb(error.__traceback__)
        line = max((frame.lineno or 0 for frame in frames if frame.filename == path), default=0)
        told = f"{type(error).__name__}: {error}"
        raise PluginError(f"{path}:{line}: fails when it is loaded: {told}") from error
    return module


def _find_room(path: str, module: ModuleType) -> str:
    """The room whose contract the file keeps.

    Raises:
        PluginError: It keeps none.
    """
    options = getattr(module, "Options", None)
    if options is None:
        return _check_metric(path, module)
    is_class = isinstance(options, type)
    room = next((r for r, base in _BASES.items() if is_class and issubclass(options, base)), None)
    if room is None:
        raise PluginError(
            f"{path}: Options must derive from DataOptions, ModelOptions or LossOptions"
        )
    if not callable(getattr(module, VERBS[room], None)):
        raise PluginError(f"{path}: the function '{VERBS[room]}' is missing beside its Options")
    if options.__module__ != module.__name__:
        raise PluginError(f"{path}: must define its Options itself, not import them")
    field, name = options.model_fields["name"], Path(path).stem
    literal = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if literal != (name,) or field.default != name:
        raise PluginError(f'{path}: Options must have: name: Literal["{name}"] = "{name}"')
    return room


def _check_metric(path: str, module: ModuleType) -> str:
    has_direction = isinstance(getattr(module, "GREATER_IS_BETTER", None), bool)
    has_function = callable(getattr(module, "compute", None))
    if has_direction and has_function:
        return METRICS
    if has_function or hasattr(module, "GREATER_IS_BETTER"):
        missing = "the function 'compute'" if has_direction else "GREATER_IS_BETTER (a bool)"
        raise PluginError(f"{path}: {missing} is missing; a metric has both")
    raise PluginError(
        f"{path}: the class 'Options' is missing (or, for a metric, GREATER_IS_BETTER and compute)"
    )


def _check_name(plugin: Plugin) -> None:
    is_metric = plugin.room == METRICS
    taken = {*GREATER_IS_BETTER, *OTHER_SCORES} if is_metric else {*kind_names(plugin.room)}
    if plugin.name in taken:
        raise PluginError(
            f"{plugin.path}: the name {plugin.name!r} is taken by the package's own. "
            "Call the file otherwise"
        )


def metrics_of(plugins: Iterable[Plugin]) -> dict[str, Metric]:
    """The metrics among some plugins, by name."""
    return {
        plugin.name: Metric(plugin.module.compute, plugin.module.GREATER_IS_BETTER)
        for plugin in plugins
        if plugin.room == METRICS
    }
