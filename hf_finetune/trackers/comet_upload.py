"""Sends runs that were recorded offline to Comet, each once.

Place: behind `hf-finetune comet upload`; needs nothing but the run directory. A run without an
archive (it was killed, or had no Comet) gets one first, made of what the directory holds.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.runs.run_dir import RunDir, find_run
from hf_finetune.trackers import TrackedRun
from hf_finetune.trackers.comet import CometTracker
from hf_finetune.trackers.comet_session import (
    NO_KEY,
    find_key,
    find_obstacle,
    import_comet,
    open_session,
)
from hf_finetune.trackers.comet_state import CometState, read_state
from hf_finetune.trackers.jsonl import HISTORY, read_history


def upload_run(path: str | Path) -> str:
    """Sends what Comet doesn't have of a run yet.

    Args:
        path: A run directory, or the folder of a name (its newest finished run).

    Returns:
        One line on what was done.

    Raises:
        UserError: There is no such run, it is still going on, there is no key, or Comet can't be
            reached or doesn't take the run.
    """
    run = find_run(path)
    if run is None:
        raise UserError(f"{path}: there is no run here. Name a run directory such as runs/x/001.")
    key = find_key()
    if key is None:
        raise UserError(f"comet upload: Comet's key is missing. {NO_KEY}.")
    obstacle = find_obstacle()
    if obstacle is not None:
        raise UserError(f"comet upload: {obstacle}. Nothing was sent; try again later.")
    with ExitStack() as stack:
        stack.enter_context(run.locked())
        state = read_state(run.path.resolve())
        if not state.pending and _is_complete(run, state):
            return f"{run.path}: nothing to send, Comet has it"
        if not state.pending:
            state = _write_archive(run)
        for archive in state.pending:
            _send(archive, key)
            sent = datetime.now(UTC).isoformat(timespec="seconds")
            state.update(archives={**state.archives, archive.name: sent})
        state.update(num_records=_count_records(run))
    return f"{run.path}: sent to Comet as experiment {state.experiment_key}"


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


def _send(archive: Path, key: str) -> None:
    """Sends one archive.

    Raises:
        UserError: Comet doesn't take it.
    """
    import_comet()
    from comet_ml.offline import upload_single_offline_experiment

    told = "the reason stands above"
    try:
        is_sent = upload_single_offline_experiment(str(archive), key, force_upload=False)
    except Exception as error:  # its text may hold the key
        is_sent, told = False, type(error).__name__
    if not is_sent:
        raise UserError(
            f"{archive}: Comet didn't take the run ({told}). Nothing is lost: mend the cause (the "
            "key, the workspace), and give the same command again."
        )
