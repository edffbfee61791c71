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
from hf_finetune.hub.downloads import Wanted, explained

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
    wanted = Wanted(
        repo_id,
        revision,
        kind="data set",
        key="data.repo_id",
        revision_key="data.revision",
        example="ylecun/mnist",
    )
    with _quiet_datasets():
        if folder.is_dir():
            return _open_folder(folder, wanted, config_name)
        if repo_id.startswith((".", "/", "~")) or repo_id.count("/") != 1:
            raise DataError(
                f"data.repo_id: there is no folder {repo_id!r} (looked for from {Path.cwd()}), and "
                "it is no name of the Hub. Write owner/name, such as ylecun/mnist, or a folder."
            )
        commit = _find_commit(wanted)
        splits = _load(wanted, repo_id, config_name, commit)
    _check_commit(repo_id, revision, commit, splits)
    return splits


def _open_folder(folder: Path, wanted: Wanted, config_name: str | None) -> dict[str, Dataset]:
    if wanted.revision is not None:
        raise DataError(
            f"data.revision: {wanted.name!r} is a folder, which has no revisions. Leave it out, or "
            "name a data set of the Hub."
        )
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        with _as_data_error(wanted):
            saved = datasets.load_from_disk(str(folder))
        return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}
    return _load(wanted, str(folder.resolve()), config_name, None)


def _load(
    wanted: Wanted, path: str, config_name: str | None, commit: str | None
) -> dict[str, Dataset]:
    with _as_data_error(wanted):
        return dict(datasets.load_dataset(path, name=config_name, revision=commit))


def _find_commit(wanted: Wanted) -> str:
    """The commit that a revision is now, or (without a network) was when it was last seen.

    Raises:
        DataError: There is no such data set or revision, or it isn't known on this machine.
    """
    from huggingface_hub import snapshot_download

    from hf_finetune.hub.access import quiet_hub

    with explained(wanted, DataError), quiet_hub(show_bars=False):
        card = snapshot_download(
            wanted.name,
            repo_type="dataset",
            revision=wanted.revision,
            allow_patterns=["README.md"],
        )
    return Path(card).name


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
def _as_data_error(wanted: Wanted) -> Iterator[None]:
    """Turns whatever `datasets` raises at a data set that it can't read into a DataError."""
    try:
        yield
    except (KeyboardInterrupt, DataError):
        raise
    except Exception as error:  # its readers raise whatever a data set leads them to
        text = " ".join(str(error.__cause__ or error).split())
        raise DataError(_explain(wanted, text)) from error


def _explain(wanted: Wanted, text: str) -> str:
    where = wanted.said
    configs = _CONFIGS.search(text)
    if configs:
        names = configs[1].replace("'", "").strip()
        return f"{where} has the configurations {names}. Name one in data.config_name."
    if "gated" in text:
        return wanted.say_gated()
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
