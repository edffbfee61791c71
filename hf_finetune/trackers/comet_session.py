"""Opens and closes a run's Comet experiment: which mode, with what key, over which network.

Place: the only file that starts an experiment of comet_ml. Its own automatic logging stays off:
what is sent is what `trackers.comet` lists.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from hf_finetune.errors import UserError
from hf_finetune.trackers.comet_client import (
    NO_KEY,
    Losses,
    explain_refusal,
    find_key,
    find_obstacle,
    find_setting,
    import_comet,
    only_errors,
    refused_workspace,
)
from hf_finetune.trackers.comet_state import CometState, read_state
from hf_finetune.trackers.facts import title_of
from hf_finetune.trackers.options import PROJECT, CometOptions

# How long the end waits before it asks again whether Comet is there, and how long in all.
_PATIENCE_SECONDS, _MOST_SECONDS = 15, 3600
# What COMET_MODE meant to older versions of transformers, and what it means to newer ones.
_OLD_MODES = {"online": "auto", "offline": "offline", "disabled": "off"}
_NEW_MODES = ("get_or_create", "get", "create")


@dataclass
class Session:
    """An open experiment.

    Attributes:
        experiment: comet_ml's.
        state: How far the run has come at Comet.
        is_online: Whether it is sent while the run goes on.
        earlier: The archives that were there before, as `list_archives` has them.
        warn: Says what went wrong.
        was_cut_off: Whether the network went away, so that an archive holds what is missing.
        losses: What Comet didn't take of what was sent.
    """

    experiment: Any
    state: CometState
    is_online: bool
    earlier: dict[str, int]
    warn: Callable[[str], None]
    was_cut_off: bool = False
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        """Hears from now on what Comet doesn't take."""
        if self.is_online:
            logging.getLogger("comet_ml").addHandler(self.losses)

    def where(self) -> str:
        """Where the experiment can be looked at: its page, or its archive and how to send it."""
        if self.is_online and not self.was_cut_off:
            return self.state.url or "online"
        return f"offline in {_shorten(self.state.folder)}. {how_to_send(self.state.directory)}"

    def mark_crashed(self, error: str) -> None:
        """Shows the experiment as crashed."""
        # comet_ml does this itself from sys.excepthook, which a program's own handling comes
        # before; it has no public call for it.
        self.experiment._report_experiment_error(error, has_crashed=True)

    def register_model(self, name: str) -> None:
        """Registers the model that was logged under this name."""
        self.experiment.register_model(name)

    def close(self, num_records: int) -> None:
        """Sends what is left, and notes what has arrived.

        Args:
            num_records: Records of the history that the experiment was given.
        """
        with only_errors():
            if self.is_online:
                self._hand_over()
            self.experiment.end()
        logging.getLogger("comet_ml").removeHandler(self.losses)
        # By time: names repeat, since comet_ml draws them from the generator that the run seeds.
        written = [n for n, t in self.state.list_archives().items() if self.earlier.get(n) != t]
        self.state.supersede(written[-1] if written else None)
        self.was_cut_off = self.is_online and bool(written)
        if self.was_cut_off:
            _drop_uploads(self.experiment)
            _make_resumable(self.state.folder / written[-1])
            self.warn(
                f"tracking.comet: the network went away during the run; what is missing at Comet "
                f"stands in {_shorten(self.state.folder)}. {how_to_send(self.state.directory)}"
            )
        elif self.is_online and self.losses.told:
            self.state.update(num_records=0, has_start=False)  # which of it is there, nobody knows
            self.warn(
                f"tracking.comet: Comet took the run, but {self.losses.describe()}. To send all of "
                f"it anew (metrics that have arrived then stand there twice): "
                f"{command_to_send(self.state.directory)}"
            )
        elif self.is_online:
            self.state.update(num_records=num_records, has_start=True)

    def _hand_over(self) -> None:
        """Waits until all has been sent, as long as the server is there.

        A slow network has its time here, a dead one doesn't: what `end` waits for is short.
        """
        until = time.monotonic() + _MOST_SECONDS
        # Without its thread (a full disk ends it) comet_ml would wait for ever.
        while self.experiment.streamer.is_alive():
            is_done = self.experiment.flush(timeout=_PATIENCE_SECONDS)
            if is_done or find_obstacle() is not None or time.monotonic() > until:
                return


def check_session(options: CometOptions) -> None:
    """Makes sure that an experiment can be opened.

    Raises:
        UserError: The mode is online, and there is no key.
    """
    mode, _ = settle_mode(options)
    if mode != "off":
        import_comet()  # before Trainer, which imports it too, without these settings
    if mode == "online" and options.mode == "online" and find_key() is None:
        raise UserError(
            f"tracking.comet.mode: online needs Comet's key, and there is none. {NO_KEY}; or write "
            "tracking.comet.mode: offline"
        )


def open_session(
    directory: Path, options: CometOptions, warn: Callable[[str], None]
) -> Session | None:
    """Opens the run's experiment; offline where online fails.

    Args:
        directory: The run directory.
        options: The configuration's `tracking.comet`.
        warn: Says what was survived.

    Returns:
        The session; None where the mode is off.
    """
    mode, note = settle_mode(options)
    if note is not None:
        warn(note)
    if mode == "off":
        return None
    directory = directory.resolve()
    state = read_state(directory)
    workspace = options.workspace or find_setting("workspace")
    project = options.project or find_setting("project_name") or PROJECT
    state.workspace, state.project = workspace, project
    earlier = state.list_archives()
    experiment = _open_online(state, options, warn) if mode == "online" else None
    is_online = experiment is not None
    if experiment is None:
        experiment = _start(state, options, online=False)
    url = (experiment.url or None) if is_online else state.url
    state.update(mode="online" if is_online else "offline", url=url)
    return Session(experiment, state, is_online, earlier, warn)


def settle_mode(options: CometOptions) -> tuple[str, str | None]:
    """The mode that a run takes, and what there is to say about it.

    Returns:
        `online`, `offline` or `off`; and a sentence about COMET_MODE, where it is set.
    """
    said = os.environ.get("COMET_MODE", "").strip().lower()
    mode: str = options.mode
    note = None
    if said in _OLD_MODES:
        meant = _OLD_MODES[said]
        follows = f"taken as tracking.comet.mode: {meant}" if mode == "auto" else "not followed"
        mode = meant if mode == "auto" else mode
        note = (
            f"COMET_MODE={said} is a setting of older tutorials, {follows}. Unset COMET_MODE, and "
            f"write tracking.comet.mode: {mode}"
        )
    elif said and said not in _NEW_MODES:
        note = "COMET_MODE is set to something that Comet doesn't know, and not followed. Unset it"
    if mode == "auto":
        wants_offline = os.environ.get("COMET_START_ONLINE", "").strip().lower() in ("0", "false")
        mode = "offline" if wants_offline or find_key() is None else "online"
    return mode, note


def _drop_uploads(experiment: Any) -> None:
    """Lets go of files that wait to be sent: they are in the archive.

    comet_ml would try each of them, over a dead network, before the process may exit; it has no
    public call for it.
    """
    streamer = getattr(experiment.streamer, "online_streamer", None)
    uploads = getattr(streamer, "_file_upload_manager", None)
    if uploads is not None:
        uploads.close()
        for upload in uploads.upload_results:
            upload.future.cancel()


def how_to_send(directory: Path, *options: str) -> str:
    """What to type so that a run's archive reaches Comet."""
    return f"Send it with: {command_to_send(directory, *options)}"


def command_to_send(directory: Path, *options: str) -> str:
    """The command that sends what Comet doesn't have of a run."""
    return shlex.join(["hf-finetune", "comet", "upload", str(_shorten(directory)), *options])


def _shorten(path: Path) -> Path:
    """The path from the current folder, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _open_online(
    state: CometState, options: CometOptions, warn: Callable[[str], None]
) -> Any | None:
    """The experiment at Comet; None, and a warning, where it can't be had."""
    obstacle, words = find_obstacle(), tuple[str, ...]()
    if obstacle is None:
        try:
            with only_errors(logging.CRITICAL):
                experiment = _start(state, options, online=True)
            if experiment.alive:
                return experiment
            obstacle = "Comet didn't take the experiment"
        except Exception as error:
            obstacle = explain_refusal(error, "tracking.comet.workspace (or COMET_WORKSPACE)")
            if refused_workspace(error) is not None:
                words = ("--workspace", "NAME")
    warn(
        f"tracking.comet: {obstacle}. The run is recorded offline, in {_shorten(state.folder)}. "
        f"{how_to_send(state.directory, *words)}"
    )
    return None


def _start(state: CometState, options: CometOptions, online: bool) -> Any:
    comet_ml = import_comet()
    state.folder.mkdir(exist_ok=True)
    environment = options.log_environment
    config = comet_ml.ExperimentConfig(
        name=options.name or title_of(state.directory),
        tags=list(options.tags),
        offline_directory=str(state.folder),
        log_code=options.log_code,
        log_env_details=environment,
        log_env_host=environment,
        auto_output_logging="simple" if options.log_output else False,
        log_graph=False,
        parse_args=False,  # the command line is in environment.json, without secrets
        log_git_metadata=False,
        log_git_patch=False,
        auto_param_logging=False,
        auto_metric_logging=False,
        auto_log_co2=False,
        display_summary_level=0,
    )
    experiment = comet_ml.start(
        online=online,
        api_key=find_key() if online else None,
        workspace=state.workspace,
        project_name=state.project,
        experiment_key=state.experiment_key,
        mode="get_or_create",
        experiment_config=config,
    )
    if not environment:
        experiment.send_notification = _nameless(experiment.send_notification)
    return experiment


def _nameless(send: Callable[..., None]) -> Callable[..., None]:
    """Comet's notice of the end (it may send mails), without the user's name on this machine."""

    def send_nameless(title: str, *words: Any, **named: Any) -> None:
        send(title.rpartition(" - ")[2], *words, **named)

    return send_nameless


def _make_resumable(archive: Path) -> None:
    """Lets an archive be sent to an experiment that is there already.

    comet_ml writes one when the network goes away, and then refuses to send it, since the
    experiment exists.
    """
    mended = archive.with_name(f".{archive.name}.unfinished")
    with ZipFile(archive) as old, ZipFile(mended, "w", ZIP_DEFLATED) as new:
        for name in old.namelist():
            content: bytes | str = old.read(name)
            if name == "experiment.json":
                content = json.dumps(json.loads(content) | {"resume_strategy": "get_or_create"})
            new.writestr(name, content)
    mended.replace(archive)
