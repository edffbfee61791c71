"""Finds out whether this machine may write to a repository of the Hub, and explains refusals.

Place: before training starts and before each push. Nothing here prints or keeps a token; the Hub's
client finds it where `hf auth login` or HF_TOKEN put it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from hf_finetune.hub import MAIN, HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")

WAITS_SECONDS: tuple[float, ...] = (1, 4, 10)  # before the second, third and fourth try
_LONGEST_WAIT_SECONDS = 60.0
_PASSING = {408, 409, 412, 425, 429, 500, 502, 503, 504}  # what another try may mend


def check_access(
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    repo_type: str = "model",
    where: str = "hub.repo_id",
) -> str:
    """Makes sure of token and rights; makes the repository, and the branch, where they are missing.

    Args:
        repo_id: `owner/name`.
        private: Whether a repository that is made here is private.
        revision: Branch; None is `main`.
        repo_type: `model` or `dataset`.
        where: What names the repository, for messages.

    Returns:
        The name of the user whose token is used.

    Raises:
        HubError: There is no token, it is not valid or may not write there, or the Hub can't be
            reached.
    """
    from huggingface_hub import HfApi, is_offline_mode
    from huggingface_hub.errors import HfHubHTTPError

    said = f"{where}: {repo_id!r}"
    if is_offline_mode():
        raise HubError(
            f"{said} can't be written to, since HF_HUB_OFFLINE forbids the network. Unset it, or "
            f"leave {where} out and push later: hf-finetune push RUN --repo-id {repo_id}"
        )
    api = HfApi()
    user = _check_token(api, said)
    try:
        persist(
            lambda: api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
        )
        _check_write(api, repo_id, repo_type)
        if revision not in (None, MAIN):
            persist(
                lambda: api.create_branch(
                    repo_id, branch=str(revision), repo_type=repo_type, exist_ok=True
                )
            )
    except network_errors() as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (403, 404):
            raise HubError(
                f"{said} can't be written to by {user} (status {status}). Choose a repository of "
                f"your own, such as {user}/{repo_id.partition('/')[2]}, or a token with the right "
                "to write there."
            ) from error
        raise HubError(f"{said} {explain(error)}") from error
    return user


def _check_token(api: HfApi, said: str) -> str:
    """The name of the token's user; the token must be there, valid, and more than a reader's."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        who = persist(api.whoami)
    except LocalTokenNotFoundError:
        raise HubError(
            f"{said} needs a token of the Hub, and there is none here. Log in with: hf auth login"
        ) from None
    except network_errors() as error:
        raise HubError(f"{said} {explain(error)}") from error
    user = str(who.get("name", "unknown"))
    if _role(who) == "read":
        raise HubError(
            f"{said} can't be written to: the token of {user} may only read. Make one that may "
            f"write (Settings, Access Tokens on the Hub), and log in with it: hf auth login"
        )
    return user


def _check_write(api: HfApi, repo_id: str, repo_type: str) -> None:
    """Asks for the right to write, where the Hub knows the question."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        persist(lambda: api.auth_check(repo_id, repo_type=repo_type, write=True))
    except HfHubHTTPError as error:
        if error.response.status_code != 404:  # the repository is there: the question is not known
            raise


def _role(who: dict[str, object]) -> str | None:
    """Kind of the token: read, write, fineGrained."""
    auth = who.get("auth")
    token = auth.get("accessToken") if isinstance(auth, dict) else None
    return token.get("role") if isinstance(token, dict) else None


def network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's client raises where the Hub answers with an error, or not at all."""
    from huggingface_hub.errors import HfHubHTTPError

    # The base of HfHubHTTPError is that of its HTTP library, whichever the installed version uses.
    return (HfHubHTTPError.__bases__[0], OSError, json.JSONDecodeError)


def persist(action: Callable[[], T]) -> T:
    """Does something with the Hub, again after a wait where the failure may pass by itself.

    Raises:
        Exception: As the last try; at once where no other try would help.
    """
    for wait in (*WAITS_SECONDS, None):
        try:
            return action()
        except network_errors() as error:
            if wait is None or not _may_pass(error):
                raise
            time.sleep(_wished_wait(error, wait))
    raise RuntimeError("the last try either returns or raises")


def _may_pass(error: Exception) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    return not isinstance(error, LocalTokenNotFoundError | FileNotFoundError)


def _wished_wait(error: Exception, wait: float) -> float:
    """The wait that the Hub asks for, where it does (Retry-After, in seconds)."""
    response = getattr(error, "response", None)
    wish = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(wish), _LONGEST_WAIT_SECONDS) if wish.isdecimal() else wait


def explain(error: Exception) -> str:
    """Why the Hub didn't do what was asked, and what to do; goes on after the repository's name."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return (
            f"can't be reached: the Hub doesn't answer ({type(error).__name__}). "
            "Try again with a network."
        )
    status = error.response.status_code
    if status == 401:
        return (
            "is refused: the Hub doesn't accept the token (status 401). "
            "Log in again with: hf auth login"
        )
    if status == 403:
        return (
            "is refused: the token has no right to write there (status 403). Take a token that "
            "may write: hf auth login"
        )
    if status == 404:
        return "is not on the Hub, or hidden from this token (status 404). Check the spelling."
    if status in _PASSING:
        return f"can't be had now: the Hub answers with status {status}. Try again later."
    told = f": {error.server_message}" if error.server_message else ""
    return f"is refused by the Hub (status {status}{told}). Mend that, and push again."


@contextmanager
def quiet_hub(show_bars: bool) -> Iterator[None]:
    """No warnings of the Hub's client, and progress bars only where they are wanted."""
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity, without_bars = hub_logging.get_verbosity(), are_progress_bars_disabled()
    hub_logging.set_verbosity(logging.ERROR)
    if not show_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        if not show_bars and not without_bars:
            enable_progress_bars()
