"""Where and with what a run was made, in so far as it may explain the numbers.

Place: the run directory keeps it as `environment.json`; reports and comparisons quote it. It holds
no environment variable but OMP_NUM_THREADS, no host name, no home folder and no secret.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import hf_finetune

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "numpy")
GIT_SECONDS = 2.0

_SECRET_NAME = r"(?:token|api[-_]?key|access[-_]?key|secret|password|passwd|credentials?)"
_SECRET_OPTION = re.compile(rf"(?:^|[-_.]){_SECRET_NAME}$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}"  # Hugging Face
    # Comet's keys are 25 letters and digits without a prefix; other services' are longer.
    r"|(?<![\w./-])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{25,}(?![\w./-])"
    r"|(?<=://)[^/@\s]+(?=@)"  # the user and password of an address
)
_REMOVED = "<removed>"


def describe_environment() -> dict[str, Any]:
    """Collects versions, hardware, code state and command line.

    What can't be found out is None; nothing here stops a run.

    Returns:
        Plain Python, ready for JSON:
            started_at: The present moment in UTC, ISO 8601 to the second.
            command: The command line; secrets as `<removed>`, the home folder as `~`.
            git: Commit of the working directory and whether tracked files differ from it.
            hf_finetune, python, platform: Version, version, operating system.
            packages: Version by name.
            cpu: model, usable_cores (those this process may run on), memory_bytes.
            gpus: name and memory_bytes of each, may be empty; cuda: version torch was built for.
            torch_num_threads: int; omp_num_threads: OMP_NUM_THREADS as it is set.
    """
    import torch

    return {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": clean_command(sys.argv),
        "git": _git_state(),
        "hf_finetune": hf_finetune.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "usable_cores": _usable_cores(),
            "memory_bytes": _memory_bytes(),
        },
        "gpus": _gpus(),
        "cuda": torch.version.cuda,
        "torch_num_threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def clean_command(arguments: list[str]) -> list[str]:
    """Returns a command line that may be shown to others.

    Removed are values that look like a token or key, and values given to a name like `--token` or
    `tracker.api_key=`. Of the program only its file name is kept, and the home folder, which holds
    the user's name, becomes `~`.

    Args:
        arguments: As in `sys.argv`, the program first.
    """
    cleaned = [Path(arguments[0]).name] if arguments else []
    removes_next = False
    for argument in arguments[1:]:
        name, equals, value = argument.partition("=")
        if removes_next or (equals and _SECRET_OPTION.search(name)):
            cleaned.append(f"{name}={_REMOVED}" if equals and not removes_next else _REMOVED)
        else:
            parts = (_SECRET_VALUE.sub(_REMOVED, part) for part in (name, value))
            cleaned.append(hide_home(equals.join(parts)))
        removes_next = not removes_next and not equals and _is_secret_flag(argument)
    return cleaned


def remove_secrets(text: str) -> str:
    """The text without what looks like a token or a key."""
    return _SECRET_VALUE.sub(_REMOVED, text)


def _is_secret_flag(argument: str) -> bool:
    return argument.startswith("-") and _SECRET_OPTION.search(argument) is not None


def hide_home(text: str) -> str:
    """The text with the home folder, which holds the user's name, as `~`."""
    home = os.environ.get("HOME") or os.environ.get("USERPROFILE") or ""
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if len(home) > 1 else text


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    # Untracked files are left out: the runs themselves usually lie in the checkout.
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    """Asks git, without taking its lock; None where it is missing, slow or has no answer."""
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip()


def _cpu_model() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or None


def _usable_cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _gpus() -> list[dict[str, Any]]:
    import torch

    if torch.cuda.is_available():
        devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in devices]
    if torch.backends.mps.is_available():
        return [{"name": "Apple GPU", "memory_bytes": None}]  # it shares the CPU's
    return []
