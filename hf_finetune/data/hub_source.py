"""Opens a data set of the Hugging Face Hub or of a local folder, or says why it can't be had.

`hub` makes splits of what is opened here; `datasets` reads it, without running any of its code.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
from datasets import Dataset, DatasetDict

from hf_finetune.errors import DataError

_CONFIGS = re.compile(r"(?:Available|available configs|in the cache): \[?([^\[\]]*?)(?:\]|Please)")


def open_data_set(
    repo_id: str, revision: str | None, config_name: str | None
) -> dict[str, Dataset]:
    """The splits of a data set; what lies on the Hub is downloaded, or taken from the cache.

    Args:
        repo_id: `owner/name` on the Hub, or a folder: such a repository's copy, or what
            `save_to_disk` wrote.
        revision: Branch, tag or commit on the Hub; None is its main branch.
        config_name: Which configuration, where there are several.

    Raises:
        DataError: It is not there, not allowed, can't be reached or can't be read.
    """
    folder = Path(repo_id).expanduser()
    with _quiet_datasets():
        if folder.is_dir():
            return _open_folder(folder, repo_id, revision, config_name)
        if repo_id.startswith((".", "/", "~")) or repo_id.count("/") != 1:
            raise DataError(
                f"data.repo_id: there is no folder {repo_id!r} (looked for from {Path.cwd()}), and "
                "it is no name of the Hub. Write owner/name, such as ylecun/mnist, or a folder."
            )
        commit = _find_commit(repo_id, revision)
        splits = _load(f"data.repo_id: {repo_id!r}", repo_id, config_name, commit)
    _check_commit(repo_id, revision, commit, splits)
    return splits


def _open_folder(
    folder: Path, repo_id: str, revision: str | None, config_name: str | None
) -> dict[str, Dataset]:
    if revision is not None:
        raise DataError(
            f"data.revision: {repo_id!r} is a folder, which has no revisions. Leave it out, or "
            "name a data set of the Hub."
        )
    where = f"data.repo_id: {repo_id!r}"
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with _explained(where):
            saved = datasets.load_from_disk(str(folder))
        return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    return _load(where, str(folder.resolve()), config_name, None)


def _load(where: str, path: str, config_name: str | None, commit: str | None) -> dict[str, Dataset]:
    with _explained(where):
        return dict(datasets.load_dataset(path, name=config_name, revision=commit))


def _find_commit(repo_id: str, revision: str | None) -> str:
    """The commit that a revision is now, or (without a network) was when it was last seen.

    Raises:
        DataError: There is no such data set or revision, or it isn't known on this machine.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from hf_finetune.hub.access import quiet_hub

    where = f"data.repo_id: {repo_id!r}"
    try:
        with quiet_hub(show_bars=False):
            card = snapshot_download(
                repo_id, repo_type="dataset", revision=revision, allow_patterns=["README.md"]
            )
    except HFValidationError as error:
        raise DataError(
            f"{where} is neither a folder nor a name of the Hub. Write owner/name, such as "
            "ylecun/mnist, or a folder."
        ) from error
    except GatedRepoError as error:
        raise DataError(_say_gated(where)) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{where} is no data set of the Hub, or is private. Check the spelling (owner/name); "
            "for a private one, log in with: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"data.revision: {repo_id!r} has no revision {revision!r}. Name a branch, a tag or a "
            "commit of it, or leave it out for the main branch."
        ) from error
    except LocalEntryNotFoundError as error:
        raise DataError(f"{where} {_explain_absence()}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = "Log in again with: hf auth login" if status in (401, 403) else "Try again later."
        raise DataError(f"{where}: the Hub answers with status {status}. {advice}") from error
    return Path(card).name


def _say_gated(where: str) -> str:
    return (
        f"{where} is gated: its owners give access on request. Ask for it on the data set's page "
        "of the Hub, then log in here with: hf auth login"
    )


def _explain_absence() -> str:
    """Why a data set isn't in the cache and couldn't be downloaded, and what to do."""
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        return (
            "is not on this machine, and HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE "
            "and run once with a network (the files are kept), or name a local folder."
        )
    return (
        "is not on this machine, and the Hub can't be reached. Try again with a network, or copy "
        "the data set from elsewhere and name its folder."
    )


def _check_commit(
    repo_id: str, revision: str | None, commit: str, splits: dict[str, Dataset]
) -> None:
    """Without a network `datasets` takes the newest copy that it has, of whatever revision."""
    files = [Path(file["filename"]) for split in splits.values() for file in split.cache_files]
    if any(commit not in file.parts for file in files):
        raise DataError(
            f"data.revision: of {repo_id!r} this machine has another revision than "
            f"{revision or 'main'} (commit {commit[:7]}), which can't be had from the Hub now. Run "
            "once with a network and access to it."
        )


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turns whatever `datasets` raises at a data set that it can't read into a DataError."""
    try:
        yield
    except (KeyboardInterrupt, DataError):
        raise
    except Exception as error:  # its readers raise whatever a data set leads them to
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(_explain(where, text)) from error


def _explain(where: str, text: str) -> str:
    configs = _CONFIGS.search(text)
    if configs:
        names = configs[1].replace("'", "").strip()
        return f"{where} has the configurations {names}. Name one in data.config_name."
    if "gated" in text:
        return _say_gated(where)
    if "torchcodec" in text:
        return (
            f"{where} holds its clips as single files, which datasets opens only with torchcodec. "
            "Download it (hf download --repo-type dataset) and read its folder with data.name: "
            "audio_folder, or install torchcodec beside a system FFmpeg (pip install "
            "'torchcodec==0.13.*')."
        )
    if "scripts are no longer supported" in text:
        return (
            f"{where} is a program (a loading script), which is not run. Take a copy of it as "
            "parquet: many have one in the revision refs/convert/parquet (data.revision)."
        )
    return f"{where} can't be read as a data set ({text.rstrip('.')})."


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Keeps the library's remarks off the terminal, and its bars out of files."""
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
