"""Finds the folder of a model that is named as the Hub names it: `owner/name`, or with a revision.

Place: `predict` and `evaluate` take such a name wherever they take a run or a model folder.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from hf_finetune.errors import ModelError
from hf_finetune.hub import TRAINING_CONFIG, is_repo_id
from hf_finetune.hub.access import network_errors, quiet_hub

_FILES = (".pt", ".pth", ".bin", ".safetensors", ".yaml", ".png")


def locate_model(model: str) -> Path | None:
    """The folder of a model of the Hub: downloaded, or from the cache where it is there.

    What lies here comes first: `runs/my` is a run that is missing as long as there is a folder
    `runs`.

    Args:
        model: `owner/name`, or `owner/name@revision` (branch, tag or commit).

    Returns:
        None where the name is no name of the Hub, or one of something on this machine.

    Raises:
        ModelError: The Hub has no such model or revision, or can't be reached and the model isn't
            in the cache; or a revision is asked of what lies here.
    """
    from hf_finetune.models.checkpoint_source import find_checkpoint

    repo_id, _, revision = model.partition("@")
    here = Path(repo_id)
    if Path(model).exists():
        return None
    if not is_repo_id(repo_id) or here.parent.exists() or here.suffix in _FILES:
        if revision:
            raise ModelError(
                f"--revision: {repo_id!r} is no model of the Hub, and only those have revisions. "
                "Leave it out, or name a model as OWNER/NAME."
            )
        return None
    try:
        with quiet_hub(show_bars=sys.stderr.isatty()):
            folder = find_checkpoint(repo_id, revision or None).path
            _fetch_settings(repo_id, folder)
    except ModelError as error:
        # Said of a configuration's keys there; here it is a word of the command line.
        told = str(error).removeprefix("model.checkpoint: ")
        raise ModelError(f"{model}: {told.replace('model.revision:', '--revision:')}") from error
    return folder


def _fetch_settings(repo_id: str, folder: Path) -> None:
    """Brings the configuration that the model was trained with too, where there is one."""
    from huggingface_hub import hf_hub_download

    with suppress(*network_errors()):  # models of others have none
        hf_hub_download(repo_id, TRAINING_CONFIG, revision=folder.name)
