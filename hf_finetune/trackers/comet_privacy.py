"""What of a run's texts and files goes to Comet: nothing that names the person or the machine.

Place: the `comet` tracker puts what it sends through it. The run directory stays as it is.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from hf_finetune.runs.environment import hide_home

_ENVIRONMENT = "environment.json"
# The rest (command line, kernel, other packages) is sent only with `log_environment`.
_SENT = (
    *("started_at", "git", "hf_finetune", "python", "cpu", "gpus", "cuda"),
    *("torch_num_threads", "omp_num_threads", "compute", "plan"),
)
_SENT_PACKAGES = ("torch", "transformers")


def prepare_file(path: Path, log_environment: bool) -> str | io.BytesIO:
    """A file as it may be sent: its path, or where the content must differ the content.

    Args:
        path: A file of the run directory.
        log_environment: Whether packages and system are asked for.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return str(path)  # no text
    shown = hide_home(text)
    if path.name == _ENVIRONMENT and not log_environment:
        shown = json.dumps(_trim(json.loads(shown)), indent=1) + "\n"
    return str(path) if shown == text else io.BytesIO(shown.encode())


def prepare_values(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters and the like, the home folder as `~`."""
    return {name: hide_home(v) if isinstance(v, str) else v for name, v in values.items()}


def _trim(environment: dict[str, Any]) -> dict[str, Any]:
    kept = {name: environment[name] for name in _SENT if name in environment}
    packages = environment.get("packages", {})
    kept["packages"] = {name: packages.get(name) for name in _SENT_PACKAGES}
    return kept
