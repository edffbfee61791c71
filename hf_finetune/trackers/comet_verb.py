"""The verb `comet` of the command line: its words, and what it prints.

Place: `cli` adds it to its verbs. Nothing of Comet is imported before it is used.
"""

from __future__ import annotations

import argparse


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds the words of `comet` to its parser."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    told = "send runs that were recorded offline, each once"
    upload = actions.add_parser("upload", help=told, description=told.capitalize() + ".")
    upload.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run directory, or the folder of a name"
    )


def comet(arguments: argparse.Namespace) -> int:
    """Sends runs and says what was done with each."""
    from hf_finetune.trackers.comet_upload import upload_run

    for run in arguments.runs:
        print(upload_run(run), flush=True)
    return 0
