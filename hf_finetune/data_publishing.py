"""Publishes the data set of a configuration: as a folder, or pushed to the Hugging Face Hub.

Place: behind the verb `push-data`. What is written here, `data.name: hub` reads back with the same
ids, classes, group keys, pixels or samples, and splits.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from hf_finetune.config import RunConfig
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.parquet_files import FOLDER
from hf_finetune.errors import UserError
from hf_finetune.hub import MAIN, HubError, is_repo_id

if TYPE_CHECKING:
    from hf_finetune.data_card import CardFacts

# What a push calls its files, here as with the datasets library.
_PUSHED = re.compile(rf"{FOLDER}/(?:train|validation|test)-[0-9]{{5}}-of-[0-9]{{5}}\.parquet")
_SHOWN = 3
_OWN_CARD = (
    "its card is a text of your own, and was left as it is but for what its head says of the files;"
    " delete README.md there and push again for a fresh one"
)


@dataclass(frozen=True)
class Publication:
    """Where a data set goes, and what its card says.

    Attributes:
        repo_id: `owner/name` on the Hub, or None.
        folder: A new folder on this machine, or None.
        private: Whether a repository that is made is private; None is yes.
        revision: Branch to push to; None is `main`.
        license: As the Hub calls it (`cc-by-4.0`).
        languages: ISO 639 codes of what is spoken or written in it.
        command: What to type to do the same again, for messages.
    """

    repo_id: str | None = None
    folder: Path | None = None
    private: bool | None = None
    revision: str | None = None
    license: str | None = None
    languages: Sequence[str] = ()
    command: str = "hf-finetune push-data"


def publish_data(config: RunConfig, publication: Publication) -> str:
    """Writes the data set with its splits and a card, and pushes it where a repository is named.

    Args:
        config: A configuration; its `data` section is what is published.
        publication: Where to, and how.

    Returns:
        What was done, for people.

    Raises:
        UserError: There is nowhere to publish to, the folder isn't new, the data is faulty, or the
            Hub refuses; the message ends with the command to repeat.
    """
    _check(publication)
    if publication.repo_id is not None:
        _check_rights(publication)
    data = load_data(config.data)
    with ExitStack() as stack:
        if publication.folder is not None:
            written = publication.folder
        else:
            written = Path(stack.enter_context(TemporaryDirectory(prefix="push-data-"))) / "data"
        section = _make_section(config, data, publication)
        write_folder(data, written, _card_facts(config, section, publication))
        size = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
        lines = [f"{written}: written"] if publication.folder is not None else []
        if publication.repo_id is not None:
            keeps_card = _keep_own_card(written, publication)
            lines += _push(written, publication)
            lines += [_OWN_CARD] * keeps_card
    counts = ", ".join(f"{name} {len(split):,}" for name, split in data.splits.items())
    lines.append(f"examples: {counts}; {size / 1e6:,.1f} MB")
    unused = sum(map(len, data.unused))
    if unused or data.skipped:
        left = [f"{unused:,} rows that are in no split"] * bool(unused)
        left += [f"{len(data.skipped):,} bad examples"] * bool(data.skipped)
        lines.append(f"left out: {' and '.join(left)}")
    lines += [f"warning: {text}" for text in data.warnings]
    if publication.license is None and _OWN_CARD not in lines:
        lines.append("its card names no license; say which with --license, such as cc-by-4.0")
    return "\n".join([*lines, f"read it with: {_format_section(section)}"])


def _check(publication: Publication) -> None:
    """Stops at what can't be meant, before anything is read."""
    repo_id, folder = publication.repo_id, publication.folder
    if repo_id is None and folder is None:
        raise UserError(
            "push-data: there is nowhere to publish to. Name a repository of the Hub with "
            "--repo-id owner/name, a new folder with --to DIR, or both."
        )
    if repo_id is None and (publication.private is not None or publication.revision is not None):
        flag = {None: "--revision", True: "--private", False: "--no-private"}[publication.private]
        raise UserError(f"{flag}: it is for a repository of the Hub. Name one with --repo-id.")
    if repo_id is not None and not is_repo_id(repo_id):
        raise UserError(
            f"--repo-id: must be owner/name (letters, digits, '-', '_' and '.'), got {repo_id!r}. "
            "Give the name that the repository has, or is to have, on the Hub."
        )
    if folder is not None and folder.exists() and not (folder.is_dir() and _is_empty(folder)):
        raise UserError(
            f"--to: {str(folder)!r} is there already, and nothing is overwritten. Name a new "
            "folder, or remove this one."
        )


def _is_empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _check_rights(publication: Publication) -> None:
    """Makes sure, before the data is read, that it can be pushed; makes the repository."""
    from huggingface_hub import is_offline_mode

    from hf_finetune.hub.access import check_access, quiet_hub

    if is_offline_mode():
        raise HubError(
            f"--repo-id: {publication.repo_id!r} can't be written to, since HF_HUB_OFFLINE forbids "
            f"the network. Unset it and type again: {publication.command}"
        )
    try:
        with quiet_hub(show_bars=False):
            check_access(
                str(publication.repo_id),
                private=publication.private is not False,
                revision=publication.revision,
                repo_type="dataset",
                where="--repo-id",
            )
    except HubError as error:
        raise HubError(_add_command(str(error), publication)) from error


def _add_command(told: str, publication: Publication) -> str:
    return f"{told.removesuffix('.')}; then type again: {publication.command}"


def write_folder(data: LoadedData, folder: Path, facts: CardFacts) -> None:
    """Writes parquet files and a card, whole or not at all.

    Args:
        data: The data set.
        folder: A new folder.
        facts: What the card says beyond the data.

    Raises:
        UserError: The folder can't be written, or a file of the data can't be read any more.
    """
    from hf_finetune.data.parquet_files import write_split
    from hf_finetune.data_card import write_card

    target = folder.absolute()
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        written = {name: write_split(one, name, unfinished) for name, one in data.splits.items()}
        card = write_card(data, written, facts)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        if target.is_dir():
            target.rmdir()
        unfinished.rename(target)
    except OSError as error:
        raise UserError(
            f"--to: {str(folder)!r} can't be written ({error.strerror}). Name a folder on a disk "
            "with room for the data set, or set TMPDIR to one where only --repo-id is given."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _card_facts(config: RunConfig, section: dict[str, Any], publication: Publication) -> CardFacts:
    from hf_finetune.data_card import CardFacts
    from hf_finetune.hub.metadata import find_data_facts

    known = find_data_facts({"data": config.data.model_dump()})
    folder = publication.folder or Path()
    # A folder may be copied anywhere: its card doesn't say where it lay.
    name = publication.repo_id or folder.absolute().name
    return CardFacts(
        title=name.rpartition("/")[2],
        license=publication.license,
        languages=publication.languages or known.languages,
        origin=known.title,
        section={**section, "repo_id": name},
    )


def _make_section(config: RunConfig, data: LoadedData, publication: Publication) -> dict[str, Any]:
    """The `data` section that reads the same rows, keys, pixels and splits back."""
    from hf_finetune.data.division import key_columns

    section: dict[str, Any] = {
        "name": "hub",
        "repo_id": publication.repo_id or str(publication.folder),
    }
    if publication.revision is not None:
        section["revision"] = publication.revision
    keys = key_columns(data.splits["train"])
    if keys:
        section["group_columns"] = list(keys)
    if data.image_shape is not None:
        color = getattr(config.data, "color", "auto")
        if color != "auto" or data.image_shape.channels == 3:
            section["color"] = "rgb" if data.image_shape.channels == 3 else "grey"
        background = getattr(config.data, "background", "white")
        if background != "white":
            section["background"] = background
    split: dict[str, Any] = {}
    if {*keys} != {*data.group_columns}:
        split["group_by"] = list(data.group_columns) or "none"
    if config.data.split.allow_overlap:
        split["allow_overlap"] = True
    return {**section, "split": split} if split else section


def _format_section(section: dict[str, Any]) -> str:
    text = yaml.safe_dump(
        section, sort_keys=False, default_flow_style=True, width=10**6, allow_unicode=True
    )
    return f"data: {text.strip()}"


def _keep_own_card(folder: Path, publication: Publication) -> bool:
    """Puts the card that lies on the Hub in place of the folder's, where it is somebody's own.

    Of its metadata, those about the files become what the files are: what is wrong there keeps the
    data set from being read.

    Returns:
        Whether it was somebody's own.
    """
    from huggingface_hub import HfApi

    from hf_finetune.data_card import renew_metadata
    from hf_finetune.hub.access import network_errors, persist, quiet_hub
    from hf_finetune.hub.push import CARD, is_own_card, read_card

    repo_id, revision = str(publication.repo_id), publication.revision or MAIN
    api = HfApi()
    try:
        with quiet_hub(show_bars=False):
            there = persist(
                lambda: api.list_repo_files(repo_id, revision=revision, repo_type="dataset")
            )
            text = read_card(api, repo_id, revision, "dataset") if CARD in there else ""
            if not text or not is_own_card(text):
                return False
            card = renew_metadata(text, (folder / CARD).read_text(encoding="utf-8"))
    except network_errors() as error:
        raise _refused(error, publication) from error
    except (ValueError, KeyError, yaml.YAMLError) as error:
        raise HubError(
            f"--repo-id: {repo_id!r} has a card of your own whose head can't be read "
            f"({' '.join(str(error).split())}). Mend or delete README.md there; then type again: "
            f"{publication.command}"
        ) from error
    (folder / CARD).write_text(card, encoding="utf-8")
    return True


def _refused(error: Exception, publication: Publication) -> HubError:
    from hf_finetune.hub.access import explain

    told = f"--repo-id: {publication.repo_id!r} {explain(error)}"
    return HubError(_add_command(told, publication))


def _push(folder: Path, publication: Publication) -> list[str]:
    """Makes one commit of the folder; where it can be seen, and what was taken out.

    Files of another number, of a push that made more or fewer of them, are taken out. All else that
    lies there stays, and is nothing to the data set: its card names the files that it reads.
    """
    from huggingface_hub import HfApi

    from hf_finetune.hub.access import network_errors, persist, quiet_hub

    api, repo_id, revision = HfApi(), str(publication.repo_id), publication.revision or MAIN
    own = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    try:
        with quiet_hub(show_bars=sys.stderr.isatty()):
            there = persist(
                lambda: api.list_repo_files(repo_id, revision=revision, repo_type="dataset")
            )
            others = sorted(name for name in there if name.endswith(".parquet") and name not in own)
            stale = [name for name in others if _PUSHED.fullmatch(name)]
            done = persist(
                lambda: api.upload_folder(
                    repo_id=repo_id,
                    repo_type="dataset",
                    folder_path=folder,
                    revision=revision,
                    commit_message="Push a data set with hf_finetune",
                    delete_patterns=stale,
                )
            )
    except network_errors() as error:
        raise _refused(error, publication) from error
    except ValueError as error:  # the Hub doesn't take the card's head
        raise HubError(
            f"--repo-id: {repo_id!r} refuses the card ({' '.join(str(error).split())}). Look at "
            f"--license and --language, then type again: {publication.command}"
        ) from error
    lines = [f"{repo_id}: pushed, commit {done.oid[:7]} of {done.repo_url}"]
    for told, names in (
        ("taken out there, of an earlier push", stale),
        ("left there, and no part of the data set", [n for n in others if n not in stale]),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{told}: {', '.join(names[:_SHOWN])}{more}")
    return lines
