"""What a person sees while a run goes on: the plan, a progress bar, a line an epoch, the end."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.progress_bar import progress_bar
from hf_finetune.runs.run_dir import RunDir

if TYPE_CHECKING:
    from torch import Tensor, nn

# The first steps pay for warming up; the estimate counts from the one to the other.
_ESTIMATE_FROM, _ESTIMATE_AT = 5, 15


class Console:
    """Prints a run's progress; a listener of the engines.

    Args:
        total_steps: Optimiser steps of the run.
        run: Keeps the estimated time.
    """

    def __init__(self, total_steps: int, run: RunDir) -> None:
        self._total_steps = total_steps
        self._run = run
        self._first: tuple[int, float] | None = None
        self._bar = progress_bar(total_steps, "training", "step")

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """Moves the bar, and says once how long the run will take."""
        self._bar.update(step - self._bar.n)
        if self._first is None:
            self._first = (step, time.perf_counter())
        elif step == self._first[0] + _ESTIMATE_FROM:
            self._warm = time.perf_counter()
        elif step == self._first[0] + _ESTIMATE_AT:
            per_step = (time.perf_counter() - self._warm) / (_ESTIMATE_AT - _ESTIMATE_FROM)
            seconds = per_step * (self._total_steps - step)
            self._run.set_status("running", estimated_seconds=round(seconds, 1))
            self._say(f"{per_step * 1000:.0f} ms a step: about {_format_seconds(seconds)} to go")

    def on_record(self, record: Mapping[str, float | int | bool]) -> None:
        """Prints a line for each evaluation."""
        if "validation/loss" not in record:
            return
        parts = [
            f"epoch {record['epoch']:<4.4g}",
            f"step {record['step']:<5}",
            f"train loss {record['train/loss_since_evaluation']:.4f}",
            f"validation loss {record['validation/loss']:.4f}",
            f"accuracy {record['validation/accuracy']:7.2%}",
            f"macro-F1 {record['validation/macro_f1']:.4f}",
            f"{record['seconds']:6.1f} s",
            "best" if record["is_best"] else "",
            "stopped early" if record.get("stopped_early") else "",
        ]
        self._say("  ".join(parts).rstrip())

    def _say(self, line: str) -> None:
        self._bar.clear()
        print(line, flush=True)
        self._bar.refresh()

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


def _format_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_table(rows: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def format_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1
) -> str:
    """A table with its header: the first columns are text, the others numbers (to the right)."""
    columns = list(zip(header, *rows, strict=True))
    for place, column in enumerate(columns):
        width = max(map(len, column))
        align = str.ljust if place < text_columns else str.rjust
        columns[place] = tuple(align(cell, width) for cell in column)
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


def format_scores(split: str, scores: Mapping[str, Any]) -> dict[str, str]:
    """Accuracy with its interval, and macro-F1, of one split."""
    low, high = scores["accuracy_interval"]
    return {
        f"{split} accuracy": f"{scores['accuracy']:.2%}  (95 % Wilson interval {low:.2%} to "
        f"{high:.2%}, {scores['num_examples']:,} examples)",
        f"{split} macro-F1": f"{scores['macro_f1']:.4f}",
    }


def format_result(
    run: Path,
    metrics: Mapping[str, Any],
    file: str = "IMAGE.png",
    places: Mapping[str, str] | None = None,
) -> str:
    """The table at the end: what came out, where it lies, and what to type next.

    Args:
        run: The run directory.
        metrics: As in metrics.json.
        file: What stands for a file to predict.
        places: Where the run can be looked at, by tracker.
    """
    validation = metrics["validation"]
    return format_table(
        {
            **format_scores("test", metrics["test"]),
            "validation": f"accuracy {validation['accuracy']:.2%}, macro-F1 "
            f"{validation['macro_f1']:.4f}; it chose the weights of step {metrics['best_step']}",
            "training": f"{metrics['steps']} steps in {metrics['train_seconds']:.1f} s"
            + _format_early_stop(metrics),
            "run directory": str(run),
            **({"curves": str(run / "curves.png")} if (run / "curves.png").exists() else {}),
            **(places or {}),
            "type next": show_command("predict", str(run), file),
        }
    )


def _format_early_stop(metrics: Mapping[str, Any]) -> str:
    early = metrics.get("stopped_early")
    return f"; stopped early, at epoch {early['epoch']:.4g}: {early['reason']}" if early else ""


def show_command(*words: str) -> str:
    """What to type: the command line with these words, quoted where a shell needs it."""
    return f"{find_command()} {shlex.join(words)}"


def find_command() -> str:
    """How this shell reaches the command line: by its name, or by its place in the environment."""
    command = Path(sys.executable).with_name("hf-finetune")
    if shutil.which("hf-finetune") == str(command):
        return "hf-finetune"
    if command.is_relative_to(Path.cwd()):
        command = command.relative_to(Path.cwd())
    return shlex.quote(str(command))
