"""Which settings a run that goes on may change, and what is said of it.

Place: the verb `train --resume` reads settings through it; `session` and the plan tell the changes.
A run's config.yaml is never rewritten: a change holds for one session, and run.json tells of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_finetune.config import RunConfig, load_config
from hf_finetune.console import show_command
from hf_finetune.errors import UserError
from hf_finetune.runs.run_dir import CONFIG, RunDir
from hf_finetune.trackers.options import TrackingOptions

# Who hears of a run and where its data lie change no number of it; the data are compared anyway.
_FREE = ("hub", "trackers", "tracking", "data.root")


def load_resumed_config(run: RunDir, overrides: Sequence[str]) -> RunConfig:
    """The configuration that a run goes on with: its own, with some settings changed.

    The settings of trackers that `trackers` no longer names are left out with them.

    Args:
        run: The run.
        overrides: `section.key=value` texts.

    Raises:
        UserError: A setting may not change any more.
        ConfigError: As `load_config`.
    """
    keys = [_key_of(override) for override in overrides]
    refused = [key for key in keys if not _is_free(key)]
    if refused:
        raise UserError(
            f"--resume: {', '.join(refused)} can't be set any more: a run goes on with its own "
            "configuration, so that it ends in the same numbers. What may change is hub.*, "
            f"trackers, tracking.* and data.root. Leave {'it' if len(refused) == 1 else 'them'} "
            "out, or start a new run with --config."
        )
    file = run.path / CONFIG
    chosen = [text for text, key in zip(overrides, keys, strict=True) if key == "trackers"]
    named = load_config(file, ["tracking={}", *chosen]).trackers
    unnamed = [name for name in TrackingOptions.model_fields if name not in named]
    return load_config(file, [*(f"tracking.{name}={{}}" for name in unnamed), *overrides])


def _key_of(override: str) -> str:
    return ".".join(part.strip() for part in override.partition("=")[0].split("."))


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in _FREE)


def list_changes(run: RunDir, config: RunConfig) -> dict[str, Any]:
    """The settings of a configuration that differ from the run's own, by dotted key.

    Args:
        run: The run, with its config.yaml.
        config: What it goes on with.

    Returns:
        The new values as JSON has them; those of trackers that nobody hears are left out.
    """
    own = dict(_list_leaves(run.config.model_dump(mode="json")))
    silent = [n for n in TrackingOptions.model_fields if n not in config.trackers]
    return {
        key: value
        for key, value in _list_leaves(config.model_dump(mode="json"))
        if (key not in own or own[key] != value)
        and not any(key.startswith(f"tracking.{name}.") for name in silent)
    }


def _list_leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _list_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def command_to_resume(run: RunDir, changes: Mapping[str, Any]) -> str:
    """What to type so that a run goes on, with the settings that it has been changed to."""
    kept = {key: value for key, value in changes.items() if _is_free(key)}
    return show_command("train", "--resume", str(run.path), *_as_words(kept))


def describe_resumption(run: RunDir) -> str:
    """Where the run goes on and what is set otherwise, in a phrase; empty at its first session."""
    sessions = run.status.get("resumed", [])
    if not sessions:
        return ""
    step, changes = sessions[-1]["step"], sessions[-1]["changed"]
    start = f"goes on after step {step}" if step else "begins again: there was no checkpoint yet"
    return "; ".join([start, *(f"this time {word}" for word in _as_words(changes))])


def _as_words(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(v, ensure_ascii=False)}" for key, v in settings.items()]
