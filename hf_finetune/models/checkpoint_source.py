"""Finds the folder of a checkpoint: a local one, or one of the Hugging Face Hub, downloaded once.

`pretrained` builds models from what is found here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.errors import ModelError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_SETTINGS = ["config.json", "preprocessor_config.json", "processor_config.json"]
_SAFE_WEIGHTS = ["model*.safetensors", "model.safetensors.index.json"]
_PICKLED_WEIGHTS = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a checkpoint lies on this machine.

    Attributes:
        path: A folder with a config.json.
        origin: What to call it: the folder as given, or `owner/name` and its commit.
    """

    path: Path
    origin: str


def find_checkpoint(checkpoint: str, revision: str | None) -> CheckpointFolder:
    """The folder of a checkpoint; what lies on the Hub is downloaded, or taken from the cache.

    Args:
        checkpoint: A folder, or `owner/name` on the Hub.
        revision: Branch, tag or commit on the Hub; None is its main branch.

    Raises:
        ModelError: It is not there, not allowed, or can't be reached.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"model.revision: {checkpoint!r} is a folder, which has no revisions. "
                "Leave it out, or name a checkpoint of the Hub."
            )
        found = CheckpointFolder(folder, checkpoint)
    elif _is_path(checkpoint):
        raise ModelError(
            f"model.checkpoint: there is no folder {checkpoint!r} (looked for from {Path.cwd()}). "
            "Name a folder that holds a config.json, or a checkpoint of the Hub as owner/name."
        )
    else:
        path = _download(checkpoint, revision)
        found = CheckpointFolder(path, f"{checkpoint} at commit {path.name[:7]}")
    if not (found.path / "config.json").is_file():
        names = ", ".join(sorted(file.name for file in found.path.glob("*"))[:8]) or "nothing"
        raise ModelError(
            f"model.checkpoint: {checkpoint!r} has no config.json, so it is no checkpoint of "
            f"transformers; it has {names}. Name one that save_pretrained wrote."
        )
    return found


def _is_path(checkpoint: str) -> bool:
    return checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1


def _download(checkpoint: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=patterns))

    where = f"model.checkpoint: {checkpoint!r}"
    try:
        folder = fetch(_SETTINGS + _SAFE_WEIGHTS)
        if not any(folder.glob("model*.safetensors")):
            folder = fetch(_SETTINGS + _PICKLED_WEIGHTS)
    except HFValidationError as error:
        raise ModelError(
            f"{where} is neither a folder nor a name of the Hub. Write owner/name, such as "
            "facebook/deit-tiny-patch16-224, or a folder."
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{where} is gated: its owners give access on request. Ask for it on the checkpoint's "
            "page of the Hub, then log in here with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{where} is not on the Hub, or is private. Check the spelling (owner/name); for a "
            "private one, log in with: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model.revision: {checkpoint!r} has no revision {revision!r}. Name a branch, a tag or "
            "a commit of it, or leave it out for the main branch."
        ) from error
    except LocalEntryNotFoundError as error:
        raise ModelError(f"{where} {_explain_absence()}") from error
    except HfHubHTTPError as error:
        raise ModelError(f"{where} {_explain_refusal(error)}") from error
    return folder


def _explain_absence() -> str:
    """Why a checkpoint isn't in the cache and couldn't be downloaded, and what to do."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return (
            "is not on this machine, and HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE "
            "and run once with a network (the files are kept), or name a local folder."
        )
    return (
        "is not on this machine, and the Hub can't be reached. Try again with a network, or copy "
        "the checkpoint from elsewhere and name its folder."
    )


def _explain_refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return f"is refused by the Hub (status {status}). Log in again with: hf auth login"
    return f"can't be had: the Hub answers with status {status}. Try again later."
