"""Finds the folder of a checkpoint: a local one, or one of the Hugging Face Hub, downloaded once.

`pretrained` builds models from what is found here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hf_finetune.errors import ModelError

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

    from hf_finetune.hub.downloads import Wanted, explained

    def fetch(patterns: list[str]) -> Path:
        return Path(snapshot_download(checkpoint, revision=revision, allow_patterns=patterns))

    wanted = Wanted(
        checkpoint,
        revision,
        kind="checkpoint",
        key="model.checkpoint",
        revision_key="model.revision",
        example="facebook/deit-tiny-patch16-224",
    )
    with explained(wanted, ModelError):
        folder = fetch(_SETTINGS + _SAFE_WEIGHTS)
        if not any(folder.glob("model*.safetensors")):
            folder = fetch(_SETTINGS + _PICKLED_WEIGHTS)
    return folder
