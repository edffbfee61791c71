"""TensorBoard: event files in the run directory, or beside those of other runs.

Place: the `tensorboard` tracker (`pip install 'hf_finetune[tensorboard]'`). Metrics have the names
of the history; `tensorboard --logdir runs` shows every run below a folder.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from hf_finetune.trackers import Example, Record, TrackedRun, Tracker, require_package
from hf_finetune.trackers.facts import (
    list_pictures,
    read_others,
    read_parameters,
    read_results,
    summarise,
)
from hf_finetune.trackers.jsonl import read_history
from hf_finetune.trackers.options import TrackingOptions
from hf_finetune.trackers.records import read_record


class TensorboardTracker(Tracker):
    """Writes one run's event files.

    Args:
        run: What to write.
        writer: torch's `SummaryWriter`.
    """

    def __init__(self, run: TrackedRun, writer: Any) -> None:
        self._run = run
        self._writer = writer
        others = [f"{name}: {value}" for name, value in read_others(run.directory).items()]
        writer.add_text("run", _preformat("\n".join([summarise(run.directory), *others])))
        writer.add_text("config", _preformat((run.directory / "config.yaml").read_text("utf-8")))
        if run.gallery is not None:
            shown = run.gallery.training_examples(run.options.tensorboard.examples)
            for number, example in enumerate(shown):
                self._add_example(f"training/{number:02d}", example)

    def where(self) -> str | None:
        """What to type: it shows the run beside its neighbours."""
        parent = self._run.options.tensorboard.directory
        runs = Path(parent) if parent else self._run.directory.resolve().parent.parent
        near = runs.relative_to(Path.cwd()) if runs.is_relative_to(Path.cwd()) else runs
        return f"tensorboard --logdir {shlex.quote(str(near))}"

    def on_record(self, record: Record) -> None:
        """Writes the record's metrics, and the epoch that the step belongs to."""
        measured = read_record(record)
        for name, value in {**measured.metrics, "epoch": measured.epoch}.items():
            self._writer.add_scalar(name, value, measured.step)

    def on_results(self) -> None:
        """Writes scores, pictures (the confusion matrix among them) and hyperparameters."""
        results = read_results(self._run.directory)
        if results is None:
            return
        for name, value in results.metrics.items():
            step = results.step if name.startswith("test/") else results.best_step
            self._writer.add_scalar(name, value, step)
        for name, path in list_pictures(self._run.directory).items():
            self._add_picture(name, path, results.step)
        scores = {f"hparam/{n}": results.metrics[n] for n in ("test/accuracy", "test/macro_f1")}
        self._add_parameters(scores, results.step)

    def finish(self, status: str, error: str | None = None) -> None:
        """Says how the run ended, and closes the files."""
        self._writer.add_text("status", status if error is None else f"{status}: {error}")
        self._writer.close()

    def _add_parameters(self, scores: dict[str, float], step: int) -> None:
        from torch.utils.tensorboard import summary

        # The writer's own add_hparams opens a second file, after which TensorBoard no longer reads
        # what comes into the first.
        describe: Any = summary.hparams  # untyped
        for part in describe(read_parameters(self._run.directory), scores):
            self._writer.file_writer.add_summary(part, step)
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step)

    def _add_example(self, name: str, example: Example) -> None:
        if example.sampling_rate_hz is None:
            layout = "HW" if example.content.ndim == 2 else "HWC"
            self._writer.add_image(f"{name} {example.label}", example.content, dataformats=layout)
        else:
            clip = example.content[None]
            self._writer.add_audio(
                f"{name} {example.label}", clip, sample_rate=example.sampling_rate_hz
            )

    def _add_picture(self, name: str, path: Path, step: int) -> None:
        import numpy as np
        from PIL import Image

        if path.suffix == ".svg":
            return
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name, pixels, step, dataformats="HWC")


def check(options: TrackingOptions) -> None:
    """Makes sure that the package is there; see `trackers.check_trackers`."""
    require_package("tensorboard", "tensorboard")


def start(run: TrackedRun) -> TensorboardTracker:
    """Opens the run's event files; what a resumed run does again takes the place of the old."""
    from torch.utils import tensorboard

    kept = read_history(run.directory)[: run.num_records]
    last = kept[-1]["step"] if kept else None
    open_writer: Any = tensorboard.SummaryWriter  # untyped
    tracker = TensorboardTracker(run, open_writer(str(_find_folder(run)), purge_step=last))
    for record in kept:  # the purge takes the last step too, of which some is not done again
        if record["step"] == last:
            tracker.on_record(record)
    return tracker


def _find_folder(run: TrackedRun) -> Path:
    directory, parent = run.directory.resolve(), run.options.tensorboard.directory
    if parent is None:
        return directory / "tensorboard"
    return Path(parent) / directory.parent.name / directory.name


def _preformat(text: str) -> str:
    """Text as it stands, in the Markdown that TensorBoard shows."""
    return "\n".join(f"    {line}" for line in text.splitlines())
