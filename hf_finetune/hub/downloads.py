"""Says in plain words why the Hub doesn't give what a configuration names.

Place: around whatever downloads a checkpoint (`models.checkpoint_source`) or a data set
(`data.hub_source`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hf_finetune.errors import UserError


@dataclass(frozen=True)
class Wanted:
    """What is to be had from the Hub.

    Attributes:
        name: `owner/name`, as given.
        revision: Branch, tag or commit; None is the main branch.
        kind: `checkpoint` or `data set`.
        key: What names it in the configuration: `model.checkpoint`.
        revision_key: What names its revision there.
        example: A name that is right.
    """

    name: str
    revision: str | None
    kind: str
    key: str
    revision_key: str
    example: str

    @property
    def said(self) -> str:
        """How messages begin."""
        return f"{self.key}: {self.name!r}"

    def say_gated(self) -> str:
        """That its owners must give access."""
        return (
            f"{self.said} is gated: its owners give access on request. Ask for it on the "
            f"{self.kind}'s page of the Hub, then log in here with: hf auth login"
        )


@contextmanager
def explained(wanted: Wanted, failure: type[UserError]) -> Iterator[None]:
    """Turns a refusal of the Hub's client into the caller's error.

    Raises:
        UserError: Of the class `failure`: the name or the revision is unknown, the owners must give
            access, or it is not on this machine and the Hub can't be reached.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    said = wanted.said
    try:
        yield
    except HFValidationError as error:
        raise failure(
            f"{said} is neither a folder nor a name of the Hub. Write owner/name, such as "
            f"{wanted.example}, or a folder."
        ) from error
    except GatedRepoError as error:
        raise failure(wanted.say_gated()) from error
    except RepositoryNotFoundError as error:
        raise failure(
            f"{said} is no {wanted.kind} of the Hub, or is private. Check the spelling "
            "(owner/name); for a private one, log in with: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise failure(
            f"{wanted.revision_key}: {wanted.name!r} has no revision {wanted.revision!r}. Name a "
            "branch, a tag or a commit of it, or leave it out for the main branch."
        ) from error
    except LocalEntryNotFoundError as error:
        raise failure(f"{said} {_explain_absence(wanted.kind)}") from error
    except HfHubHTTPError as error:
        raise failure(f"{said} {_explain_refusal(error.response.status_code)}") from error


def _explain_absence(kind: str) -> str:
    """Why it isn't in the cache and couldn't be downloaded, and what to do."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return (
            "is not on this machine, and HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE "
            "and run once with a network (the files are kept), or name a local folder."
        )
    return (
        "is not on this machine, and the Hub can't be reached. Try again with a network, or copy "
        f"the {kind} from elsewhere and name its folder."
    )


def _explain_refusal(status: int) -> str:
    if status in (401, 403):
        return f"is refused by the Hub (status {status}). Log in again with: hf auth login"
    return f"can't be had: the Hub answers with status {status}. Try again later."
