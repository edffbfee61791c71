"""The trackers room: where a run's numbers are sent while it trains; one file a tracker.

Contract of a kind (`hf_finetune/trackers/<name>.py`):
    `start(run) -> Tracker | None` (None where its settings switch it off), and
    `check(options)`, which says before anything is loaded what would keep it from starting;
    where it has modes, `mode_of(options) -> str`.

Only the main process starts trackers. They hear both engines through the same records, and read
all else from the run directory (`trackers.facts`). A tracker that fails is dropped with a warning;
no tracker ends a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hf_finetune.errors import UserError
from hf_finetune.registry import kind
from hf_finetune.trackers.options import TrackingOptions

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Record = Mapping[str, float | int | bool]


@dataclass(frozen=True)
class Example:
    """An example to look at or to listen to.

    Attributes:
        name: Its id.
        label: Its class.
        content: An image, uint8 `[H, W]` (grey) or `[H, W, 3]`, 0…255; or a clip, float32
            `[samples]`, about -1…1.
        sampling_rate_hz: Of a clip; None for an image.
    """

    name: str
    label: str
    content: np.ndarray
    sampling_rate_hz: int | None = None


class Gallery(Protocol):
    """Shows examples as the model gets them."""

    def training_examples(self, count: int) -> list[Example]:
        """The first examples of the first epoch, augmented."""

    def test_examples(self, rows: Sequence[int]) -> list[Example]:
        """Rows of the test split, not augmented."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it.

    Attributes:
        directory: The run directory.
        options: The configuration's `tracking` section.
        num_records: Records that a resumed run already has.
        gallery: Shows examples; None where there is no data at hand.
        warn: Says what went wrong, and writes it into the run's record.
    """

    directory: Path
    options: TrackingOptions
    num_records: int = 0
    gallery: Gallery | None = None
    warn: Callable[[str], None] = lambda _: None


class Tracker(ABC):
    """Takes the records of one run; a listener of the engines."""

    def where(self) -> str | None:
        """Where the run can be looked at: an address, or a folder and what to type; else None."""
        return None

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:  # noqa: B027
        """After each step; most trackers care for records alone."""

    @abstractmethod
    def on_record(self, record: Record) -> None:
        """Takes one record: `step`, `epoch`, and metrics named `split/name`."""

    def on_results(self) -> None:  # noqa: B027
        """The test is scored, and the run directory holds everything but the final status."""

    @abstractmethod
    def finish(self, status: str, error: str | None = None) -> None:
        """The run has ended: `finished`, `stopped` or `failed`, and why."""


class Trackers(Tracker):
    """All trackers of a run behind one door; see to it that none of them ends the run.

    Args:
        trackers: By name. `jsonl` is the run's own history: a fault of it is a fault of the run.
        warn: Says what went wrong.
    """

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        self._trackers = dict(trackers)
        self._warn = warn

    def places(self) -> dict[str, str]:
        """Where the run can be looked at, by tracker; those that know."""
        places = {}
        for name, tracker in self._trackers.items():
            with suppress(Exception):  # an address that can't be told ends no run
                where = tracker.where()
                if where is not None:
                    places[name] = where
        return places

    def on_record(self, record: Record) -> None:
        """Hands the record on."""
        self._tell("on_record", record)

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """Hands the step on."""
        self._tell("on_step", step, loss, model)

    def on_results(self) -> None:
        """Hands the results on."""
        self._tell("on_results")

    def finish(self, status: str, error: str | None = None) -> None:
        """Finishes each of them."""
        self._tell("finish", status, error)

    @contextmanager
    def until_the_end(self) -> Iterator[None]:
        """Finishes all of them when the block ends, however it ends."""
        try:
            yield
        except BaseException as error:
            self.finish(status_after(error), f"{type(error).__name__}: {error}")
            raise
        self.finish("finished")

    def _tell(self, what: str, *words: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, what)(*words)
            except Exception as error:
                if name == "jsonl":
                    raise
                del self._trackers[name]
                told = tell_error(error)
                self._warn(f"trackers: {name} failed and hears no more of this run ({told})")
                if what != "finish":
                    close_failed(tracker, told)


def close_failed(tracker: Tracker, error: str) -> None:
    """Ends what a tracker that has failed left open, such as its run at a server, if it can."""
    with suppress(Exception):
        tracker.finish("failed", error)


def status_after(error: BaseException) -> str:
    """What a run's status is after an error: `stopped` if somebody wanted it, else `failed`."""
    return "stopped" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"


def check_trackers(names: tuple[str, ...], options: TrackingOptions) -> None:
    """Makes sure that each tracker can start; needs neither data nor model.

    Raises:
        UserError: A package or a key is missing.
    """
    for name in names:
        kind("trackers", name).check(options)


def describe_trackers(names: tuple[str, ...], options: TrackingOptions) -> str:
    """The trackers of a run for its plan, each with its mode where it has one."""
    phrases = []
    for name in dict.fromkeys(("jsonl", *names)):
        mode_of = getattr(kind("trackers", name), "mode_of", None)
        phrases.append(name if mode_of is None else f"{name} ({mode_of(options)})")
    return ", ".join(phrases)


def start_trackers(names: tuple[str, ...], run: TrackedRun) -> Trackers:
    """Starts trackers by name.

    Args:
        names: Kinds of this room; `jsonl` is always among them, since the run directory needs it.
        run: What they track; records that its resumed run no longer has are dropped.
    """
    started: dict[str, Tracker] = {}
    for name in dict.fromkeys(("jsonl", *names)):
        try:
            tracker: Tracker | None = kind("trackers", name).start(run)
        except Exception as error:
            if name == "jsonl":
                raise
            run.warn(f"trackers: {name} could not start, and hears nothing ({tell_error(error)})")
        else:
            if tracker is not None:
                started[name] = tracker
    return Trackers(started, run.warn)


def require_package(tracker: str, package: str) -> None:
    """Makes sure that a tracker's package is installed.

    Raises:
        UserError: It isn't.
    """
    found = find_spec(package)
    if found is None or found.origin is None:  # a folder of that name is no package
        raise UserError(
            f"trackers: {tracker} needs the package {package}, which isn't installed. Install it "
            f"with: pip install 'hf_finetune[{tracker}]'"
        )


def tell_error(error: Exception) -> str:
    """An error on one line, without what looks like a key."""
    from hf_finetune.runs.environment import remove_secrets

    lines = str(error).strip().splitlines()
    return remove_secrets(f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
