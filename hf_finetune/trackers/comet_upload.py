"""Sends runs that were recorded offline to Comet, each once.

Place: behind `hf-finetune comet upload`; needs nothing but the run directory. A run without an
archive (it was killed, or had no Comet) gets one first, made of what the directory holds.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from hf_finetune.errors import UserError
from hf_finetune.runs.environment import hide_home, remove_secrets
from hf_finetune.runs.run_dir import STATUS, RunDir
from hf_finetune.trackers import TrackedRun
from hf_finetune.trackers.comet import CometTracker
from hf_finetune.trackers.comet_client import (
    NO_KEY,
    alone_hearing_losses,
    explain_refusal,
    find_key,
    find_obstacle,
    import_comet,
    only_errors,
)
from hf_finetune.trackers.comet_session import open_session
from hf_finetune.trackers.comet_state import FOLDER, STATE, CometState, is_whole, read_state
from hf_finetune.trackers.jsonl import HISTORY, read_history


@dataclass(frozen=True)
class Destination:
    """Where runs are sent.

    Attributes:
        workspace: In place of the one that the run was recorded for.
        project: Likewise.
    """

    workspace: str | None = None
    project: str | None = None


RECORDED = Destination()


def upload_all(
    places: Sequence[str | Path],
    destination: Destination,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> int:
    """Sends what Comet doesn't have yet of every run that is named; one that fails stops no other.

    Args:
        places: Run directories, folders of runs, archives.
        destination: Where to.
        tell: Told a line for each run.
        warn: Told a line for each that could not be sent.

    Returns:
        How many could not be sent.

    Raises:
        UserError: There is no key, or Comet can't be reached.
    """
    key = _connect()
    num_failures = 0
    for place in places:
        try:
            found = find_uploads(Path(place), tell)
        except UserError as error:
            num_failures += 1
            warn(str(error))
            continue
        for path in found:
            try:
                tell(_upload(path, key, destination))
            except UserError as error:
                num_failures += 1
                warn(str(error))
            except Exception as error:
                num_failures += 1
                told = remove_secrets(f"{type(error).__name__}: {error}")
                warn(f"{path}: can't be sent, its files are damaged ({told}).")
    return num_failures


def upload_run(path: str | Path, destination: Destination = RECORDED) -> str:
    """Sends what Comet doesn't have of a run yet.

    Args:
        path: A run directory, or an offline archive.
        destination: Where to.

    Returns:
        One line on what was done.

    Raises:
        UserError: The run is still going on, there is no key, or Comet can't be reached or doesn't
            take the run.
    """
    return _upload(Path(path), _connect(), destination)


def find_uploads(place: Path, tell: Callable[[str], None]) -> list[Path]:
    """The runs and archives behind a place, in order.

    Args:
        place: A run directory, an archive, or a folder with runs somewhere below.
        tell: Told of runs below a folder that Comet was never meant to have.

    Raises:
        UserError: There are none.
    """
    if place.suffix == ".zip" and place.is_file():
        run = place.resolve().parent.parent
        return [run if _is_run(run) and place.resolve().parent.name == FOLDER else place]
    runs = [place] if _is_run(place) else _search(place)
    if not runs:
        raise UserError(
            f"{place}: there is no run here. Name a run directory such as runs/x/001, a folder "
            "with runs below it, or an archive (.zip)."
        )
    found = [run for run in runs if run == place or (run / STATE).is_file()]
    for run in sorted(set(runs) - set(found)):
        tell(f"{run}: was not recorded for Comet; to send it all the same, name it itself")
    return found


def _is_run(folder: Path) -> bool:
    return (folder / STATUS).is_file()


def _search(place: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, _ in os.walk(place):
        if _is_run(Path(folder)):
            found.append(Path(folder))
            folders.clear()
    return sorted(found)


def _connect() -> str:
    """The key, once Comet is known to be there.

    Raises:
        UserError: There is no key, or Comet can't be reached.
    """
    key = find_key()
    if key is None:
        raise UserError(f"comet upload: Comet's key is missing. {NO_KEY}.")
    obstacle = find_obstacle()
    if obstacle is not None:
        raise UserError(f"comet upload: {obstacle}. Nothing was sent; try again later.")
    return key


def _upload(path: Path, key: str, destination: Destination) -> str:
    if not path.is_dir():
        return _upload_archive(path, key, destination)
    run = RunDir(path)
    with run.locked():
        state = read_state(path.resolve())
        if not state.pending and _is_complete(run, state):
            return f"{path}: nothing to send, Comet has it{_at(state.url)}"
        if not state.pending:
            state = _write_archive(run)
        for archive in state.pending:
            _send(archive, key, destination)
            sent = datetime.now(UTC).isoformat(timespec="seconds")
            state.update(archives={**state.archives, archive.name: sent})
        if run.status["status"] == "failed":
            _mark_crashed(key, state.experiment_key, run.status.get("error", ""))
        state.update(
            num_records=_count_records(run),
            has_start=True,
            url=_find_page(key, state.experiment_key) or state.url,
            workspace=destination.workspace or state.workspace,
            project=destination.project or state.project,
        )
    return f"{path}: sent to Comet as experiment {state.experiment_key}{_at(state.url)}"


def _upload_archive(path: Path, key: str, destination: Destination) -> str:
    """Sends an archive that lies by itself; nothing is known of whether it was sent before."""
    if not is_whole(path):
        raise UserError(f"{path}: is no whole archive of Comet's. Name its run directory.")
    experiment_key = _check_archive(path)["offline_id"]
    _send(path, key, destination)
    page = _at(_find_page(key, experiment_key))
    return f"{path}: sent to Comet as experiment {experiment_key}{page}"


def _read_about(path: Path) -> dict[str, Any]:
    """What an archive says of its experiment."""
    with ZipFile(path) as archive:
        about: dict[str, Any] = json.loads(archive.read("experiment.json"))
    return about


def _check_archive(archive: Path) -> dict[str, Any]:
    """What an archive says of its experiment, once all of it can be read.

    Raises:
        UserError: It is damaged.
    """
    try:
        with ZipFile(archive) as content:
            if content.testzip() is None:
                return _read_about(archive)
    except (OSError, ValueError, BadZipFile, zlib.error):
        pass
    raise UserError(
        f"{archive}: the archive is damaged. Delete it, and name its run directory in this command:"
        " what stands there is packed and sent anew."
    )


def _at(url: str | None) -> str:
    return "" if url is None else f", {url}"


def _is_complete(run: RunDir, state: CometState) -> bool:
    """Whether Comet has every record, and the run's end was told."""
    was_told = state.mode == "online" or any(state.archives.values())
    return was_told and state.num_records >= _count_records(run)


def _count_records(run: RunDir) -> int:
    return len(read_history(run.path)) if (run.path / HISTORY).is_file() else 0


def _write_archive(run: RunDir) -> CometState:
    """Makes an offline archive of what the run directory holds."""
    options = run.config.tracking
    offline = options.comet.model_copy(update={"mode": "offline"})
    options = options.model_copy(update={"comet": offline})
    session = open_session(run.path, offline, lambda _: None)
    if session is None:
        raise UserError(f"{run.path}: COMET_MODE switches Comet off. Unset COMET_MODE.")
    tracker = CometTracker(TrackedRun(run.path, options, _count_records(run)), session)
    tracker.on_results()
    status = run.status["status"]
    # Nobody is at work on it (its lock is free): a run that still says so was killed.
    tracker.finish("killed" if status == "running" else status, run.status.get("error"))
    return session.state


def _send(archive: Path, key: str, destination: Destination) -> None:
    """Sends one archive.

    Raises:
        UserError: Comet doesn't take it, or not all of it.
    """
    import_comet()
    from comet_ml.offline import upload_single_offline_experiment

    about = _check_archive(archive)
    with alone_hearing_losses() as losses:
        try:
            # Where it was recorded for: else comet_ml would take what is set on this machine now.
            is_sent = upload_single_offline_experiment(
                str(archive),
                key,
                force_upload=False,
                override_workspace=destination.workspace or about.get("workspace"),
                override_project_name=destination.project or about.get("project_name"),
            )
        except Exception as error:
            is_sent, losses.told = False, [explain_refusal(error, "it with --workspace NAME")]
    if not is_sent:
        told = losses.told[-1] if losses.told else "Comet doesn't say why"
        raise UserError(
            f"{archive}: Comet didn't take the run. {told.rstrip('.')}, and give the same command "
            "again; nothing is lost."
        )
    if losses.told:
        raise UserError(
            f"{archive}: Comet took the run, but {losses.describe()}. Give the same command again: "
            "all of it is sent anew, and metrics that have arrived then stand there twice."
        )


def _mark_crashed(key: str, experiment_key: str, error: str) -> None:
    """Shows an experiment as crashed; of an archive comet_ml sends no more than the error."""
    from comet_ml.connection.connection_factory import get_rest_api_client

    with suppress(Exception), only_errors(logging.CRITICAL):  # what counts has arrived
        client = get_rest_api_client("v2", api_key=key)
        told = hide_home(remove_secrets(error))
        client.update_experiment_error_status(experiment_key, False, told, has_crashed=True)


def _find_page(key: str, experiment_key: str) -> str | None:
    """The experiment's page; None where Comet doesn't say."""
    try:
        with only_errors(logging.CRITICAL):
            found = import_comet().API(api_key=key).get_experiment_by_key(experiment_key)
        return None if found is None else str(found.url)
    except Exception:  # the run has arrived, which is what counts
        return None
