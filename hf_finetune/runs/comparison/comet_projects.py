"""Reads the experiments of an online Comet project for a comparison, through `comet_ml.API`.

Place: one of the readers behind `sources`; key, address and first contact are those of the tracker
(`trackers.comet_client`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from hf_finetune.errors import UserError
from hf_finetune.runs.comparison.comet_archives import OWN_PARAMETERS
from hf_finetune.runs.comparison.experiments import Experiment, make_record
from hf_finetune.runs.comparison.record import PROJECT, RunRecord
from hf_finetune.trackers.comet_client import NO_KEY, find_key, find_obstacle, import_comet

PREFIX = "comet:"


def read_project(word: str, warn: Callable[[str], None]) -> list[RunRecord]:
    """Reads the experiments of a project, archived ones left out.

    Args:
        word: `comet:workspace/project`, or with `/key` a single experiment.
        warn: Told of experiments that can't be read; the others are shown.

    Raises:
        UserError: The word is none of these, there is no key, or Comet doesn't answer or doesn't
            know the project.
    """
    parts = word.removeprefix(PREFIX).split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise UserError(f"{word}: must be comet:workspace/project, or comet:workspace/project/key.")
    experiments = _list_experiments(word, *parts)
    if not experiments:
        warn(f"{word}: the project has no experiments.")
    records = []
    for experiment in experiments:
        source = f"{PREFIX}{parts[0]}/{parts[1]}/{experiment.key}"
        try:
            found = _read(experiment, source)
        except Exception as error:  # whatever comet_ml raises; its text may hold the key
            warn(f"{source}: can't be read ({type(error).__name__}); it is left out.")
            continue
        records.append(make_record(found, warn))
    return records


def _list_experiments(word: str, workspace: str, project: str, key: str = "") -> list[Any]:
    secret = find_key()
    if secret is None:
        raise UserError(f"{word}: Comet's key is missing. {NO_KEY}.")
    obstacle = find_obstacle()
    if obstacle is not None:
        raise UserError(f"{word}: {obstacle}. Compare run directories, or try again later.")
    comet_ml = import_comet()
    logging.getLogger("comet_ml").setLevel(logging.CRITICAL)
    try:
        api = comet_ml.API(api_key=secret)
        if key:
            found = api.get_experiment(workspace, project, key)
            return [] if found is None else [found]
        return list(api.get_experiments(workspace, project))
    except Exception as error:  # whatever comet_ml raises; its text may hold the key
        reason = {"NotFound": "no such workspace or project", "Unauthorized": "the key is refused"}
        name = type(error).__name__
        raise UserError(
            f"{word}: Comet can't show it ({reason.get(name, name)}). Check the workspace, the "
            "project and the key."
        ) from None


def _read(experiment: Any, source: str) -> Experiment:
    metadata = experiment.get_metadata()
    return Experiment(
        key=experiment.key,
        name=metadata.get("experimentName") or experiment.key,
        source=source,
        origin=PROJECT,
        state=_read_state(metadata),
        started_ms=metadata.get("startTimeMillis"),
        parameters=_read_summaries(experiment.get_parameters_summary()),
        others=_read_summaries(experiment.get_others_summary()),
        metrics=[
            (metric["metricName"], metric["metricValue"], metric["step"])
            for metric in experiment.get_metrics()
        ],
        tags=list(experiment.get_tags() or ()),
    )


def _read_state(metadata: dict[str, Any]) -> str:
    if metadata.get("running"):
        return "running"
    return "crashed" if metadata.get("hasCrashed") else "finished"


def _read_summaries(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        summary["name"]: summary["valueCurrent"]
        for summary in summaries
        if summary["name"] not in OWN_PARAMETERS
    }
