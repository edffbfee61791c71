"""A session at a run: holds its directory, from the start or where it was cut off, to the end.

Place: the corridor trains inside it; however the session ends, the run's record says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from hf_finetune.assembly import Workbench
from hf_finetune.engines.checkpoints import find_latest, read_progress
from hf_finetune.errors import TrainingError, UserError
from hf_finetune.runs.resumption import command_to_resume, list_changes
from hf_finetune.runs.run_dir import RunDir, create_run_dir, load_unfinished_run
from hf_finetune.trackers import status_after

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share, a file's limit
# Where torch, which writes its files by itself, fails without a reason; its reader does so, too.
_TORCH_FILES, _TORCH_READER = "inline_container.cc", "PytorchStreamReader"


@contextmanager
def open_run(
    bench: Workbench, resume_from: str | Path | None
) -> Iterator[tuple[RunDir, Path | None]]:
    """The run directory and the checkpoint to go on from; sees to the run's final status.

    Args:
        bench: What the configuration names.
        resume_from: Directory of the run to go on with; None starts a new one.

    Raises:
        UserError: The run can't go on: it has finished, another process is at work on it, or its
            data or a plugin is no longer what it was.
        TrainingError: There is no room for what the run writes.
    """
    is_main = bench.compute.is_main_process
    if resume_from is not None:
        run = load_unfinished_run(resume_from)
    else:
        run = RunDir(_share_path(bench))
    with run.locked() if is_main else nullcontext():
        changes = {} if resume_from is None else list_changes(run, bench.config)
        checkpoint = None
        if resume_from is not None:
            _check_resumable(run, bench)
            checkpoint = find_latest(run.checkpoints)
            if is_main:
                run.go_on(read_progress(checkpoint)["step"] if checkpoint else 0, changes)
        yield from _see_through(run, bench, checkpoint, command_to_resume(run, changes))


def _see_through(
    run: RunDir, bench: Workbench, checkpoint: Path | None, command: str
) -> Iterator[tuple[RunDir, Path | None]]:
    """Hands the run over once, and writes down how it ended; `command` lets it go on."""
    is_main = bench.compute.is_main_process
    try:
        yield run, checkpoint
    except BaseException as error:
        if is_main:
            with suppress(OSError):  # a full disk, perhaps: what went wrong first is what is said
                run.finish(status_after(error), error=f"{type(error).__name__}: {error}")
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None
        reason = _lacks_room(error)
        if reason is not None:
            raise TrainingError(
                f"{run.path}: nothing more can be written there ({reason}), so the run has "
                f"stopped. Make room, and go on from its last checkpoint with: {command}"
            ) from error
        raise
    if is_main:
        run.finish("finished")
        run.remove_checkpoints(keep=bench.config.run.keep_checkpoints)


def _lacks_room(error: BaseException) -> str | None:
    """Why nothing could be written, where it was for want of room."""
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno in _NO_ROOM else None
    text = str(error)
    if isinstance(error, UserError):
        return None
    for number in _NO_ROOM:
        if f"(os error {number})" in text:  # as safetensors says it
            return os.strerror(number)
    return "torch could not" if _TORCH_FILES in text and _TORCH_READER not in text else None


def _share_path(bench: Workbench) -> Path:
    """Makes the run directory on the main process, and tells the others where it is."""
    from accelerate.utils import broadcast_object_list

    if bench.compute.num_processes == 1:
        return create_run_dir(bench.config).path
    bench.compute.make_accelerator()  # starts the process group
    shared = [str(create_run_dir(bench.config).path) if bench.compute.is_main_process else ""]
    broadcast_object_list(shared)
    return Path(shared[0])


def _check_resumable(run: RunDir, bench: Workbench) -> None:
    """Makes sure that the run may go on.

    Raises:
        UserError: The run has finished, or its data or a plugin is no longer what it was.
    """
    if run.status["status"] == "finished":
        raise UserError(f"{run.path}: the run has finished; there is nothing to resume.")
    known = run.status.get("data_fingerprint", bench.data.fingerprint)
    if known != bench.data.fingerprint:
        raise UserError(
            f"{run.path}: the data or its split has changed since the run began (fingerprint "
            f"{known}, now {bench.data.fingerprint}). Start a new run."
        )
    hashes = bench.config.plugin_hashes
    changed = [
        path for path, known in run.status.get("plugins", {}).items() if hashes.get(path) != known
    ]
    if changed:
        raise UserError(
            f"{run.path}: the plugin {changed[0]} has changed since the run began (its SHA-256 is "
            "another). Put back the file as it was, or start a new run."
        )
