"""The corridor: a configuration goes in, a trained and measured classifier comes out."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_finetune.assembly import Workbench, assemble
from hf_finetune.config import RunConfig
from hf_finetune.console import Console, format_result, format_table
from hf_finetune.engines.checkpoints import load_weights, read_progress
from hf_finetune.engines.job import Listener, TrainingJob
from hf_finetune.engines.progress import Progress
from hf_finetune.errors import UserError
from hf_finetune.gallery import BenchGallery
from hf_finetune.hub import check_hub, interim_pushes, push_finished
from hf_finetune.models import merge_adapters
from hf_finetune.planning import plan_run
from hf_finetune.registry import kind
from hf_finetune.runs.results import write_results, write_start
from hf_finetune.runs.resumption import command_to_resume, describe_resumption, list_changes
from hf_finetune.runs.run_dir import RunDir, load_unfinished_run
from hf_finetune.runs.session import open_run
from hf_finetune.trackers import TrackedRun, Trackers, check_trackers, start_trackers


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
        config: The configuration; for a resume, the run's own (`load_run(path).config`). What of
            it differs from config.yaml is told in run.json, and changes nothing there.
        resume_from: Run directory of a run that was cut off; it goes on in the same directory.
        quiet: Print nothing.
        listeners: Told of every step and every record, beside the trackers.

    Returns:
        The run directory and its metrics.

    Raises:
        UserError: The data, the model or the run can't be used; the message says what to do.
    """
    _check_outside(config, resume_from)
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
        print(f"\n{format_result(run.path, metrics, file, trackers.places())}")
    if bench.compute.is_main_process:
        push_finished(run, config, quiet)
    return FinetuneResult(run, metrics)


def _check_outside(config: RunConfig, resume_from: str | Path | None) -> None:
    """Makes sure of what lies outside this machine: trackers and Hub.

    Raises:
        UserError: A tracker can't start, or the Hub can't be written to; where a run is to go on,
            the message says how it can do so without.
    """
    checks: dict[str, Callable[[], None]] = {
        "trackers=[jsonl]": lambda: check_trackers(config.trackers, config.tracking),
        "hub.repo_id=null": lambda: check_hub(config),
    }
    for without, check in checks.items():
        try:
            check()
        except UserError as error:
            if resume_from is None:
                raise
            run = load_unfinished_run(resume_from)
            command = f"{command_to_resume(run, list_changes(run, config))} {shlex.quote(without)}"
            raise UserError(f"{error}\nOr let the run go on without: {command}") from error


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
    plan = plan_run(bench, job, run.path, describe_resumption(run))
    write_start(run, bench, plan)
    if not quiet:
        print(format_table(plan) + "\n", flush=True)
    config, gallery = bench.config, BenchGallery(bench)
    num_records = read_progress(checkpoint)["num_records"] if checkpoint else 0
    tracked = TrackedRun(run.path, config.tracking, num_records, gallery, run.warn)
    trackers = start_trackers(config.trackers, tracked)
    places = trackers.places()
    if places:
        run.set_status("running", tracked_at=places)
    if quiet:
        return job.with_listeners((trackers, *listeners)), trackers, nullcontext()
    if places:
        print(format_table(places) + "\n", flush=True)
    console = Console(job.length.total_steps, run)
    return job.with_listeners((trackers, console, *listeners)), trackers, closing(console)
