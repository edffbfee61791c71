"""The corridor: a configuration goes in, a trained and measured classifier comes out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.assembly import Workbench, assemble
from hf_finetune.config import RunConfig
from hf_finetune.console import Console, find_command, format_result, format_table
from hf_finetune.engines.checkpoints import find_latest, load_weights, read_progress
from hf_finetune.engines.job import Listener, TrainingJob
from hf_finetune.engines.progress import Progress
from hf_finetune.errors import UserError
from hf_finetune.gallery import BenchGallery
from hf_finetune.hub import check_hub, interim_pushes, push_finished
from hf_finetune.models import merge_adapters
from hf_finetune.planning import plan_run
from hf_finetune.registry import kind
from hf_finetune.runs.results import write_results, write_start
from hf_finetune.runs.run_dir import RunDir, create_run_dir, load_unfinished_run
from hf_finetune.trackers import (
    TrackedRun,
    Trackers,
    check_trackers,
    start_trackers,
    status_after,
)


@dataclass(frozen=True)
class FinetuneResult:
    """What a run came to.

    Attributes:
        run: Its directory.
        metrics: Scores of `validation` and `test` with the best weights, as in metrics.json.
    """

    run: RunDir
    metrics: dict[str, Any]


def finetune(
    config: RunConfig,
    *,
    resume_from: str | Path | None = None,
    quiet: bool = False,
    listeners: tuple[Listener, ...] = (),
) -> FinetuneResult:
    """Trains what a configuration names, chooses by validation, and scores the test split once.

    Args:
        config: The configuration; for a resume, the run's own (`load_run(path).config`).
        resume_from: Run directory of a run that was cut off; it goes on in the same directory.
        quiet: Print nothing.
        listeners: Told of every step and every record, beside the trackers.

    Returns:
        The run directory and its metrics.

    Raises:
        UserError: The data, the model or the run can't be used; the message says what to do.
    """
    check_trackers(config.trackers, config.tracking)
    check_hub(config)
    bench = assemble(config)
    with open_run(bench, resume_from) as (run, checkpoint), interim_pushes(run, bench) as pushes:
        ears = (*listeners, *pushes)
        job, trackers, console = prepare_job(bench, run, checkpoint, ears, quiet)
        with trackers.until_the_end():
            with console:
                progress: Progress = kind("engines", config.train.engine).fit(job)
            if progress.best_weights is not None:
                load_weights(job.model, progress.best_weights)
            merge_adapters(job.model)
            metrics = write_results(run, bench, progress)
            trackers.on_results()
    if not quiet and bench.compute.is_main_process:
        file = "IMAGE.png" if bench.data.audio_shape is None else "CLIP.wav"
        print(f"\n{format_result(run.path, metrics, file)}")
    if bench.compute.is_main_process:
        push_finished(run, config, quiet)
    return FinetuneResult(run, metrics)


@contextmanager
def open_run(
    bench: Workbench, resume_from: str | Path | None
) -> Iterator[tuple[RunDir, Path | None]]:
    """The run directory and the checkpoint to go on from; sees to the run's final status."""
    is_main = bench.compute.is_main_process
    if resume_from is not None:
        run = load_unfinished_run(resume_from)
    else:
        run = RunDir(_share_path(bench))
    with run.locked() if is_main else nullcontext():
        checkpoint = None if resume_from is None else _check_resumable(run, bench)
        yield from _see_through(run, bench, checkpoint)


def _see_through(
    run: RunDir, bench: Workbench, checkpoint: Path | None
) -> Iterator[tuple[RunDir, Path | None]]:
    """Hands the run over once, and writes down how it ended."""
    is_main = bench.compute.is_main_process
    try:
        yield run, checkpoint
    except BaseException as error:
        if is_main:
            run.finish(status_after(error), error=f"{type(error).__name__}: {error}")
        if isinstance(error, KeyboardInterrupt):
            command = f"{find_command()} train --resume {run.path}"
            raise KeyboardInterrupt(f"stopped; go on with: {command}") from None
        raise
    if is_main:
        run.finish("finished")
        run.remove_checkpoints(keep=bench.config.run.keep_checkpoints)


def _share_path(bench: Workbench) -> Path:
    """Makes the run directory on the main process, and tells the others where it is."""
    from accelerate.utils import broadcast_object_list

    if bench.compute.num_processes == 1:
        return create_run_dir(bench.config).path
    bench.compute.make_accelerator()  # starts the process group
    shared = [str(create_run_dir(bench.config).path) if bench.compute.is_main_process else ""]
    broadcast_object_list(shared)
    return Path(shared[0])


def _check_resumable(run: RunDir, bench: Workbench) -> Path | None:
    """The run's last whole checkpoint, if the run may go on from it.

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
    if bench.compute.is_main_process:
        run.set_status("running")
    return find_latest(run.checkpoints)


def prepare_job(
    bench: Workbench,
    run: RunDir,
    checkpoint: Path | None,
    listeners: tuple[Listener, ...],
    quiet: bool,
) -> tuple[TrainingJob, Trackers, AbstractContextManager[object]]:
    """The training job, its trackers, and what prints its progress; prints the plan."""
    job = bench.make_job(checkpoints=run.checkpoints, resume_from=checkpoint)
    if not bench.compute.is_main_process:
        return job.with_listeners(listeners), Trackers({}, run.warn), nullcontext()
    plan = plan_run(bench, job, run.path)
    write_start(run, bench, plan)
    if not quiet:
        print(format_table(plan) + "\n", flush=True)
    config, gallery = bench.config, BenchGallery(bench)
    num_records = read_progress(checkpoint)["num_records"] if checkpoint else 0
    tracked = TrackedRun(run.path, config.tracking, num_records, gallery, run.warn)
    trackers = start_trackers(config.trackers, tracked)
    if quiet:
        return job.with_listeners((trackers, *listeners)), trackers, nullcontext()
    console = Console(job.length.total_steps, run)
    return job.with_listeners((trackers, console, *listeners)), trackers, closing(console)
