"""The verb `compare`: runs beside each other, in a table and a picture."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hf_finetune.verbs import Verbs, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `compare`."""
    parser = add_verb(verbs, "compare", _compare, "show runs beside each other")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run, a folder of runs, a pattern, a Comet archive (.zip), comet:workspace/project",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="metric to show, such as macro_f1; the first sorts, by validation (may be repeated)",
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="TAG", help="only runs with it (repeatable)"
    )
    parser.add_argument("--by-run", action="store_true", help="don't sum up seeds")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the curves over each other")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--csv", action="store_true", help="print a line for each row as CSV")


def _compare(arguments: argparse.Namespace) -> int:
    from hf_finetune.runs.comparison import compare_runs
    from hf_finetune.runs.comparison.table import dump_csv, dump_json, format_comparison

    comparison = compare_runs(arguments.runs, arguments.metric, arguments.tag, arguments.by_run)
    for warning in comparison.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.json:
        print(dump_json(comparison))
    elif arguments.csv:
        print(dump_csv(comparison), end="")
        print(*comparison.notes, sep="\n", end="\n" * bool(comparison.notes), file=sys.stderr)
    else:
        print(format_comparison(comparison))
    if arguments.plot is not None:
        from hf_finetune.runs.comparison.curves import draw_comparison

        draw_comparison(comparison, Path(arguments.plot))
        print(f"curves: {arguments.plot}", file=sys.stderr)
    return 0
