"""Trackio: a dashboard on this machine, shown by `trackio show`.

Place: the `trackio` tracker (`pip install 'hf_finetune[trackio]'`). Metrics have the names of the
history; the numbers lie where TRACKIO_DIR says.
"""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from hf_finetune.trackers import Record, TrackedRun, Tracker, require_package
from hf_finetune.trackers.facts import read_others, read_parameters, read_results, title_of
from hf_finetune.trackers.options import TrackingOptions
from hf_finetune.trackers.records import read_record


class TrackioTracker(Tracker):
    """Logs one run.

    Args:
        run: What to log.
        client: The open run of trackio.
    """

    def __init__(self, run: TrackedRun, client: Any) -> None:
        self._run, self._client = run, client
        if run.gallery is None or run.num_records:
            return
        shown = run.gallery.training_examples(run.options.trackio.examples)
        pictures = {
            f"training/{number:02d}": _picture(example.content, example.label)
            for number, example in enumerate(shown)
            if example.sampling_rate_hz is None
        }
        if pictures:
            client.log(pictures, step=0)

    def on_record(self, record: Record) -> None:
        """Logs the record's metrics, and the epoch that the step belongs to."""
        measured = read_record(record)
        self._client.log({**measured.metrics, "epoch": measured.epoch}, step=measured.step)

    def on_results(self) -> None:
        """Logs the scores, at the run's last step."""
        results = read_results(self._run.directory)
        if results is not None:
            self._client.log(dict(results.metrics), step=results.step)

    def finish(self, status: str, error: str | None = None) -> None:
        """Writes what is left."""
        import trackio

        with redirect_stdout(StringIO()):
            trackio.finish()  # not the run's own, which trackio would end again at exit


def check(options: TrackingOptions) -> None:
    """Makes sure that the package is there; see `trackers.check_trackers`."""
    require_package("trackio", "trackio")


def start(run: TrackedRun) -> TrackioTracker:
    """Opens a run of the project; a resumed run goes on in it."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import trackio

    others = read_others(run.directory)
    with redirect_stdout(StringIO()):  # the run's own output says what matters
        client = trackio.init(
            project=run.options.trackio.project,
            # Trackio knows a run by its name alone: the id tells equal names apart.
            name=f"{title_of(run.directory.resolve())} {str(others['run_id'])[:6]}",
            config={**read_parameters(run.directory), **others},
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    return TrackioTracker(run, client)


def _picture(pixels: Any, caption: str) -> Any:
    import numpy as np
    import trackio

    colored = np.stack([pixels] * 3, axis=-1) if pixels.ndim == 2 else pixels
    return trackio.Image(colored, caption=caption)
