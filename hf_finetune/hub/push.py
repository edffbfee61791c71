"""Pushes a run to the Hub as one commit, tries again where that may help, and never loses the run.

Place: the verb `push`, and the corridor once a run has finished.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import UserError
from hf_finetune.hub import MAIN, HubError, HubOptions
from hf_finetune.hub.access import check_access, explain, network_errors, persist, quiet_hub
from hf_finetune.hub.card import MARKER
from hf_finetune.hub.contents import fill_folder
from hf_finetune.hub.record import read_record, read_settings
from hf_finetune.runs.run_dir import RunDir, load_run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_finetune.config import RunConfig

# Of an earlier push: wrong, or dangerous, beside new weights.
_STALE = (
    *("model*.safetensors", "model.safetensors.index.json", "pytorch_model*", "training_args.bin"),
    *("curves.png", "confusion_matrix.png", "metrics.json"),
)
CARD = "README.md"
_SHOWN = 3


@dataclass(frozen=True)
class Pushed:
    """Where a run lies on the Hub.

    Attributes:
        repo_id: `owner/name`.
        revision: Branch.
        commit: The branch's commit after the push.
        url: The repository's page.
        keeps_card: Whether the repository has a card of somebody's own, which was left as it is.
        license: Of the weights, as the card names it; None where nobody has said.
        removed: Files of older weights or of an earlier push that were taken out.
    """

    repo_id: str
    revision: str
    commit: str
    url: str
    keeps_card: bool
    license: str | None = None
    removed: tuple[str, ...] = ()


def check_hub(config: RunConfig) -> None:
    """Makes sure, before a run is trained, that it can be pushed where its configuration says.

    Raises:
        HubError: It can't; or it would push adapters that are merged at the end only.
    """
    hub = config.hub
    if hub.repo_id is None or os.environ.get("RANK", "0") != "0":  # one process asks for all
        return
    if hub.when != "end" and getattr(config.model, "lora", None) is not None:
        raise HubError(
            f"hub.when: {hub.when!r} would push checkpoints, and with model.lora these hold the "
            "adapters apart from the weights, which no other program opens as a model; they become "
            "one when training has ended. Write hub.when: end"
        )
    with quiet_hub(show_bars=False):
        check_access(hub.repo_id, private=hub.private, revision=hub.revision)


def refuse_pushes(config: RunConfig, what: str) -> None:
    """Refuses to push several runs over each other.

    Args:
        config: Theirs.
        what: What makes several runs of it, for the message.

    Raises:
        HubError: The configuration names a repository.
    """
    if config.hub.repo_id is not None:
        raise HubError(
            f"hub.repo_id: {what} makes several runs, and each would be pushed over the one before "
            f"it. Leave it out (hub.repo_id=null), and push the one that you choose: "
            f"hf-finetune push RUN --repo-id {config.hub.repo_id}"
        )


def push_run(
    path: str | Path,
    repo_id: str | None = None,
    *,
    revision: str | None = None,
    private: bool | None = None,
    model_license: str | None = None,
    options: HubOptions | None = None,
    show_bars: bool = False,
) -> Pushed:
    """Pushes a finished run: weights, processor, settings, card, curves, confusion matrix.

    Pushing twice changes nothing. What the Hub holds of other names is left alone.

    Args:
        path: Run directory, or the folder of a run's name: its newest finished run.
        repo_id: `owner/name`; by default that of the run's configuration.
        revision: Branch; by default that of the configuration, or `main`.
        private: Whether a repository that is made here is private; by default as configured.
        model_license: As the Hub calls it, for the card; by default as configured.
        options: Instead of all of these, and of what the run's config.yaml says.
        show_bars: Show the progress of uploads.

    Raises:
        UserError: There is no such run, it hasn't finished, or the Hub refuses. The message of a
            push that failed ends with the command that repeats it.
    """
    run = load_run(path)
    if run.status["status"] != "finished" or not run.model.is_dir():
        raise HubError(
            f"{run.path}: the run hasn't finished; its status is {run.status['status']}. "
            f"Go on with it: {shlex.join(['hf-finetune', 'train', '--resume', str(run.path)])}"
        )
    given = {
        "repo_id": repo_id,
        "revision": revision,
        "private": private,
        "license": model_license,
    }
    options = options or _read_options(run, given)
    if options.repo_id is None:
        raise HubError(
            f"{run.path}: its configuration names no repository. Name one: "
            f"{shlex.join(['hf-finetune', 'push', str(run.path)])} --repo-id OWNER/NAME"
        )
    try:
        with quiet_hub(show_bars):
            check_access(
                options.repo_id,
                private=options.private,
                revision=options.revision,
                where="--repo-id" if repo_id else "hub.repo_id",
            )
            pushed = _push(run, options)
    except (HubError, OSError) as error:
        again = command_to_push(run.path, options)
        raise HubError(f"{error}\nThe run is whole in {run.path}. Push it with: {again}") from error
    _keep_place(run, pushed)
    return pushed


def _keep_place(run: RunDir, pushed: Pushed) -> None:
    """Notes in the run's record where it lies, unless that can't be written."""
    facts = {"repo_id": pushed.repo_id, "revision": pushed.revision, "commit": pushed.commit}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        run.set_status(run.status["status"], hub={**facts, "pushed": now})
    except OSError as error:  # somebody else's run, or an archive: it can be pushed all the same
        print(
            f"warning: {run.path}: the run is pushed, but its run.json can't be written "
            f"({error.strerror}), and doesn't say so",
            file=sys.stderr,
        )


def _read_options(run: RunDir, given: Mapping[str, object]) -> HubOptions:
    """The run's own options, with what is given laid over them."""
    from pydantic import ValidationError

    written = read_settings(run).get("hub") or {}  # perhaps by another version
    known = {key: value for key, value in written.items() if key in HubOptions.model_fields}
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        return HubOptions.model_validate({**known, **changes})
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0]).replace("_", "-")
        told = str(fault.get("ctx", {}).get("error", fault["msg"]))
        raise UserError(f"--{name}: {told}.") from None


def _push(run: RunDir, options: HubOptions) -> Pushed:
    """Fills a folder with what is pushed, and uploads it."""
    from hf_finetune.models import load_classifier

    with TemporaryDirectory() as made:
        folder = Path(made)
        fill_folder(
            folder,
            read_record(run),
            load_classifier(run.model),
            run.model,
            options,
        )
        return upload(folder, options, f"{run.title}, as it came out")


def upload(folder: Path, options: HubOptions, message: str) -> Pushed:
    """Makes a folder's files those of a branch, in one commit; files of other names stay.

    Args:
        folder: The files.
        options: Where they go.
        message: The commit's.

    Raises:
        HubError: The Hub can't be reached or refuses, also after several tries.
    """
    from huggingface_hub import HfApi

    repo_id, revision = str(options.repo_id), options.revision or MAIN
    api = HfApi()
    try:
        there = persist(lambda: api.list_repo_files(repo_id, revision=revision))
        keeps_card = CARD in there and is_own_card(read_card(api, repo_id, revision))
        kept = {CARD} if keeps_card else set()
        files = [file for file in sorted(folder.iterdir()) if file.name not in kept]
        commit, removed = persist(lambda: _commit(api, repo_id, revision, files, message))
    except network_errors() as error:
        raise HubError(f"{repo_id!r} {explain(error)}") from error
    except ValueError as error:  # what the Hub's client raises of a card that the Hub refuses
        raise HubError(f"{repo_id!r} is refused by the Hub: {error}") from error
    url = f"{api.endpoint}/{repo_id}"
    return Pushed(repo_id, revision, commit, url, keeps_card, options.license, removed)


def _commit(
    api: HfApi, repo_id: str, revision: str, files: list[Path], message: str
) -> tuple[str, tuple[str, ...]]:
    """Commits files; what hasn't changed is not sent, and without any change there is no commit.

    Returns:
        The branch's commit, and the stale files that were taken out.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = {file.name for file in files}
    found = api.model_info(repo_id, revision=revision)
    there = [file.rfilename for file in found.siblings or ()]
    stale = [
        name
        for name in there
        if name not in names and any(fnmatch(name, pattern) for pattern in _STALE)
    ]
    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file) for file in files
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in stale]
    try:
        info = api.create_commit(
            repo_id,
            operations,
            commit_message=message,
            revision=revision,
            parent_commit=found.sha,  # refused where another push was quicker, and tried again
        )
    except RuntimeError as error:  # what the client makes of an upload that was cut off
        if isinstance(error.__cause__, network_errors()):
            raise error.__cause__ from error
        raise ConnectionError(str(error)) from error
    return str(info.oid), tuple(stale)


def read_card(api: HfApi, repo_id: str, revision: str, repo_type: str = "model") -> str:
    """The card that lies on the Hub."""
    with TemporaryDirectory() as folder:
        path = persist(
            lambda: api.hf_hub_download(
                repo_id, CARD, revision=revision, repo_type=repo_type, local_dir=folder
            )
        )
        return Path(path).read_text(encoding="utf-8")


def is_own_card(text: str) -> bool:
    """Whether a card is a text of somebody's own; metadata alone are none."""
    body = text[4:].partition("\n---")[2] if text.startswith("---\n") else text
    return MARKER not in text and bool(body.strip())


def command_to_push(run: Path, options: HubOptions) -> str:
    """What to type to push a run where these options say."""
    from hf_finetune.console import find_command

    words = ["push", str(run), "--repo-id", str(options.repo_id)]
    words += ["--revision", options.revision] if options.revision else []
    words += [] if options.private else ["--no-private"]
    words += ["--license", options.license] if options.license else []
    return f"{find_command()} {shlex.join(words)}"


def push_finished(run: RunDir, config: RunConfig, quiet: bool = False) -> None:
    """Pushes a run that has just finished, where its configuration asks for it.

    A push that fails is said and kept in the run's record; the run is what it is without it.
    """
    if config.hub.repo_id is None:
        return
    try:
        # Not by config.yaml: a run that was resumed may be pushed elsewhere than it says.
        show_bars = not quiet and sys.stderr.isatty()
        pushed = push_run(run.path, options=config.hub, show_bars=show_bars)
    except UserError as error:
        run.warn(f"not pushed: {error}")
        return
    if not quiet:
        print(describe_push(pushed))


def describe_push(pushed: Pushed) -> str:
    """Where the run is now, in a line or two."""
    branch = "" if pushed.revision == MAIN else f", branch {pushed.revision}"
    lines = [f"pushed to       {pushed.url} (commit {pushed.commit[:7]}{branch})"]
    if pushed.removed:
        shown = ", ".join(pushed.removed[:_SHOWN]) + ", …" * (len(pushed.removed) > _SHOWN)
        lines.append(f"taken out       {shown}: of older weights or an earlier push")
    if pushed.keeps_card:
        lines.append(
            "the model card  is a text of your own, and was left as it is; delete README.md there "
            "and push again for a fresh one"
        )
    elif pushed.license is None:
        lines.append(
            "the model card  names no license; say which with hub.license, or push again with "
            "--license, such as apache-2.0"
        )
    return "\n".join(lines)
