"""The hub room: a run is pushed to the Hugging Face Hub, and opened from there.

Place: the corridor asks for access before training and pushes after it; the verb `push` does the
same for a run that is there already. The steps stand in files of their own: `access` (token and
rights), `record` (what a run says of itself), `card`, `contents` (the folder that is pushed),
`push`, `interim` (pushes while training goes on) and `location` (a model of the Hub, as a folder).
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from hf_finetune.errors import UserError
from hf_finetune.options import Section

if TYPE_CHECKING:
    from hf_finetune.hub.access import check_access as check_access
    from hf_finetune.hub.interim import interim_pushes as interim_pushes
    from hf_finetune.hub.location import locate_model as locate_model
    from hf_finetune.hub.push import check_hub as check_hub
    from hf_finetune.hub.push import push_finished as push_finished
    from hf_finetune.hub.push import push_run as push_run
    from hf_finetune.hub.push import refuse_pushes as refuse_pushes

_HOMES = {
    "check_access": "access",
    "interim_pushes": "interim",
    "locate_model": "location",
    "check_hub": "push",
    "push_finished": "push",
    "push_run": "push",
    "refuse_pushes": "push",
}
MAIN = "main"
TRAINING_CONFIG = "training_config.yaml"  # what the settings of the run are called there
# Owner and name, as the Hub allows them: letters, digits and single '-', '_', '.' between them.
_REPO_ID = re.compile(r"(?=[^/]{1,96}/[^/]{1,96}$)\w+([.-]\w+)*/\w+([.-]\w+)*", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}")


class HubError(UserError):
    """The Hub can't be reached, or refuses what is asked of it."""


class HubOptions(Section):
    """Where the run is pushed to; without `repo_id` it stays on this machine."""

    repo_id: str | None = None
    """`owner/name` on the Hugging Face Hub. Token and rights are checked before training."""
    private: bool = True
    """Whether a repository that the push makes is private; one that is there stays as it is."""
    when: Literal["end", "best", "every_save"] = "end"
    """Once it has finished; also at each new best evaluation; or also at each checkpoint."""
    revision: str | None = None
    """Branch to push to; made where it is missing. By default `main`."""
    license: str | None = None
    """Of the weights, as the Hub calls it (`apache-2.0`, `cc-by-sa-4.0`); stands on the card."""
    language: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Spoken languages as ISO 639 codes, where the data set doesn't tell; stands on the card."""

    @field_validator("repo_id")
    @classmethod
    def _repository(cls, value: str | None) -> str | None:
        if value is not None and not is_repo_id(value):
            raise ValueError(
                f"must be owner/name (letters, digits, '-', '_' and '.'), got {value!r}. "
                "Give the name of the repository as its page on the Hub shows it"
            )
        return value

    @field_validator("language")
    @classmethod
    def _codes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for code in value:
            if not _LANGUAGE.fullmatch(code):
                raise ValueError(f"must be ISO 639 codes such as en or de, got {code!r}")
        return value


def describe_hub(options: HubOptions) -> str | None:
    """Where a run is pushed to and when, for its plan; None where it isn't."""
    if options.repo_id is None:
        return None
    branch = f" (branch {options.revision})" if options.revision not in (None, MAIN) else ""
    # One that is there stays as it is, which may be public.
    seen = "private if new" if options.private else "public if new"
    when = {
        "end": "at the end",
        "best": "at each new best evaluation and at the end",
        "every_save": "at each checkpoint and at the end",
    }
    return f"{options.repo_id}{branch}, {seen}, {when[options.when]}"


def is_repo_id(text: str) -> bool:
    """Whether a text has the form of a repository's name, `owner/name`."""
    return _REPO_ID.fullmatch(text) is not None and "--" not in text and not text.endswith(".git")


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_finetune.hub' has no attribute {name!r}")
    return getattr(import_module(f"hf_finetune.hub.{_HOMES[name]}"), name)
