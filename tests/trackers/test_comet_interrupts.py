"""Ctrl-C comes at any line; no record is lost to Comet by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comet_records import in_history, logged, only
from servers.comet import serve_comet

from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import load_unfinished_run
from hf_finetune.trackers import comet

KEY = "n0tArealKey0fAnyb0dy12345"


def test_a_record_that_was_cut_off_arrives_after_the_resume(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "no_such_file"))
    monkeypatch.setenv("COMET_API_KEY", KEY)
    read, cut = comet.read_record, []

    def read_once_cut_off(record: Any) -> Any:
        if "validation/loss" in record and not cut:
            cut.append(record["step"])
            raise KeyboardInterrupt
        return read(record)

    monkeypatch.setattr(comet, "read_record", read_once_cut_off)
    settings = {"examples": 0, "examples_per_cell": 0}
    config = make_config(trackers=["comet"], tracking__comet=settings, run__pictures=False)
    with serve_comet() as server:
        server.keys.add(KEY)
        monkeypatch.setenv("COMET_URL_OVERRIDE", server.address)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, quiet=True)
        unfinished = load_unfinished_run(Path(config.run.directory) / "small")
        run = finetune(unfinished.config, resume_from=unfinished.path, quiet=True).run
        arrived = {metric[:3] for metric in logged(only(server).metrics)}
    scored = {row[:3] for row in in_history(run) if row[0] == "validation/loss"}
    assert len(cut) == 1
    assert scored <= arrived
