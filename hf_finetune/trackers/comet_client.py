"""Comet's client with our settings: the key, whether the server answers, and what it refuses.

Place: what opening an experiment, sending an archive and reading a project have in common.
comet_ml is imported when one of them needs it and not before.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

from hf_finetune.runs.environment import hide_home, remove_secrets

_LONGEST = 200  # letters of comet_ml's words on something that it couldn't send
NO_KEY = "Set COMET_API_KEY, or run 'comet login' once"
_PROBE_SECONDS = 3.0
# For comet_ml, which reads them when it needs them; what the user has set stays.
_SETTINGS = {
    "COMET_DISABLE_AUTO_LOGGING": "1",  # patches no library, so that torch may be imported first
    "COMET_ERROR_TRACKING_ENABLE": "false",  # its own crash reports hold the machine's name
    "COMET_LOGGING_CONSOLE": "error",
    # Half a minute is lost to retries otherwise, before a dead network shows.
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_TOTAL": "2",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_CONNECT": "1",
    "COMET_GET_OR_ADD_EXPERIMENT_RETRY_READ": "1",
    # Seconds. A network that swallows everything would hold a finished run for hours otherwise:
    # 3600 for messages, 10800 for files, 900 for an answer. A slow one has its time before; see
    # `Session.close`.
    "COMET_TIMEOUT_CLEANING": "20",
    "COMET_TIMEOUT_UPLOAD": "20",
    "COMET_TIMEOUT_FILE_UPLOAD": "30",
    "COMET_HTTP_SESSION_RETRY_TOTAL": "1",
}


def import_comet() -> Any:
    """comet_ml, with this toolkit's settings."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import comet_ml

    # A heartbeat that isn't heard is no news: what is lost, if anything, the run says at its end.
    logging.getLogger("comet_ml.heartbeat").setLevel(logging.CRITICAL)
    return comet_ml


def find_key() -> str | None:
    """Comet's key, from the environment or Comet's own file; only ever handed to comet_ml."""
    from_environment = os.environ.get("COMET_API_KEY", "").strip()
    if from_environment:
        return from_environment
    os.environ.pop("COMET_API_KEY", None)  # empty, it would hide the key in the file
    key: str | None = import_comet().get_config("comet.api_key")
    return (key or "").strip() or None


def find_setting(name: str) -> str | None:
    """A setting of Comet's, such as `workspace`, from the environment or Comet's own file."""
    found: str | None = import_comet().get_config(f"comet.{name}")
    return (found or "").strip() or None


def server_address() -> str:
    """Address of Comet's server, with a slash at its end."""
    address: str = import_comet().get_config("comet.url_override")
    return address.rstrip("/") + "/"


def find_obstacle() -> str | None:
    """Why Comet's server can't be reached; None where it answers. Takes a few seconds at most."""
    import requests

    address = server_address()
    try:
        answer = requests.get(urljoin(address, "isAlive/ver"), timeout=_PROBE_SECONDS)
        content = answer.json()
    except requests.JSONDecodeError:
        content = None
    except requests.RequestException as error:
        return f"{address} doesn't answer ({type(error).__name__})"
    if answer.status_code == 200 and isinstance(content, dict) and "version" in content:
        return None
    return (
        f"{address} doesn't answer as Comet does (status {answer.status_code}): the network may "
        "want you to sign in, a proxy may stand between, or COMET_URL_OVERRIDE is wrong"
    )


def explain_refusal(error: Exception, setting: str) -> str:
    """Why Comet doesn't take an experiment, and what to do about it.

    Args:
        error: What comet_ml raised; its own text may hold the key, and is never shown.
        setting: What the user writes to name another workspace.
    """
    name = type(error).__name__
    if name == "InvalidAPIKey":
        place = "COMET_API_KEY" if os.environ.get("COMET_API_KEY") else "Comet's configuration file"
        return f"Comet doesn't know the key in {place} ({name}). Correct it there"
    workspace = refused_workspace(error)
    if workspace is not None:
        return f"Comet has no workspace {workspace!r} for this key ({name}). Correct {setting}"
    return f"Comet refused the experiment ({name}). Check the workspace, the project and the key"


def refused_workspace(error: Exception) -> str | None:
    """The workspace, if that is what Comet refused."""
    is_that = type(error).__name__ in ("InvalidWorkspace", "ServiceAccountWorkspaceRestricted")
    return getattr(error, "workspace", None) if is_that else None


class Losses(logging.Handler):
    """Hears what comet_ml couldn't send: it says so in its log, and nowhere else.

    Args:
        strangers: Threads that are not listened to: those of runs before, which may still try.

    Attributes:
        told: A line for each.
    """

    def __init__(self, strangers: frozenset[threading.Thread] = frozenset()) -> None:
        super().__init__(logging.WARNING)
        self.strangers = strangers
        self.told: list[str] = []
        self._key = find_key()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps errors, and what the sender of archives only warns of: a message it can't read."""
        is_loss = record.levelno >= logging.ERROR or record.name == "comet_ml.offline"
        if is_loss and threading.current_thread() not in self.strangers:
            text = hide_home(remove_secrets(record.getMessage())).strip()
            text = text.replace(self._key, "<removed>") if self._key else text
            self.told.append(text.partition("\n")[0][:_LONGEST])

    def describe(self) -> str:
        """How much is missing, and the first of it."""
        count = len(self.told)
        return f"not {count:,} part{'s' * (count != 1)} of it ({self.told[0].rstrip('.')})"


@contextmanager
def alone_hearing_losses() -> Iterator[Losses]:
    """Hears what goes missing, and keeps comet_ml's own reports of it off the console."""
    # Not by their numbers: a new thread may have that of one that has ended.
    there = frozenset(threading.enumerate()) - {threading.current_thread()}
    logger, losses = logging.getLogger("comet_ml"), Losses(there)
    level, handlers = logger.level, logger.handlers[:]
    logger.setLevel(logging.WARNING)
    # A file that the user wants it written to hears all the same.
    logger.handlers[:] = [losses, *(h for h in handlers if isinstance(h, logging.FileHandler))]
    try:
        yield losses
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@contextmanager
def only_errors(level: int = logging.ERROR) -> Iterator[None]:
    """Keeps comet_ml's progress reports off the console: the run says what matters."""
    logger = logging.getLogger("comet_ml")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
