"""Trackio: a dashboard on this machine, shown by `trackio show`.

Place: the `trackio` tracker (`pip install 'hf_finetune[trackio]'`). Metrics have the names of the
history; the numbers lie where TRACKIO_DIR says.
"""

from __future__ import annotations

import os
import shlex
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from hf_finetune.trackers import Example, TrackedRun, require_package
from hf_finetune.trackers.continuation import ContinuedTracker
from hf_finetune.trackers.facts import read_others, read_parameters, read_results, title_of
from hf_finetune.trackers.options import TrackingOptions
from hf_finetune.trackers.records import Measured


class TrackioTracker(ContinuedTracker):
    """Logs one run.

    Args:
        run: What to log.
        client: The open run of trackio.
    """

    def __init__(self, run: TrackedRun, client: Any) -> None:
        super().__init__(run, _count_records(run, client))
        self._client = client

    def where(self) -> str | None:
        """What to type; of a dashboard elsewhere its address."""
        address: str | None = self._client.url
        return address or f"trackio show --project {shlex.quote(self.run.options.trackio.project)}"

    def log_start(self) -> None:
        """Logs images or clips as the model gets them."""
        if self.run.gallery is None:
            return
        shown = self.run.gallery.training_examples(self.run.options.trackio.examples)
        media = {f"training/{number:02d}": _media(example) for number, example in enumerate(shown)}
        if media:
            self._client.log(media, step=0)

    def log_record(self, measured: Measured) -> None:
        """Logs the record's metrics, and the epoch that the step belongs to."""
        self._client.log({**measured.metrics, "epoch": measured.epoch}, step=measured.step)

    def on_results(self) -> None:
        """Logs the scores, at the run's last step."""
        results = read_results(self.run.directory)
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
    return TrackioTracker(run, client).begin()


def _count_records(run: TrackedRun, client: Any) -> int:
    """Records that Trackio has; of a dashboard elsewhere, which doesn't tell, those saved."""
    from trackio.sqlite_storage import SQLiteStorage

    if client.url is not None:
        return run.num_records
    logs = SQLiteStorage.get_logs(run.options.trackio.project, client.name)
    return sum("epoch" in log for log in logs)


def _media(example: Example) -> Any:
    import numpy as np
    import trackio

    content = example.content
    if example.sampling_rate_hz is not None:
        # As 16-bit steps: trackio would make every other clip as loud as can be.
        steps = (np.clip(content, -1, 1) * 32767).astype(np.int16)
        return trackio.Audio(steps, example.label, sample_rate=example.sampling_rate_hz)
    colored = np.stack([content] * 3, axis=-1) if content.ndim == 2 else content
    return trackio.Image(colored, caption=example.label)
