"""The verb `comet`: sends offline runs to Comet."""

from __future__ import annotations

import argparse

from hf_finetune.verbs import Verbs, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `comet`."""
    parser = add_verb(verbs, "comet", _comet, "send offline runs to Comet")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    told = "send runs that were recorded offline, each once"
    upload = actions.add_parser("upload", help=told, description=told.capitalize() + ".")
    upload.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run directory, or the folder of a name"
    )


def _comet(arguments: argparse.Namespace) -> int:
    from hf_finetune.trackers.comet_upload import upload_run

    for run in arguments.runs:
        print(upload_run(run), flush=True)
    return 0
