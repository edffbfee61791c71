"""Pushes the weights while training goes on, beside it and without ever holding it up.

Place: a listener of the engines on the main process, for `hub.when: best` and `every_save`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from hf_finetune.engines.checkpoints import WEIGHTS
from hf_finetune.errors import UserError
from hf_finetune.hub.access import quiet_hub
from hf_finetune.hub.contents import fill_folder
from hf_finetune.hub.push import upload
from hf_finetune.hub.record import read_record
from hf_finetune.runs.environment import remove_secrets

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_finetune.assembly import Workbench
    from hf_finetune.runs.run_dir import RunDir


@contextmanager
def interim_pushes(run: RunDir, bench: Workbench) -> Iterator[tuple[InterimPushes, ...]]:
    """The listener that pushes while training goes on, where the configuration asks for one."""
    hub = bench.config.hub
    if hub.repo_id is None or hub.when == "end" or not bench.compute.is_main_process:
        yield ()
        return
    pushes = InterimPushes(run, bench)
    try:
        yield (pushes,)
    finally:
        pushes.finish()


class InterimPushes:
    """Pushes the weights of a new best evaluation, or of a checkpoint, as they lie on the disk.

    One push at a time: what comes meanwhile is left out, since a later one replaces it anyway. One
    that fails is a warning of the run, whatever the reason.

    Args:
        run: The run.
        bench: Its model, processor and configuration.
    """

    def __init__(self, run: RunDir, bench: Workbench) -> None:
        self._run, self._bench, self._options = run, bench, bench.config.hub
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._going: tuple[int, Future[None]] | None = None

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """Nothing: weights are pushed at evaluations."""

    def on_record(self, record: Mapping[str, float | int | bool]) -> None:
        """Pushes the weights that an evaluation was made with, where they are due."""
        weights = self._find_weights(record)
        if weights is None or (self._going is not None and not self._going[1].done()):
            return
        self._hear()
        step = int(record["step"])
        try:
            folder = self._fill(weights, record)
        except Exception as error:  # a full disk, say: no reason to stop training
            self._warn(step, error)
        else:
            self._going = (step, self._thread.submit(self._upload, folder, step))

    def _hear(self) -> None:
        """Says what became of the last push; by the thread that trains, which writes the record."""
        if self._going is None:
            return
        step, future = self._going
        self._going, error = None, future.exception()
        if error is not None:
            self._warn(step, error)

    def _warn(self, step: int, error: BaseException) -> None:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self._run.warn(f"step {step} is not pushed: {remove_secrets(told)}")

    def _fill(self, weights: Path, record: Mapping[str, float | int | bool]) -> Path:
        """A folder with what is pushed: the checkpoint may be gone before the upload begins."""
        folder = Path(mkdtemp(prefix="hf_finetune_push_"))
        try:
            fill_folder(
                folder,
                read_record(self._run),
                self._bench.classifier,
                weights,
                self._options,
                record,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _find_weights(self, record: Mapping[str, float | int | bool]) -> Path | None:
        """Folder of the weights that this evaluation is about, if they are to be pushed."""
        if "validation/loss" not in record:
            return None
        checkpoints, step = self._run.checkpoints, record["step"]
        folders = [checkpoints / f"best-{step}"]  # there only where this evaluation was the best
        if self._options.when == "every_save":
            folders.append(checkpoints / f"step-{step}")
        return next((folder for folder in folders if (folder / WEIGHTS).is_file()), None)

    def _upload(self, folder: Path, step: int) -> None:
        try:
            with quiet_hub(show_bars=False):
                upload(folder, self._options, f"{self._run.title}, step {step}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def finish(self) -> None:
        """Waits for the push that is under way; the run's own push comes after it."""
        self._thread.shutdown(wait=True)
        self._hear()
