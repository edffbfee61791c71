"""The verb `comet`: sends offline runs to Comet."""

from __future__ import annotations

import argparse
import sys

from hf_finetune.verbs import Verbs, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `comet`."""
    parser = add_verb(verbs, "comet", _comet, "send offline runs to Comet")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    told = "send runs that were recorded offline, each once"
    upload = actions.add_parser("upload", help=told, description=told.capitalize() + ".")
    upload.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run, a folder of runs, or an archive (.zip)"
    )
    upload.add_argument(
        "--workspace", metavar="NAME", help="in place of the one the run was recorded for"
    )
    upload.add_argument("--project", metavar="NAME", help="likewise")


def _comet(arguments: argparse.Namespace) -> int:
    from hf_finetune.trackers.comet_upload import Destination, upload_all

    destination = Destination(arguments.workspace, arguments.project)

    def tell(line: str) -> None:
        print(line, flush=True)

    def warn(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    return 2 if upload_all(arguments.runs, destination, tell, warn) else 0
