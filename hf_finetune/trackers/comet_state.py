"""How far a run has come at Comet: comet.json in the run directory.

Place: written by the `comet` tracker and by `comet upload`, read by both; it holds no key.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from hf_finetune.errors import UserError

STATE, FOLDER = "comet.json", "comet"


@dataclass
class CometState:
    """What is known of a run's experiment.

    Attributes:
        directory: The run directory.
        experiment_key: The experiment's key: the run's id.
        mode: online or offline, as last opened.
        workspace: Where Comet keeps it, if that was said.
        project: The project.
        url: Its page, once it is online.
        num_records: Records of the history that have reached Comet.
        has_start: Whether the example images (or clips) and the text have reached Comet.
        archives: Offline archives by file name, with the time when they were sent, or None.
    """

    directory: Path
    experiment_key: str
    mode: str = "offline"
    workspace: str | None = None
    project: str | None = None
    url: str | None = None
    num_records: int = 0
    has_start: bool = False
    archives: dict[str, str | None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder of the archives."""
        return self.directory / FOLDER

    @property
    def pending(self) -> list[Path]:
        """Archives that are there, whole, and were not sent."""
        paths = [self.folder / name for name, sent in self.archives.items() if sent is None]
        return [path for path in paths if is_whole(path)]

    def update(self, **facts: Any) -> None:
        """Sets attributes, and writes the file whole or not at all."""
        for name, value in facts.items():
            setattr(self, name, value)
        content = {name: value for name, value in asdict(self).items() if name != "directory"}
        unfinished = self.directory / f".{STATE}.unfinished"
        unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self.directory / STATE)

    def list_archives(self) -> dict[str, int]:
        """Archives that are there, of a killed run's too, by name, with their time in ns."""
        return {path.name: path.stat().st_mtime_ns for path in self.folder.glob("*.zip")}

    def supersede(self, archive: str | None) -> None:
        """Takes note of a new archive; those not sent hold less of the same run, and go."""
        sent = {name: when for name, when in self.archives.items() if when is not None}
        for name in self.list_archives().keys() - sent.keys() - {archive}:
            (self.folder / name).unlink()
        self.update(archives={**sent, **({archive: None} if archive else {})})


def is_whole(archive: Path) -> bool:
    """Whether comet_ml has finished an archive: it makes an empty one first."""
    try:
        with ZipFile(archive) as content:
            return "experiment.json" in content.namelist()
    except (OSError, BadZipFile):
        return False


def read_state(directory: Path) -> CometState:
    """The state of a run's experiment; a new one where there is none yet.

    Raises:
        UserError: comet.json can't be read.
    """
    path = directory / STATE
    if not path.is_file():
        status = json.loads((directory / "run.json").read_text("utf-8"))
        return CometState(directory, status.get("run_id") or uuid.uuid4().hex)
    try:
        return _parse(directory, path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # JSON's and pydantic's errors are ValueErrors
        reason = ": ".join(str(error).splitlines()[:2])
        raise UserError(
            f"{path}: damaged, or written by another version ({reason}). Move the file away; "
            "'hf-finetune comet upload' then sends the whole run to its experiment."
        ) from error


def _parse(directory: Path, text: str) -> CometState:
    from pydantic import TypeAdapter

    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    known = {entry.name for entry in fields(CometState)} - {"directory"}
    unknown = sorted(content.keys() - known)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}")
    content["directory"] = directory
    return TypeAdapter(CometState).validate_python(content)
