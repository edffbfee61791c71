"""Where the toolkit keeps what it would otherwise work out again at every start.

Shared by everything that caches; what lies there may be deleted at any time.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder of this toolkit, which may not exist yet.

    `HF_FINETUNE_CACHE`, or `hf_finetune` in `XDG_CACHE_HOME`, or in `~/.cache`. Never inside the
    data: a data folder may be read-only, shared, or hashed by others.
    """
    own = os.environ.get("HF_FINETUNE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hf_finetune"
